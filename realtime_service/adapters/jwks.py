"""The identity provider's public keys (JWKS, RFC 7517), fetched when needed and kept.

Law: keys come from the configured address alone, never from a token's `jku` or `jwk` (RFC 8725 §3.10), and a stranger
cannot make us fetch at will: one fetch at a time, and not before a pause. Old keys serve until new ones arrive, so
that an identity provider that is away for an hour keeps out nobody whose key is known.
"""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import jwt
import structlog

from realtime_service.domain.errors import KeysUnavailable

FRESH_SECONDS: Final = 600.0
"""Age at which keys are fetched anew, beside the verifying: a withdrawn key is believed this long at most, while the
identity provider answers."""

COOL_DOWN_SECONDS: Final = 30.0
"""Pause between fetches for key ids nobody has heard of: anybody can invent those."""

FIRST_RETRY_SECONDS: Final = 1.0
"""Pause between fetches while there are no keys at all."""

FETCH_TIMEOUT_SECONDS: Final = 5.0
"""A fetch may hold up those who wait for it this long."""

MAX_BYTES: Final = 256 * 1024
"""A larger answer is no key set: real ones have a few KiB."""

log = structlog.stdlib.get_logger(__name__)


class KeySet:
    """The keys at one address, by key id and algorithm. An async context manager: it owns its HTTP session."""

    def __init__(
        self,
        url: str,
        algorithms: Collection[str],
        *,
        timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._algorithms = tuple(name for name in algorithms if not name.startswith("HS"))
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._clock = clock
        self._keys: dict[tuple[str, str], jwt.PyJWK] | None = None
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        await self._session.close()

    async def key(self, algorithm: str, key_id: str | None, /) -> jwt.PyJWK | None:
        """The key of that id for that algorithm, or None. Raises `KeysUnavailable` while there are none at all."""
        if self._keys is None:
            await self._fetch(pause=FIRST_RETRY_SECONDS)
        elif self._clock() - self._fetched_at > FRESH_SECONDS:
            self._start_fetch(pause=COOL_DOWN_SECONDS)
        if key_id is not None and self._keys is not None and not self._knows(key_id):
            await self._fetch(pause=COOL_DOWN_SECONDS)
        if self._keys is None:
            raise KeysUnavailable("the identity provider's keys were never fetched")
        return self._keys.get((key_id, algorithm)) if key_id is not None else None

    async def key_ids(self) -> list[str]:
        """The ids of the keys that are published now and fit. Raises `KeysUnavailable`, with the reason, if none is."""
        try:
            keys = dict(self._usable(json.loads(await self._download())))
        except TimeoutError:
            raise KeysUnavailable("no answer in time") from None
        except (aiohttp.ClientError, OSError):
            raise KeysUnavailable("no connection") from None
        except (ValueError, RecursionError):
            raise KeysUnavailable("what it answers is no key set (200, JSON, not too long)") from None
        if not keys:
            raise KeysUnavailable(f"it holds no public key with an id for {', '.join(self._algorithms)}")
        return sorted({key_id for key_id, _ in keys})

    def _knows(self, key_id: str) -> bool:
        return any((key_id, algorithm) in (self._keys or {}) for algorithm in self._algorithms)

    async def _fetch(self, *, pause: float) -> None:
        """Have the keys fetched, together with all who wait; a waiter who gives up does not stop the others."""
        if (fetching := self._start_fetch(pause=pause)) is not None:
            await asyncio.shield(fetching)

    def _start_fetch(self, *, pause: float) -> asyncio.Task[None] | None:
        """The running fetch, or a new one, or None within the pause."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if self._clock() - self._tried_at < pause:
            return None
        self._tried_at = self._clock()
        self._fetching = asyncio.create_task(self._replace_keys(), name="jwks")
        return self._fetching

    async def _replace_keys(self) -> None:
        """Fetch; on failure keep what there is. The log names the kind of error: its text may quote the address."""
        try:
            keys = dict(self._usable(json.loads(await self._download())))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
            log.warning("jwks_fetch_failed", error=type(error).__name__, known_keys=len(self._keys or ()))
            return
        if not keys:
            log.warning("jwks_fetch_failed", error="no usable key", known_keys=len(self._keys or ()))
            return
        self._keys, self._fetched_at = keys, self._clock()
        log.info("jwks_fetched", keys=len({key_id for key_id, _ in keys}))

    async def _download(self) -> bytes:
        """The answer's body. Redirects are not followed: they would move the trust to another address."""
        async with self._session.get(self._url, allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                raise ValueError("not 200 OK")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("too large")
            return bytes(body)

    def _usable(self, document: Any) -> Iterator[tuple[tuple[str, str], jwt.PyJWK]]:
        """The public signature keys that have an id and fit an algorithm; one that cannot be read is skipped."""
        entries = document.get("keys") if isinstance(document, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
                continue
            if entry.get("use", "sig") != "sig" or entry.get("kty") == "oct" or "d" in entry:
                continue  # for encryption; or secret, and thus known to everybody
            for algorithm in self._algorithms:
                if entry.get("alg", algorithm) == algorithm and (key := _read_key(entry, algorithm)):
                    yield (entry["kid"], algorithm), key


def _read_key(entry: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """The key, if its type and curve fit the algorithm; its length is checked with each token."""
    try:
        key = jwt.PyJWK(entry, algorithm)
        key.Algorithm.prepare_key(key.key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key
