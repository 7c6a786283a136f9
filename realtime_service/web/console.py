"""`/console`: a page that shows operators how events flow, and lets them try it out.

Law: the page itself is public text and loads nothing from elsewhere; every number on it needs a token with the scope
`operator`. No event's data are shown here, and no token is ever in an address. Where the page may take a token without
asking (the demo), it is one for browsers on this machine alone.
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, TypeAdapter

from contracts import topology
from contracts.ids import ConnectionId, DiagnosisId, parse_diagnosis_id
from contracts.messages import ReceiptMode
from realtime_service.cluster import Counted
from realtime_service.domain.errors import BrokerUnavailable
from realtime_service.domain.identity import Scope
from realtime_service.domain.room import SHARED
from realtime_service.hub import Hub
from realtime_service.web.console_trace import Entry, Trace
from realtime_service.web.credentials import authenticate
from realtime_service.web.files import serving, static
from realtime_service.web.keys import VERIFIER
from realtime_service.web.ports import Census
from realtime_service.web.problems import HttpProblem

NEWS_SECONDS: Final = 1.0
"""How long a look waits for something to happen."""
TOGETHER_SECONDS: Final = 0.05
"""What happens within this time is shown at once."""
CENSUS_SECONDS: Final = 1.0
"""Other replicas are asked so often at most, however many operators look."""
DEPTHS_SECONDS: Final = 0.2
"""The same of the queues."""

HEADERS: Final[dict[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FILES: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "console_dom.js": "text/javascript",
    "console_flow.js": "text/javascript",
    "console_form.js": "text/javascript",
    "console_log.js": "text/javascript",
    "console.svg": "image/svg+xml",
}
_TOKENS: Final = TypeAdapter(dict[str, str])

K = TypeVar("K")
V = TypeVar("V")

QueueKind = Literal["shared", "device", "unrouted", "parked"]
DemoTokens = Callable[[], Mapping[DiagnosisId, str]]
"""Short-lived tokens of the owners of the demo's diagnoses, which may do everything."""


class Depths(Protocol):
    """What queues hold."""

    async def ready(self, queues: Iterable[str]) -> dict[str, int | None]:
        """Messages ready in each queue; None: there is no such queue. Raises BrokerUnavailable."""
        ...


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Queue(_Model):
    """A queue of the diagnosis, or one of those that belong to all."""

    name: str
    kind: QueueKind
    device: str | None = None
    """Its device key."""
    ready: int | None
    """None: there is no such queue, or the broker did not say."""
    unsettled: int = 0
    """Delivered and not settled."""


class Client(_Model):
    """A connection of the diagnosis on this replica."""

    connection_id: ConnectionId
    device: str | None
    receipts: ReceiptMode
    unproven: int
    """Events sent to it that it has not proved."""


class Flow(_Model):
    """A diagnosis as this replica sees it now, and what happened of late."""

    replica: str
    """This one's name."""
    replicas: dict[str, int]
    """Connections of the diagnosis on each replica that answered."""
    silent_replicas: list[str]
    broker: bool
    """The broker answered."""
    queues: list[Queue]
    clients: list[Client]
    last: int
    """The number of the newest entry of all."""
    trace: list[Entry]


@dataclass(frozen=True, slots=True)
class Ports:
    """What the console needs from the rest of the service."""

    replica: str
    hub: Hub
    census: Census
    depths: Depths
    demo_tokens: DemoTokens | None = None


