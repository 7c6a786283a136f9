"""How tokens are verified: exactly one way, a key that fits, an identity provider that answers."""

from typing import Final
from urllib.parse import urlsplit

from realtime_service.adapters.jwks import KeySet
from realtime_service.adapters.tokens import FixedKey
from realtime_service.cli.examinations import good, odd, wrong
from realtime_service.domain.errors import KeysUnavailable, SettingsError
from realtime_service.domain.finding import Finding
from realtime_service.settings import Settings, require_token_settings

FEW_SIGNS: Final = 10
"""Different ones in a secret: fewer are a word repeated, or a placeholder."""

_TOKENS: Final = "tokens"


async def examine_tokens(settings: Settings) -> list[Finding]:
    """All of it."""
    try:
        require_token_settings(settings)
        found = [*await _keys(settings)]
    except SettingsError as error:
        return [
            wrong(_TOKENS, line, "the service does not start", "set what that line names")
            for line in error.problems
        ]
    return [*found, *_audience(settings)]


async def _keys(settings: Settings) -> list[Finding]:
    algorithms = ", ".join(settings.jwt_algorithms)
    if settings.jwt_jwks_url is not None:
        return await _published(settings.jwt_jwks_url, settings)
    if settings.jwt_public_key is not None:
        FixedKey(settings.jwt_public_key.get_secret_value(), settings.jwt_algorithms)
        return [good(_TOKENS, f"a public key for {algorithms}")]
    assert settings.jwt_secret is not None
    if len(set(settings.jwt_secret.get_secret_value())) < FEW_SIGNS:
        advice = "make a random one: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        return [odd(_TOKENS, "a secret of few different signs", "it can be guessed", advice)]
    return [good(_TOKENS, f"a shared secret for {algorithms}, long enough")]


async def _published(url: str, settings: Settings) -> list[Finding]:
    findings = []
    if urlsplit(url).scheme == "http" and urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"):
        problem = "whoever is between can publish keys of their own, and sign any token"
        findings.append(odd("identity provider", "asked over plain http", problem, "use https"))
    async with KeySet(url, settings.jwt_algorithms) as keys:
        try:
            ids = await keys.key_ids()
        except KeysUnavailable as error:
            problem = "no token can be verified, and no client is let in"
            advice = "correct REALTIME_JWT_JWKS_URL or REALTIME_JWT_ALGORITHMS, or look at the provider"
            return [*findings, wrong("identity provider", str(error), problem, advice)]
    number = "1 key fits" if len(ids) == 1 else f"{len(ids)} keys fit"
    return [
        *findings,
        good("identity provider", f"it answers; {number} {', '.join(settings.jwt_algorithms)}"),
    ]


def _audience(settings: Settings) -> list[Finding]:
    if settings.jwt_secret is not None or settings.jwt_audience is not None:
        return []
    problem = "a token that the same issuer made for another service is good here, too"
    return [
        odd(_TOKENS, "REALTIME_JWT_AUDIENCE is not set", problem, "set it, unless there is no other service")
    ]
