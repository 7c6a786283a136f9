"""The identity provider's keys: a real server on loopback publishes, rotates, withdraws and fails."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from realtime_service.adapters.jwks import (
    COOL_DOWN_SECONDS,
    FIRST_RETRY_SECONDS,
    FRESH_SECONDS,
    MAX_BYTES,
    KeySet,
)
from realtime_service.adapters.tokens import TokenRules, TokenVerifier, open_verifier
from realtime_service.domain.errors import KeysUnavailable, NotAuthenticated, TokenFault

RULES = TokenRules(("RS256", "ES256"))
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  (to be refused)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class IdentityProvider:
    """Publishes keys; each attribute can be changed between requests."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[Any] = []
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def answer(self, _request: web.Request) -> web.Response:
        self.requests += 1
        self.asked.set()
        await self.may_answer.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return web.Response(body=body, status=self.status, headers=self.headers)


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    provider = IdentityProvider()
    provider.keys = [public(RSA_KEY, "rsa"), public(EC_KEY, "ec")]
    app = web.Application()
    app.router.add_get("/keys", provider.answer)
    async with TestServer(app) as server:
        provider.url = str(server.make_url("/keys"))
        yield provider
        provider.may_answer.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def verifier(provider: IdentityProvider, clock: Clock) -> AsyncIterator[TokenVerifier]:
    async with KeySet(provider.url, RULES.algorithms, clock=clock) as keys:
        yield TokenVerifier(keys, RULES)


def public(key: PrivateKey, kid: str, **more: object) -> dict[str, object]:
    """The JWK of the public half."""
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": kid, "use": "sig", **more}