class Console:
    """The page, what it shows, and in the demo its tokens."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._trace = Trace()
        self._counted = _Kept[None, Counted](CENSUS_SECONDS)
        self._depths = _Kept[DiagnosisId, dict[str, int | None] | None](DEPTHS_SECONDS)

    def install(self, app: web.Application) -> None:
        """Add the routes; they need VERIFIER. From here on the hub is watched."""
        self._ports.hub.observer = self._trace
        page = static("console.html")
        if self._ports.demo_tokens:
            page = page.replace(b"<html ", b"<html data-demo ", 1)
            app.router.add_post("/console/tokens", self._tokens)
        app.router.add_get("/console", serving(page, "text/html", HEADERS))
        for name, content_type in FILES.items():
            app.router.add_get(f"/{name}", serving(static(name), content_type, HEADERS))
        app.router.add_get("/console/flow", self._flow, allow_head=False)
        app.on_shutdown.append(self._close)

    async def _close(self, _: web.Application) -> None:
        self._trace.close()

    async def _tokens(self, request: web.Request) -> web.StreamResponse:
        """Law: whoever gets an answer is a program of this machine, and no page of another origin."""
        assert self._ports.demo_tokens is not None
        if not from_this_machine(request):
            raise HttpProblem(403, "for the console in a browser on this machine alone")
        tokens = {str(diagnosis): token for diagnosis, token in self._ports.demo_tokens().items()}
        return _answer(_TOKENS.dump_json(tokens))

    async def _flow(self, request: web.Request) -> web.StreamResponse:
        caller = await authenticate(request, request.app[VERIFIER])
        if not caller.has(Scope.OPERATOR):
            raise HttpProblem(403, f"the token's scope does not hold `{Scope.OPERATOR}`")
        diagnosis = parse_diagnosis_id(request.query.get("diagnosis", ""))
        after = request.query.get("after", "0")
        if diagnosis is None or not (after.isascii() and after.isdigit() and len(after) < 16):
            raise HttpProblem(422, "`diagnosis` must be an id, and `after` the number of an entry")
        seen = min(int(after), self._trace.last)  # a number from before a restart means nothing
        if "after" in request.query:
            await self._trace.news(seen, diagnosis, NEWS_SECONDS)
            await asyncio.sleep(TOGETHER_SECONDS)
        flow = await self._look(diagnosis, seen)
        return _answer(flow.model_dump_json().encode())

    async def _look(self, diagnosis: DiagnosisId, seen: int) -> Flow:
        hub = self._ports.hub
        counted = await self._counted.get(None, self._ports.census.census)
        ready = await self._depths.get(diagnosis, lambda: self._ready(diagnosis))
        here = hub.unsettled_of(diagnosis)
        # What other replicas hold of the diagnosis' queue is only known as of the last census.
        unsettled = here | {SHARED: max(here.get(SHARED, 0), counted.unsettled.get(diagnosis, 0))}
        trace = self._trace.since(seen, diagnosis)
        return Flow(
            replica=self._ports.replica,
            replicas={
                name: count.get(diagnosis, 0)
                for name, count in sorted(
                    {**counted.by_replica, self._ports.replica: hub.connections_by_diagnosis()}.items()
                )
            },
            silent_replicas=counted.silent,
            broker=ready is not None,
            queues=[
                Queue(
                    name=name,
                    kind=kind,
                    device=device,
                    ready=(ready or {}).get(name),
                    unsettled=unsettled.get(device, 0) if kind in ("shared", "device") else 0,
                )
                for name, kind, device in self._queues(diagnosis)
            ],
            clients=[
                Client(
                    connection_id=connection.member.id,
                    device=connection.member.device,
                    receipts=connection.member.receipts.mode,
                    unproven=connection.member.receipts.unproven,
                )
                for connection in hub.connections_of(diagnosis)
            ],
            last=self._trace.last,
            trace=trace,
        )

    async def _ready(self, diagnosis: DiagnosisId) -> dict[str, int | None] | None:
        """What the queues hold; None: the broker did not say."""
        try:
            return await self._ports.depths.ready([name for name, *_ in self._queues(diagnosis)])
        except BrokerUnavailable:
            return None

    def _queues(self, diagnosis: DiagnosisId) -> list[tuple[str, QueueKind, str | None]]:
        """Which there are, as far as known here: name, kind, device key."""
        return [
            (topology.shared_queue(diagnosis), "shared", None),
            *(
                (topology.device_queue(diagnosis, key), "device", key)
                for key in self._trace.devices(diagnosis)
            ),
            (topology.UNROUTED, "unrouted", None),
            (topology.PARKED, "parked", None),
        ]


class _Kept(Generic[K, V]):
    """The last answer, for a while, so that many operators cost no more than one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._asking = asyncio.Lock()
        self._answer: tuple[K, float, V] | None = None

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer for a key, `seconds` old at most."""
        async with self._asking:
            if self._answer is None or self._answer[0] != key or time.monotonic() > self._answer[1]:
                answer = await ask()
                self._answer = (key, time.monotonic() + self._seconds, answer)
            return self._answer[2]


def from_this_machine(request: web.BaseRequest) -> bool:
    """Whether a browser on this machine asks, for a page that came from here.

    The peer's address alone does not say so: a proxy on this machine asks for others, and a page whose host name was
    made to point here (DNS rebinding) asks in its own name. Fetch Metadata says the rest where a browser sends it.
    """
    forwarded = (hdrs.FORWARDED, hdrs.X_FORWARDED_FOR, hdrs.X_FORWARDED_HOST)
    return (
        is_loopback(request.remote or "")
        and is_loopback(request.url.host or "")
        and not any(name in request.headers for name in forwarded)
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    )


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine, reached without a network."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answer(body: bytes) -> web.Response:
    return web.Response(
        body=body, content_type="application/json", headers={**HEADERS, hdrs.CACHE_CONTROL: "no-store"}
    )
