"""The settings: one frozen object, read once from `REALTIME_…` variables, handed down in pieces.

Law: a wrong, misspelt or contradictory variable stops the start, with one line that names it. Secrets are neither
printed nor quoted, not even when they are wrong. An empty variable counts as unset (compose files write `${X:-}`).
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from realtime_service.domain.errors import SettingsError
from realtime_service.settings_text import (
    PREFIX,
    Algorithm,
    Listed,
    LowerCase,
    Network,
    OneLinePem,
    Origin,
    own_variables,
    read_secret,
    trusting,
    url,
)

__all__ = ["Settings", "SettingsError", "load_settings", "require_token_settings", "settings_table"]


def _default_algorithms(given: dict[str, Any]) -> tuple[Algorithm, ...]:
    return ("RS256", "ES256") if given.get("jwt_public_key") or given.get("jwt_jwks_url") else ("HS256",)


class Settings(BaseSettings):
    """Everything that can be set; `load_settings` fills it from the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on. This machine only, until somebody decides otherwise; containers set `0.0.0.0`."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port to listen on. 0 takes a free one, for tests."""
    ca_file: FilePath | None = None
    """PEM file of the authorities whose certificates the broker (`amqps://`) and PostgreSQL (`sslmode=verify-full`) may
    show. Unset, the system's. HTTPS to others goes by the system's, or by `SSL_CERT_FILE`."""
    amqp_url: Annotated[SecretStr, url("amqp", "amqps")] = SecretStr("amqp://guest:guest@127.0.0.1:5672/")
    """RabbitMQ, with user and password. The default is a fresh broker's own user, which works on its machine only."""
    management_url: Annotated[SecretStr, url("http", "https")] | None = None
    """RabbitMQ's management API, with user and password. Makes the status list every waiting queue; unset, only those
    of diagnoses that the replica that answers has seen."""
    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///realtime.db")
    """The database with `diagnoses(id, patient_id)`: `postgresql://…` or `sqlite:///…`. The default is a file, so that
    the service runs without a server."""
    jwt_secret: SecretStr | None = None
    """Shared secret of HS256 tokens, at least 32 bytes (RFC 7518 §3.2). No default: a known secret opens every door."""
    jwt_public_key: Annotated[SecretStr, OneLinePem] | None = None
    """PEM public key of RS256 or ES256 tokens, instead of a secret: this service then cannot forge tokens."""
    jwt_jwks_url: Annotated[str, url("https", "http")] | None = None
    """Where the identity provider publishes its keys (RFC 7517), instead of a fixed key: they can then rotate. Plain
    `http` only where nobody can tamper with the answer."""
    jwt_algorithms: Annotated[tuple[Algorithm, ...], Listed] = Field(
        default_factory=_default_algorithms, min_length=1
    )
    """Accepted signatures, comma-separated or a JSON list. By default HS256 with a secret, RS256 and ES256 with a key
    or a JWKS. Fixed here because a token must not choose (RFC 8725 §3.1)."""
    jwt_audience: str | None = None
    """The `aud` a token must carry. Unset, it is not looked at; set it where one issuer serves several services."""
    jwt_issuer: str | None = None
    """The `iss` a token must carry. Unset, it is not looked at."""
    jwt_leeway_seconds: float = Field(0, ge=0, le=300)
    """Seconds a token is good beyond its `exp`, where clocks differ. `nbf` and `iat` may always be 5 s ahead."""
    backlog_limit: int = Field(100, ge=1, le=10_000)
    """Events that wait in one queue; the newest are kept. Existing queues keep the limit they were made with."""
    queue_type: Annotated[Literal["classic", "quorum"], LowerCase] = "classic"
    """Type of new queues. Quorum survives the loss of a broker node, at a cost that hurts beyond some 5,000 queues."""
    heartbeat_seconds: float = Field(25, ge=1, le=600)
    """Seconds of silence after which a connection is pinged: below the 30–60 s at which proxies and phone networks
    drop idle connections."""
    receipt_timeout_seconds: float = Field(5, ge=0.1, le=600)
    """Seconds a client may leave an event unproven before its connection is presumed dead. Must stay far below the
    broker's `consumer_timeout` (30 min)."""
    require_receipts: bool = True
    """Whether connections that never answer PINGs are closed (4408). Without, their events count as received once
    written: a half-open connection then loses them."""
    drain_seconds: float = Field(10, ge=0, le=3600)
    """Seconds between SIGTERM and the last close: balancers notice `/readyz`, clients leave spread over the rest. Must
    stay below the orchestrator's grace period (Kubernetes: 30 s)."""
    max_connections: int = Field(20_000, ge=1, le=1_000_000)
    """Connections this replica holds; further ones are told to come back (1013). Bounds memory and file descriptors."""
    max_connections_per_user: int = Field(10_000, ge=1, le=1_000_000)
    """Connections one user holds on this replica; further ones are told to come back (1013). The default keeps one
    account from filling a replica; a hundred are plenty for people."""
    allowed_origins: Annotated[tuple[Origin, ...], Listed] = ()
    """Origins of the pages that may open a WebSocket, comma-separated; a browser on another page is refused (1008). By
    default any: tokens are never sent by themselves, as cookies are. Apps send no `Origin` and are not concerned."""
    trusted_proxies: Annotated[tuple[Network, ...], Listed] = ()
    """Addresses or networks of the load balancers, comma-separated. `X-Forwarded-For` is believed from these alone;
    without, all clients behind a balancer have its address."""
    address_connections_per_second: float = Field(0, ge=0, le=100_000)
    """New connections a second from one address for long, and 30 times as many at once; beyond, 429. 0: no limit. Set
    it with `REALTIME_TRUSTED_PROXIES`, and to what a clinic behind one address needs."""
    address_refusals_per_second: float = Field(10, gt=0, le=100_000)
    """Refusals (1008) a second that one address may cause for long, and 30 times as many at once; beyond, its
    connections get 429 for as long. Those with a good token are not counted."""
    auth_timeout_seconds: float = Field(5, ge=0.1, le=60)
    """Seconds a connection without a token may take to send its `auth` frame: strangers hold no sockets."""
    join_timeout_seconds: float = Field(10, ge=1, le=60)
    """Seconds from a good token to the welcome: database, first contact with the diagnosis (up to 5 s), replicas."""
    ownership_recheck_seconds: float = Field(30, ge=0.1, le=55)
    """Seconds between two looks at whether diagnoses still belong to the users who watch them: a revoked one is closed
    (1008) within a minute. One query per 1,000 watched diagnoses."""
    max_unsent_bytes: int = Field(2 * 1024 * 1024, gt=1024 * 1024, le=64 * 1024 * 1024)
    """Bytes that may wait for one slow client before it is closed (1013). More than the 1 MiB that a window of events
    may hold: less would close healthy clients that receive a full backlog."""
    frames_per_second: float = Field(20, gt=0, le=10_000)
    """Frames a second a client may send for long; beyond, it is closed (4429). Frames that prove events are free."""
    frame_burst: int = Field(100, ge=1, le=100_000)
    """Frames a client may send at once: an app that wakes up sends several."""
    broadcasts_per_second: float = Field(100, gt=0, le=100_000)
    """Requests a second one caller may send to the broadcast routes for long; beyond, 429. AMQP has no such limit."""
    broadcast_burst: int = Field(200, ge=1, le=1_000_000)
    """Requests one caller may send at once: a task that recomputes a patient sends dozens."""
    new_devices_per_day: int = Field(20, ge=1, le=10_000)
    """New device queues a user may cause in 24 hours: each is durable, and a `client_id` costs nothing to invent."""
    publish_timeout_seconds: float = Field(5, ge=0.1, le=60)
    """Seconds to wait for the broker's confirm before a publish counts as failed."""
    console: bool = False
    """Whether `/console` shows operators how events flow. Anybody gets the page; what it shows needs the scope
    `operator`."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = "info"
    """Least severity that is logged."""
    log_format: Annotated[Literal["json", "console"], LowerCase] = "json"
    """`json` for machines, one object a line; `console` for people."""

    @field_validator("amqp_url", "database_url")
    @classmethod
    def _with_authorities(cls, given: SecretStr, info: ValidationInfo) -> SecretStr:
        """Hand the authorities down in the URLs: their users know no settings."""
        name, scheme = ("cafile", "amqps") if info.field_name == "amqp_url" else ("sslrootcert", "postgres")
        return SecretStr(trusting(name, given.get_secret_value(), info.data.get("ca_file"), scheme))

    @field_validator("jwt_algorithms")
    @classmethod
    def _one_family(cls, chosen: tuple[Algorithm, ...], info: ValidationInfo) -> tuple[Algorithm, ...]:
        """Refuse HS* beside a public key: whoever reads that key could sign with it (RFC 8725 §2.1)."""
        symmetric = {name.startswith("HS") for name in chosen}
        public = bool(info.data.get("jwt_public_key") or info.data.get("jwt_jwks_url"))
        if len(symmetric) > 1:
            raise PydanticCustomError("algorithms", "must not mix HS* with public-key algorithms")
        if public and True in symmetric:
            raise PydanticCustomError("algorithms", "must not hold HS* with a public key or a JWKS")
        if info.data.get("jwt_secret") and not public and False in symmetric:
            raise PydanticCustomError("algorithms", "must hold HS* only, with a shared secret")
        return chosen

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing by itself: `load_settings` is the one reader, so no test depends on its environment."""
        return (init_settings,)


