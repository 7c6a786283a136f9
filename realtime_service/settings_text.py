"""How text becomes a setting: variables, files, lists, URLs, keys.

Law: no message quotes the text; it may hold a password.
"""

import json
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_core import PydanticCustomError

from realtime_service.domain.errors import SettingsError

PREFIX: Final = "REALTIME_"

Algorithm = Literal[
    "HS256",
    "HS384",
    "HS512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]
"""JWS algorithms (RFC 7518 §3.1, RFC 8037); `none` is not among them, and never will be."""


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _list(value: object) -> object:
    """Read `a,b` or `["a","b"]`."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return [part for part in (part.strip() for part in value.split(",")) if part]
    try:
        return json.loads(value)
    except ValueError:
        raise PydanticCustomError("list", "must be a comma-separated or a JSON list") from None


def _pem(value: SecretStr) -> SecretStr:
    """Undo the `\\n` of files and dashboards that hold one line a variable."""
    return SecretStr(value.get_secret_value().replace("\\n", "\n"))


def url(*schemes: str) -> AfterValidator:
    """A URL with one of these schemes and a host; with a password only where the setting is a secret."""

    def check(value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        try:
            parts = urlsplit(text)
            good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
            open_password = isinstance(value, str) and "@" in parts.netloc
        except ValueError:  # its text quotes the URL
            good = open_password = False
        if open_password:
            raise PydanticCustomError("url", "must hold no user and no password: it is not kept secret")
        if not good:
            expected = " or ".join(f"{scheme}://" for scheme in schemes)
            raise PydanticCustomError("url", f"must be a URL that starts with {expected} and names a host")
        return value

    return AfterValidator(check)


def _origin(text: str) -> str:
    """As browsers write it (RFC 6454 §6.1): scheme, host and a port that is not the usual one."""
    wrong = PydanticCustomError("origin", "must hold origins such as https://app.example.org")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise wrong from None
    extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in ("http", "https") or not parts.hostname or extra:
        raise wrong
    return f"{parts.scheme}://{parts.netloc}".lower()


def _network(text: object) -> object:
    try:
        return ip_network(text) if isinstance(text, str) else text
    except ValueError:
        raise PydanticCustomError("network", "must hold networks such as 10.0.0.0/8 or 10.1.2.3") from None


Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Origin = Annotated[str, AfterValidator(_origin)]
LowerCase: Final = BeforeValidator(_lower)
"""`INFO` and `info` are the same."""
Listed: Final = BeforeValidator(_list)
OneLinePem: Final = AfterValidator(_pem)

_SERVICE_LINK = re.compile(r"REALTIME(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)\Z")


def own_variables(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Our variables that are set.

    Without those of Kubernetes, which gives every pod `REALTIME_PORT=tcp://10.0.0.1:80` and the like for a Service that
    is named `realtime…` (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
    """
    in_kubernetes = "KUBERNETES_SERVICE_HOST" in env
    for variable, text in sorted(env.items()):
        if not variable.startswith(PREFIX) or variable.startswith("REALTIME_TEST_") or not text:
            continue
        if in_kubernetes and (_SERVICE_LINK.match(variable) or text.startswith(("tcp://", "udp://"))):
            continue
        yield variable, text


def read_secret(variable: str, path: str) -> str:
    """A secret from a file, without the line end that editors and `echo` leave. Never quotes the path."""
    try:
        text = Path(path).read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{variable}: cannot read the file: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"{variable}: the file is not UTF-8 text") from None
    if not text:
        raise SettingsError(f"{variable}: the file is empty")
    return text


def trusting(name: str, url: str, ca_file: Path | None, scheme: str) -> str:
    """A URL of that scheme with the file of trusted authorities as parameter `name`, unless it names one."""
    parts = urlsplit(url)
    if ca_file is None or not parts.scheme.startswith(scheme) or name in dict(parse_qsl(parts.query)):
        return url
    added = urlencode({name: str(ca_file)})
    return parts._replace(query=f"{parts.query}&{added}" if parts.query else added).geturl()
