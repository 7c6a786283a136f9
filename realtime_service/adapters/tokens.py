"""Tokens: a signed text becomes an `Identity`, or a refusal. The only user of PyJWT, with `jwks.py`.

Law (RFC 8725): the algorithms and the keys are chosen here and never by the token (§3.1, §3.10); what is not required
by name is not believed (PyJWT checks `exp`, `aud` and `iss` only where present, unless told to require them); nothing
but `NotAuthenticated` and `KeysUnavailable` leaves `verify`, whatever a stranger sends.
"""

import re
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

import jwt
from jwt.algorithms import AllowedPublicKeys

from contracts.ids import MAX_ID, ClientId, UserId, parse_client_id
from realtime_service.adapters.jwks import KeySet
from realtime_service.domain.errors import NotAuthenticated, SettingsError, TokenExpired, TokenFault
from realtime_service.domain.identity import Identity, Scope

AHEAD_SECONDS: Final = 5.0
"""How far `nbf` and `iat` may be ahead: an issuer's clock is never quite ours."""
MAX_TOKEN_CHARACTERS: Final = 16 * 1024
"""Longer ones are refused unread: parsing costs time before a signature is checked."""

USUAL_HEADER: Final = 512
"""Characters. Longer headers are not remembered: strangers choose them."""

MAX_EXPIRY: Final = 253_402_300_799
"""The last second of the year 9999. A later `exp` is a mistake (milliseconds, mostly) and would mean *never*."""

MIN_SECRET_BYTES: Final = 32  # as long as the hash of HS256 (RFC 7518 §3.2)

_ACCESS_TOKEN_TYPES: Final = {"jwt", "at+jwt", "application/at+jwt"}
_DIGITS: Final = re.compile(r"[1-9][0-9]{0,18}\Z")

_FAULTS: Final[dict[type[Exception], TokenFault]] = {
    jwt.InvalidSignatureError: TokenFault.SIGNATURE,
    jwt.InvalidKeyError: TokenFault.SIGNATURE,
    jwt.InvalidAlgorithmError: TokenFault.ALGORITHM,
    jwt.InvalidAudienceError: TokenFault.AUDIENCE,
    jwt.InvalidIssuerError: TokenFault.ISSUER,
    jwt.InvalidIssuedAtError: TokenFault.CLAIMS,
    jwt.ImmatureSignatureError: TokenFault.CLAIMS,
}
_MISSING: Final = {"aud": TokenFault.AUDIENCE, "iss": TokenFault.ISSUER}

Key = AllowedPublicKeys | bytes | jwt.PyJWK  # something that checks signatures of one algorithm


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be, besides signed."""

    algorithms: tuple[str, ...]
    """Names of RFC 7518 §3.1; never `none`."""
    audience: str | None = None
    issuer: str | None = None
    """The `aud` and `iss` to require; None: they are not looked at."""
    leeway_seconds: float = 0
    """By how much clocks may differ."""


class KeySource(Protocol):
    """Finds the key for a token's header."""

    async def key(self, algorithm: str, key_id: str | None, /) -> Key | None:
        """The key, or None: no such key. Raises `KeysUnavailable` when keys were never fetched."""
        ...


class FixedKey:
    """One secret or one PEM public key, prepared once for every configured algorithm that it fits."""

    def __init__(self, material: str, algorithms: Collection[str]) -> None:
        """Raises `SettingsError` when it fits none, is too short, or is a private key."""
        if "PRIVATE KEY-----" in material:
            raise SettingsError("REALTIME_JWT_PUBLIC_KEY: this is a private key; give the public one")
        self._keys = {name: key for name in algorithms if (key := _prepare(material, name)) is not None}
        if not self._keys:
            raise SettingsError(f"{_variable(algorithms)}: not a key for {', '.join(algorithms)}")

    async def key(self, algorithm: str, _key_id: str | None, /) -> Key | None:
        """The key; a token's `kid` is of no interest."""
        return self._keys.get(algorithm)


def _prepare(material: str, algorithm: str) -> Key | None:
    try:
        checks = jwt.get_algorithm_by_name(algorithm)
        key: Key = checks.prepare_key(material)
    except Exception:  # unreadable, of another kind, on an unknown curve: each parser has its own words
        return None
    if checks.check_key_length(key):
        raise SettingsError(f"{_variable([algorithm])}: too short for {algorithm} (RFC 7518 §3.2, §3.3)")
    return key


def _variable(algorithms: Collection[str]) -> str:
    symmetric = all(name.startswith("HS") for name in algorithms)
    return "REALTIME_JWT_SECRET" if symmetric else "REALTIME_JWT_PUBLIC_KEY"