def load_settings(env: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read the settings from `env`, by default the process' environment; overrides that are not None win.

    Secrets are also read from the file that `…_FILE` names. Raises `SettingsError`, one line a problem.
    """
    values: dict[str, object] = {}
    problems: list[str] = []
    for variable, text in own_variables(os.environ if env is None else env):
        field = _FIELDS.get(variable)
        if field is None:
            nearest = difflib.get_close_matches(variable, _FIELDS, n=1, cutoff=0)
            problems.append(f"{variable}: unknown; did you mean {nearest[0]}?")
        elif field in values:
            problems.append(f"{variable}: set either {_variable(field)} or {_variable(field)}_FILE, not both")
        else:
            try:
                values[field] = text if variable == _variable(field) else read_secret(variable, text)
            except SettingsError as error:
                problems.extend(error.problems)
    values.update((field, value) for field, value in overrides.items() if value is not None)
    settings, wrong = _validate(values)
    if settings is None or problems:
        raise SettingsError(*problems, *wrong)
    return settings


def _validate(values: Mapping[str, object]) -> tuple[Settings | None, list[str]]:
    """The settings, or what is wrong with them, one line a variable."""
    try:
        return Settings(**values), []  # type: ignore[arg-type]  # strings, which pydantic converts and checks
    except ValidationError as error:
        wrong: dict[str, str] = {}
        for found in error.errors(include_url=False, include_input=False, include_context=False):
            if found["type"] != "default_factory_not_called":  # follows from another problem
                wrong.setdefault(_variable(str(found["loc"][0])), found["msg"])
        return None, [f"{variable}: {message}" for variable, message in wrong.items()]


def require_token_settings(settings: Settings) -> None:
    """Refuse to serve without exactly one way to verify tokens, or with a secret that can be guessed.

    Raises `SettingsError`. The secret must be as long as the hash (RFC 7518 §3.2): 32 bytes for HS256.
    """
    ways = {name: getattr(settings, name) for name in ("jwt_secret", "jwt_public_key", "jwt_jwks_url")}
    given = [_variable(name) for name, value in ways.items() if value]
    if len(given) != 1:
        found = "none is" if not given else " and ".join(given) + " are"
        raise SettingsError(f"{' | '.join(map(_variable, ways))}: set exactly one of these; {found} set")
    if settings.jwt_secret:
        needed = max(int(name[2:]) // 8 for name in settings.jwt_algorithms)
        length = len(settings.jwt_secret.get_secret_value().encode())
        if length < needed:
            raise SettingsError(f"REALTIME_JWT_SECRET: must hold at least {needed} bytes, it holds {length}")


def settings_table() -> str:
    """The settings as a Markdown table for the README, with a line end behind it."""
    lines = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variable = f"`{_variable(name)}`" + (" (or `…_FILE`)" if _may_be_a_file(name) else "")
        meaning = " ".join((field.description or "").split())
        lines.append(f"| {variable} | {_default(field)} | {_allowed(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _may_be_a_file(name: str) -> bool:
    """Secrets may, and keys, whose many lines fit no variable."""
    return SecretStr in _types(Settings.model_fields[name].annotation)


def _types(annotation: object) -> Iterator[object]:
    """What `Annotated[X, …] | None` is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


_FIELDS: Final = {_variable(name): name for name in Settings.model_fields} | {
    f"{_variable(name)}_FILE": name for name in Settings.model_fields if _may_be_a_file(name)
}


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None:
        return "by kind of key"
    if default is None:
        return "unset"
    if isinstance(default, SecretStr):
        return f"`{default.get_secret_value()}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _allowed(field: FieldInfo) -> str:
    """Choices or range."""
    if field.annotation is bool:
        return "`true`, `false`"
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    signs = {"gt": ">", "ge": "≥", "le": "≤"}
    limits = ((signs[name], getattr(rule, name, None)) for rule in field.metadata for name in signs)
    return ", ".join(f"{sign} {limit:,}" for sign, limit in limits if limit is not None) or "text"