def signed(key: PrivateKey, kid: str | None, algorithm: str | None = None, **headers: object) -> str:
    algorithm = algorithm or ("RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
    named = headers if kid is None else {"kid": kid, **headers}
    return jwt.encode({"sub": "7", "exp": int(time.time()) + 60}, key, algorithm=algorithm, headers=named)


async def fault(verifier: TokenVerifier, token: str) -> TokenFault:
    with pytest.raises(NotAuthenticated) as refusal:
        await verifier.verify(token)
    return refusal.value.cause_code


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (a server's counter)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("key", "kid"), [(RSA_KEY, "rsa"), (EC_KEY, "ec")])
async def test_a_token_signed_with_a_published_key_is_believed(
    verifier: TokenVerifier, key: PrivateKey, kid: str
) -> None:
    assert (await verifier.verify(signed(key, kid))).user_id == 7


async def test_keys_are_fetched_once_for_many_tokens(
    verifier: TokenVerifier, provider: IdentityProvider
) -> None:
    for _ in range(10):
        await verifier.verify(signed(RSA_KEY, "rsa"))
    assert provider.requests == 1


async def test_all_who_wait_for_keys_wait_for_one_fetch(
    verifier: TokenVerifier, provider: IdentityProvider
) -> None:
    provider.may_answer.clear()
    waiting = [asyncio.create_task(verifier.verify(signed(EC_KEY, "ec"))) for _ in range(50)]
    await provider.asked.wait()
    provider.may_answer.set()
    assert {identity.user_id for identity in await asyncio.gather(*waiting)} == {7}
    assert provider.requests == 1


async def test_one_who_gives_up_does_not_stop_the_fetch_for_the_others(
    verifier: TokenVerifier, provider: IdentityProvider
) -> None:
    provider.may_answer.clear()
    first, second = (asyncio.create_task(verifier.verify(signed(EC_KEY, "ec"))) for _ in range(2))
    await provider.asked.wait()
    first.cancel()
    await asyncio.wait([first])
    provider.may_answer.set()
    assert (await second).user_id == 7
    assert provider.requests == 1


async def test_a_new_key_is_fetched_when_a_token_names_it(
    verifier: TokenVerifier, provider: IdentityProvider, clock: Clock
) -> None:
    await verifier.verify(signed(EC_KEY, "ec"))
    provider.keys.append(public(OTHER_EC_KEY, "new"))
    clock.now += COOL_DOWN_SECONDS
    assert (await verifier.verify(signed(OTHER_EC_KEY, "new"))).user_id == 7


async def test_a_withdrawn_key_is_no_longer_believed_after_the_next_fetch(
    verifier: TokenVerifier, provider: IdentityProvider, clock: Clock
) -> None:
    await verifier.verify(signed(EC_KEY, "ec"))
    provider.keys = [public(RSA_KEY, "rsa")]
    clock.now += FRESH_SECONDS + 1
    await verifier.verify(signed(EC_KEY, "ec"))  # starts the fetch, does not wait for it
    await eventually(lambda: provider.requests == 2)
    await fault(verifier, signed(OTHER_EC_KEY, "unknown"))  # waits for that fetch
    assert await fault(verifier, signed(EC_KEY, "ec")) is TokenFault.SIGNATURE
    assert (await verifier.verify(signed(RSA_KEY, "rsa"))).user_id == 7


async def test_strangers_cannot_make_us_fetch_at_will(
    verifier: TokenVerifier, provider: IdentityProvider, clock: Clock
) -> None:
    await verifier.verify(signed(EC_KEY, "ec"))
    for number in range(100):
        assert await fault(verifier, signed(OTHER_EC_KEY, f"invented-{number}")) is TokenFault.SIGNATURE
    assert provider.requests == 1
    clock.now += COOL_DOWN_SECONDS
    for number in range(100):
        await fault(verifier, signed(OTHER_EC_KEY, f"invented-{number}"))
    assert provider.requests == 2


async def test_a_token_without_a_key_id_is_refused(
    verifier: TokenVerifier, provider: IdentityProvider, clock: Clock
) -> None:
    await verifier.verify(signed(EC_KEY, "ec"))
    clock.now += COOL_DOWN_SECONDS
    assert await fault(verifier, signed(EC_KEY, None)) is TokenFault.SIGNATURE
    assert provider.requests == 1


async def test_a_token_under_anothers_key_id_is_refused(verifier: TokenVerifier) -> None:
    assert await fault(verifier, signed(OTHER_EC_KEY, "ec")) is TokenFault.SIGNATURE


async def test_an_algorithm_must_fit_the_kind_of_key(
    verifier: TokenVerifier, provider: IdentityProvider, clock: Clock
) -> None:
    await verifier.verify(signed(EC_KEY, "ec"))
    clock.now += COOL_DOWN_SECONDS
    assert await fault(verifier, signed(EC_KEY, "rsa")) is TokenFault.SIGNATURE
    assert await fault(verifier, signed(RSA_KEY, "ec")) is TokenFault.SIGNATURE
    assert await fault(verifier, signed(RSA_KEY, "rsa", "PS256")) is TokenFault.ALGORITHM
    assert provider.requests == 1


async def test_a_key_published_for_one_algorithm_verifies_no_other(
    provider: IdentityProvider, clock: Clock
) -> None:
    rules = TokenRules(("RS256", "RS512"))
    provider.keys = [public(RSA_KEY, "free"), public(RSA_KEY, "bound", alg="RS512")]
    async with KeySet(provider.url, rules.algorithms, clock=clock) as keys:
        verifier = TokenVerifier(keys, rules)
        assert (await verifier.verify(signed(RSA_KEY, "free", "RS256"))).user_id == 7
        assert (await verifier.verify(signed(RSA_KEY, "free", "RS512"))).user_id == 7
        assert (await verifier.verify(signed(RSA_KEY, "bound", "RS512"))).user_id == 7
        assert await fault(verifier, signed(RSA_KEY, "bound", "RS256")) is TokenFault.SIGNATURE


async def test_keys_that_a_token_brings_along_are_not_looked_at(
    verifier: TokenVerifier, provider: IdentityProvider
) -> None:
    own = public(OTHER_EC_KEY, "ec")
    elsewhere = provider.url + "?other"
    assert await fault(verifier, signed(OTHER_EC_KEY, "ec", jwk=own)) is TokenFault.SIGNATURE
    assert (
        await fault(verifier, signed(OTHER_EC_KEY, "ec", jku=elsewhere, x5u=elsewhere))
        is TokenFault.SIGNATURE
    )
    assert provider.requests == 1


async def test_keys_that_cannot_be_used_are_skipped(
    verifier: TokenVerifier, provider: IdentityProvider
) -> None:
    shared = {"kty": "oct", "kid": "shared", "k": "YSBzaGFyZWQgc2VjcmV0IG9mIDMyIGJ5dGVzLCBvciBtb3Jl"}
    leaked = jwt.algorithms.ECAlgorithm.to_jwk(OTHER_EC_KEY, as_dict=True)
    provider.keys = [
        None,
        7,
        {},
        {"kty": "RSA", "kid": "empty"},
        {"kty": "EC", "kid": "curve", "crv": "P-000", "x": "AA", "y": "AA"},
        {"kty": "unknown", "kid": "kind"},
        shared,
        {**leaked, "kid": "leaked"},
        public(OTHER_EC_KEY, "encryption", use="enc"),
        {**public(OTHER_EC_KEY, "x"), "kid": 7},
        public(SHORT_RSA_KEY, "short"),
        public(EC_KEY, "ec"),
    ]
    assert (await verifier.verify(signed(EC_KEY, "ec"))).user_id == 7
    for kid in ("leaked", "encryption"):
        assert await fault(verifier, signed(OTHER_EC_KEY, kid)) is TokenFault.SIGNATURE
    with pytest.warns(jwt.InsecureKeyLengthWarning):  # PyJWT signs with it, we do not verify with it
        token = signed(SHORT_RSA_KEY, "short")
    assert await fault(verifier, token) is TokenFault.SIGNATURE


def _break(provider: IdentityProvider, how: str) -> None:
    match how:
        case "status":
            provider.status = 500
        case "redirect":
            provider.status, provider.headers = 302, {"Location": provider.url + "?followed"}
        case "no JSON":
            provider.body = b"<html>"
        case "no text":
            provider.body = b"\xff\xfe\x00"
        case "no set":
            provider.body = b"[]"
        case "no keys":
            provider.keys = []
        case "keys of another kind":
            provider.body = b'{"keys": {"kid": "ec"}}'
        case "deep":
            provider.body = b"[" * 100_000
        case "large":
            provider.body = json.dumps({"keys": provider.keys}).encode() + b" " * MAX_BYTES


FAILURES = [
    "status",
    "redirect",
    "no JSON",
    "no text",
    "no set",
    "no keys",
    "keys of another kind",
    "deep",
    "large",
]


@pytest.mark.parametrize("how", FAILURES)
async def test_without_keys_nobody_is_refused_or_believed(
    verifier: TokenVerifier, provider: IdentityProvider, how: str
) -> None:
    _break(provider, how)
    with capture_logs() as logs, pytest.raises(KeysUnavailable):
        await verifier.verify(signed(EC_KEY, "ec"))
    assert provider.requests == 1
    assert [line["event"] for line in logs] == ["jwks_fetch_failed"]
    assert provider.url not in str(logs)


@pytest.mark.parametrize("how", FAILURES)
async def test_old_keys_serve_while_new_ones_cannot_be_had(
    verifier: TokenVerifier, provider: IdentityProvider, clock: Clock, how: str
) -> None:
    await verifier.verify(signed(EC_KEY, "ec"))
    _break(provider, how)
    clock.now += FRESH_SECONDS + 1
    await verifier.verify(signed(EC_KEY, "ec"))
    await eventually(lambda: provider.requests == 2)
    assert (
        await fault(verifier, signed(OTHER_EC_KEY, "unknown")) is TokenFault.SIGNATURE
    )  # waits for that fetch
    assert (await verifier.verify(signed(EC_KEY, "ec"))).user_id == 7
    assert provider.requests == 2


async def test_an_identity_provider_that_comes_back_is_found(
    verifier: TokenVerifier, provider: IdentityProvider, clock: Clock
) -> None:
    provider.status = 503
    for _ in range(10):
        with pytest.raises(KeysUnavailable):
            await verifier.verify(signed(EC_KEY, "ec"))
    assert provider.requests == 1
    provider.status = 200
    clock.now += FIRST_RETRY_SECONDS
    assert (await verifier.verify(signed(EC_KEY, "ec"))).user_id == 7


async def test_an_identity_provider_that_does_not_listen_is_no_crash(unused_tcp_port: int) -> None:
    async with open_verifier(RULES, jwks_url=f"http://127.0.0.1:{unused_tcp_port}/keys") as verifier:
        with pytest.raises(KeysUnavailable):
            await verifier.verify(signed(EC_KEY, "ec"))


async def test_an_identity_provider_that_does_not_answer_holds_nobody_up_for_long(
    provider: IdentityProvider,
) -> None:
    provider.may_answer.clear()
    async with KeySet(provider.url, RULES.algorithms, timeout_seconds=0.1) as keys:
        async with asyncio.timeout(5):
            with pytest.raises(KeysUnavailable):
                await TokenVerifier(keys, RULES).verify(signed(EC_KEY, "ec"))


async def test_leaving_does_not_wait_for_a_fetch(provider: IdentityProvider) -> None:
    provider.may_answer.clear()
    async with asyncio.timeout(5):
        async with KeySet(provider.url, RULES.algorithms, timeout_seconds=60) as keys:
            waiting = asyncio.create_task(TokenVerifier(keys, RULES).verify(signed(EC_KEY, "ec")))
            await provider.asked.wait()
        await asyncio.wait([waiting])
