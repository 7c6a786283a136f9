"""Who may knock: the browser's page, the client's address, and how many connections a user has.

Law: nothing that a client may write is believed. `X-Forwarded-For` counts only as far as trusted proxies wrote it. What
is remembered of addresses is bounded.
"""

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp import hdrs, web

from contracts.ids import UserId
from realtime_service.settings import Settings
from realtime_service.web.rate import CallerLimits

BURST_SECONDS: Final = 30
"""What may come at once, in seconds' worth of what may come for long: a network that is back brings everybody."""
IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that count: whoever has one of these networks has all its addresses."""


class Admission:
    """The doors of one replica."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(settings.allowed_origins)
        self._proxies = settings.trusted_proxies
        self._most = settings.max_connections_per_user
        refusals, arrivals = settings.address_refusals_per_second, settings.address_connections_per_second
        self._refusals = CallerLimits[str](refusals, max(1, refusals * BURST_SECONDS))
        self._arrivals = CallerLimits[str](arrivals, max(1, arrivals * BURST_SECONDS)) if arrivals else None
        self._users = Counter[UserId]()

    def allows_page(self, request: web.BaseRequest) -> bool:
        """Whether a browser on this page may connect; what sends no `Origin` is no browser."""
        origins = request.headers.getall(hdrs.ORIGIN, [])
        return not self._origins or all(origin.lower() in self._origins for origin in origins)

    def address(self, request: web.BaseRequest) -> str:
        """Where the client is."""
        return client_address(
            request.remote or "", request.headers.getall(hdrs.X_FORWARDED_FOR, []), self._proxies
        )

    def wait(self, address: str) -> float:
        """Seconds that this address has to wait before it may connect; 0: it may now, and this is counted."""
        if wait := self._refusals.wait(address):
            return wait
        return 0.0 if self._arrivals is None else self._arrivals.take(address)

    def refused(self, address: str) -> None:
        """Somebody there was refused."""
        self._refusals.take(address)

    def enter(self, user: UserId) -> bool:
        """Count a connection of a user, if there is room for it."""
        if self._users[user] >= self._most:
            return False
        self._users[user] += 1
        return True

    def leave(self, user: UserId) -> None:
        """One that was counted is closed."""
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]


def client_address(peer: str, forwarded: Iterable[str], proxies: Iterable[IPv4Network | IPv6Network]) -> str:
    """The last address that no trusted proxy has: each of them adds the one it was called from.

    `peer` is who called us. An IPv6 client is its /64 network.
    """
    trusted = tuple(proxies)
    address = _parse(peer)
    hops = [hop.strip() for header in forwarded for hop in header.split(",")]
    while address is not None and hops and any(address in network for network in trusted):
        before = _parse(hops.pop())
        if before is None:
            break
        address = before
    if address is None:
        return peer
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX), strict=False))
    return str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