class TokenVerifier:
    """Verifies tokens; a `domain.ports.Verifier`."""

    def __init__(self, keys: KeySource, rules: TokenRules) -> None:
        self._keys = keys
        self._rules = rules
        self._options: Any = {
            "require": ["exp", *(["aud"] if rules.audience else []), *(["iss"] if rules.issuer else [])],
            "verify_aud": rules.audience is not None,  # otherwise PyJWT refuses every token that has one
            "verify_iss": rules.issuer is not None,
            "verify_sub": False,  # it would refuse an integer
            "verify_jti": False,
            "enforce_minimum_key_length": True,
        }

    async def verify(self, token: str) -> Identity:
        """Who bears this token: checks signature, times, audience and issuer (RFC 7519 §7.2).

        Raises `TokenExpired`, other `NotAuthenticated`, or `KeysUnavailable`.
        """
        algorithm, key_id = self._read_header(token)
        key = await self._keys.key(algorithm, key_id)
        if key is None:
            raise NotAuthenticated(TokenFault.SIGNATURE)
        identity = identity_of(self._claims(token, key, algorithm), self._rules.leeway_seconds)
        if identity.expires_at <= time.time():
            raise TokenExpired
        return identity

    def _read_header(self, token: str) -> tuple[str, str | None]:
        """Algorithm and key id, both still unproven."""
        if not token:
            raise NotAuthenticated(TokenFault.MISSING)
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise NotAuthenticated(TokenFault.MALFORMED)
        try:
            encoded = token.partition(".")[0]
            header = (_header if len(encoded) <= USUAL_HEADER else _parsed_header)(encoded)
        except Exception:  # as in `_claims`
            raise NotAuthenticated(TokenFault.MALFORMED) from None
        algorithm, kind = header.get("alg"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            raise NotAuthenticated(TokenFault.ALGORITHM)
        if not isinstance(kind, str) or kind.lower() not in _ACCESS_TOKEN_TYPES:
            raise NotAuthenticated(TokenFault.MALFORMED)  # a logout token, say (RFC 8725 §3.11)
        return algorithm, header.get("kid")

    def _claims(self, token: str, key: Key, algorithm: str) -> Mapping[str, Any]:
        """The claims of a token whose signature and registered claims hold.

        `from None`: the texts of PyJWT quote the token.
        """
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                options=self._options,
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=max(self._rules.leeway_seconds, AHEAD_SECONDS),
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except jwt.MissingRequiredClaimError as error:
            raise NotAuthenticated(_MISSING.get(error.claim, TokenFault.CLAIMS)) from None
        except jwt.PyJWTError as error:
            raise NotAuthenticated(_FAULTS.get(type(error), TokenFault.MALFORMED)) from None
        except Exception:  # strangers choose what the parsers read
            raise NotAuthenticated(TokenFault.MALFORMED) from None


def _parsed_header(encoded: str) -> Mapping[str, Any]:
    return jwt.get_unverified_header(f"{encoded}..")


_header: Final = lru_cache(maxsize=64)(_parsed_header)
"""An issuer's tokens have all the same header."""


def identity_of(claims: Mapping[str, Any], leeway_seconds: float) -> Identity:
    """Read our claims: `user_id` or else `sub`, `exp`, and `scope` and `device_id` where present.

    Raises `NotAuthenticated`: a claim that cannot be read is not guessed at.
    """
    return Identity(
        user_id=_user_id(claims["user_id"] if "user_id" in claims else claims.get("sub")),
        expires_at=_expiry(claims["exp"]) + leeway_seconds,
        scopes=_scopes(claims.get("scope")),
        device_id=_device_id(claims.get("device_id")),
    )


def _user_id(value: object) -> UserId:
    """An integer, or a string of decimal digits without a leading zero: 1 … 2**63-1."""
    if isinstance(value, str) and _DIGITS.match(value):
        value = int(value)
    if type(value) is not int or not 1 <= value <= MAX_ID:  # a bool is an int, but not a user
        raise NotAuthenticated(TokenFault.CLAIMS)
    return UserId(value)


def _expiry(value: object) -> float:
    """A NumericDate (RFC 7519 §2): a number, not a string of one; NaN fails the comparison."""
    if type(value) not in (int, float) or not 0 <= value <= MAX_EXPIRY:  # type: ignore[operator]
        raise NotAuthenticated(TokenFault.CLAIMS)
    return float(value)  # type: ignore[arg-type]


_NO_SCOPES: Final[frozenset[str]] = frozenset()
"""One for all: an empty set takes 216 bytes."""


def _scopes(value: object) -> frozenset[str]:
    """A space-separated string (RFC 8693 §4.2) or a list; scopes of other services are dropped."""
    words = value.split() if isinstance(value, str) else [] if value is None else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise NotAuthenticated(TokenFault.CLAIMS)
    return frozenset(scope for scope in Scope if scope in words) or _NO_SCOPES


def _device_id(value: object) -> ClientId | None:
    if value is None:
        return None
    if not isinstance(value, str) or (device_id := parse_client_id(value)) is None:
        raise NotAuthenticated(TokenFault.CLAIMS)
    return device_id


@asynccontextmanager
async def open_verifier(
    rules: TokenRules,
    *,
    secret: str | None = None,
    public_key: str | None = None,
    jwks_url: str | None = None,
) -> AsyncIterator[TokenVerifier]:
    """A verifier for exactly one of a shared secret, a PEM public key, a JWKS address. Raises `SettingsError`."""
    given = [way for way in (secret, public_key, jwks_url) if way]
    if len(given) != 1:
        raise SettingsError("REALTIME_JWT_…: give exactly one of secret, public key and JWKS address")
    if jwks_url:
        async with KeySet(jwks_url, rules.algorithms) as keys:
            yield TokenVerifier(keys, rules)
    else:
        yield TokenVerifier(FixedKey(given[0], rules.algorithms), rules)


def sign_token(
    secret: str,
    user_id: int,
    *,
    expires_in_seconds: float,
    scopes: Collection[str] = (),
    device_id: str | None = None,
    audience: str | None = None,
    issuer: str | None = None,
) -> str:
    """An HS256 token, for the demonstration and the command line; services have an identity provider for that.

    Raises `SettingsError` when the secret is shorter than 32 bytes.
    """
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise SettingsError(f"REALTIME_JWT_SECRET: must hold at least {MIN_SECRET_BYTES} bytes")
    now = int(time.time())
    claims = {"sub": str(user_id), "user_id": user_id, "iat": now, "exp": now + expires_in_seconds}
    optional = {"scope": " ".join(scopes), "device_id": device_id, "aud": audience, "iss": issuer}
    return jwt.encode(
        claims | {name: value for name, value in optional.items() if value}, secret, algorithm="HS256"
    )
