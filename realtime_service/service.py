"""The composition root: owns every lifetime, as one `async with`; leaving is entering backwards.

settings ─► database, verifier ─► publisher ─► link, node queue, first-contact door, sessions ─► hub ─► web
"""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from contracts import topology
from contracts.replicas import ReplicaMessage
from realtime_service import tracing
from realtime_service.adapters.database import OwnershipDatabase
from realtime_service.adapters.management import ManagementApi, virtual_host
from realtime_service.adapters.rabbitmq.asking import QueueDepths
from realtime_service.adapters.rabbitmq.backlogs import QueueBacklogs
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.adapters.rabbitmq.first_contact import FirstContact
from realtime_service.adapters.rabbitmq.link import BrokerLink
from realtime_service.adapters.rabbitmq.node import NodeQueue
from realtime_service.adapters.rabbitmq.parking import CODES, Parking
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.replicas import RabbitReplicas
from realtime_service.adapters.rabbitmq.sessions import RabbitSessions
from realtime_service.adapters.rabbitmq.start_check import StartCheck
from realtime_service.adapters.tokens import TokenRules, open_verifier
from realtime_service.cluster import CENSUS_MESSAGES, Cluster
from realtime_service.connection_manager import ConnectionManager, set_running
from realtime_service.domain.errors import DatabaseUnavailable, TopologyWrong
from realtime_service.domain.ports import Ownership, Verifier
from realtime_service.event_publisher import EventPublisher
from realtime_service.hub import Hub
from realtime_service.metrics import Metrics
from realtime_service.settings import Settings, require_token_settings
from realtime_service.web import console
from realtime_service.web.accepting import Acceptor, listen
from realtime_service.web.access_log import (
    REQUESTS,
    AccessLog,
    redact_offered_subprotocols,
    redact_unreadable_requests,
)
from realtime_service.web.app import Ports, create_app
from realtime_service.web.draining import send_away
from realtime_service.web.rate import CallerLimits
from realtime_service.web.recheck import OwnershipRecheck
from realtime_service.web.timekeeper import Timekeeper
from realtime_service.web.websocket import WebSocketRoute

log = structlog.get_logger(__name__)

LISTEN_BACKLOG: Final = 4096
"""Connections the kernel holds for us: after a restart every client comes back at once."""
MAX_HEADER_BYTES: Final = 20 * 1024
"""A request line or header: a token of 16 KiB fits in."""
SHUTDOWN_SECONDS: Final = 5.0
"""How long requests under way may take once all sockets are closed."""


class Service:
    """A replica that runs."""

    def __init__(
        self, settings: Settings, hub: Hub, manager: ConnectionManager, route: WebSocketRoute, port: int
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._route = route
        self.manager = manager
        self.port = port

    async def drain(self) -> None:
        """Refuse newcomers, let balancers notice, then tell all clients to come back elsewhere (1012), spread out."""
        self._route.draining = True
        log.info("draining", connections=len(self._hub.connections()), seconds=self._settings.drain_seconds)
        await send_away(self._hub.connections, self._settings.drain_seconds)


class _Readiness:
    """What `/readyz` looks at."""

    def __init__(
        self, link: BrokerLink, topology_check: StartCheck, ownership: Ownership, route: WebSocketRoute
    ) -> None:
        self._link = link
        self._topology = topology_check
        self._ownership = ownership
        self._route = route

    async def check(self) -> dict[str, str]:
        """Broker, database, and whether this replica is about to leave."""
        try:
            await self._ownership.ping()
            database = "ok"
        except DatabaseUnavailable:
            database = "unavailable"
        broker = "wrong topology" if self._topology.wrong else "ok"
        return {
            "broker": broker if self._link.is_up else "unavailable",
            "database": database,
            "accepting": "draining" if self._route.draining else "ok",
        }


@asynccontextmanager
async def running(
    settings: Settings, *, share_port: bool = False, demo_tokens: console.DemoTokens | None = None
) -> AsyncIterator[Service]:
    """A replica, listening. A broker or database that is away does not keep it from starting: `/readyz` says so.

    `share_port`: others listen there, too; the kernel spreads the connections.
    `demo_tokens`: what the console hands out to browsers on this machine.
    Raises SettingsError, OSError when the port is taken, and TopologyWrong once the broker is there and turns out to be
    set up in a way that loses events.
    """
    require_token_settings(settings)
    redact_offered_subprotocols()
    redact_unreadable_requests()
    replica = uuid.uuid4().hex[:8]
    amqp_url = settings.amqp_url.get_secret_value()
    metrics = Metrics()
    metrics.registry.register(REQUESTS)
    async with AsyncExitStack() as stack:
        ownership = await stack.enter_async_context(
            OwnershipDatabase(settings.database_url.get_secret_value())
        )
        verifier = await stack.enter_async_context(_verifier(settings))
        publisher = await stack.enter_async_context(
            ConfirmedPublisher(amqp_url, name=f"realtime {replica} publishes")
        )
        link = BrokerLink(amqp_url, f"realtime {replica} consumes", metrics.broker_up.set)
        parking = Parking(publisher, link)
        for code in CODES:
            metrics.parked.labels(reason=code)  # from the start, at 0
        parking.on_parked = metrics.was_parked
        stack.push_async_callback(parking.close)
        hub: Hub
        cluster: Cluster

        def heard(message: ReplicaMessage) -> None:
            if isinstance(message, CENSUS_MESSAGES):
                cluster.heard(message)
            else:
                hub.neighbours.heard(message)

        node = NodeQueue(link, lambda *what: hub.evicted(*what), heard, lambda: hub.deaf())
        shared_arguments = topology.backlog_arguments(
            limit=settings.backlog_limit, queue_type=settings.queue_type
        )
        door = FirstContact(link, publisher, ownership, parking, shared_arguments)
        sessions = RabbitSessions(
            link,
            node,
            publisher,
            parking,
            backlog_limit=settings.backlog_limit,
            queue_type=settings.queue_type,
        )
        replicas = RabbitReplicas(publisher, node.name)
        hub = Hub(
            sessions,
            replicas,
            metrics,
            join_timeout_seconds=settings.join_timeout_seconds,
            new_devices_per_day=settings.new_devices_per_day,
        )
        cluster = Cluster(replicas, replica, hub.connections_by_diagnosis, hub.unsettled_by_diagnosis)
        hub.traced = tracing.deliveries()
        hub.neighbours.some_may_be_away = cluster.some_may_be_away
        if settings.queue_type == "quorum":
            hub.neighbours.known = cluster.others
        backlogs = QueueBacklogs(lambda: link.connection, await _management(settings, stack))
        stack.push_async_callback(backlogs.close)
        hub.on_room = door.on_diagnosis = backlogs.note
        events = EventPublisher(
            confirmed=publisher, timeout_seconds=settings.publish_timeout_seconds, app_id="realtime_service"
        )
        timekeeper = Timekeeper(
            receipt_timeout_seconds=settings.receipt_timeout_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        recheck = OwnershipRecheck(ownership, hub, interval_seconds=settings.ownership_recheck_seconds)
        manager = ConnectionManager(hub, events)
        check = StartCheck(publisher)
        route = WebSocketRoute(settings, verifier, ownership, manager, hub, timekeeper)

        async def prepare(connection: BrokerConnection) -> None:
            await check.look(connection)
            with check.starting():
                await node.prepare(connection)
                cluster.returned()
                await door.prepare(connection)

        async def announced() -> None:
            await link.wait_up()  # before that there may be no exchange to say it through
            await cluster.run()

        await stack.enter_async_context(
            _kept_running(
                link.run(prepare),
                check.run(lambda: link.connection),
                timekeeper.run(metrics.loop_lag.observe),
                hub.run(),
                announced(),
                recheck.run(),
            )
        )
        stack.push_async_callback(node.delete)
        stack.push_async_callback(door.close)
        stack.push_async_callback(hub.close)
        stack.push_async_callback(cluster.leave)
        app = create_app(
            Ports(
                verifier=verifier,
                ownership=ownership,
                events=events,
                limits=CallerLimits(settings.broadcasts_per_second, settings.broadcast_burst),
                census=cluster,
                backlogs=backlogs,
                readiness=_Readiness(link, check, ownership, route),
                registry=metrics.registry,
                websocket=route,
            )
        )
        if settings.console:
            depths = QueueDepths(lambda: link.connection)
            console.Console(console.Ports(replica, hub, cluster, depths, demo_tokens)).install(app)
        port = await _listen(app, settings, stack, share_port=share_port)
        set_running(manager)
        stack.callback(set_running, None)
        log.info("listening", host=settings.host, port=port, replica=replica)
        yield Service(settings, hub, manager, route, port)


async def serve(
    settings: Settings,
    started: "asyncio.Future[Service] | None" = None,
    *,
    lifeline: int | None = None,
    demo_tokens: console.DemoTokens | None = None,
) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends the drain.

    `lifeline`: this is one of several workers on a port, and ends when this pipe does, too.
    """
    stopping = asyncio.Event()
    impatient = asyncio.Event()

    def stop() -> None:
        (impatient if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)
    if lifeline is not None:
        _when_closed(lifeline, stopping.set)
    async with running(settings, share_port=lifeline is not None, demo_tokens=demo_tokens) as service:
        if started is not None:
            started.set_result(service)
        await stopping.wait()
        drain = asyncio.create_task(service.drain())
        await asyncio.wait(
            [drain, asyncio.create_task(impatient.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        drain.cancel()


def _when_closed(pipe: int, call: Callable[[], None]) -> None:
    """Call once the other end of a pipe, to which nobody writes, is closed."""
    loop = asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(pipe)
        call()

    loop.add_reader(pipe, closed)


@asynccontextmanager
async def _kept_running(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run these for as long as the service lives. One that dies ends the service."""
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
            try:
                yield
            except Exception as error:  # not theirs: the group would hand it on wrapped in one of its own
                failure = error
            finally:
                for task in tasks:
                    task.cancel()
    except ExceptionGroup as died:
        wrong, _ = died.split(TopologyWrong)
        if wrong is None:
            raise
        failure = wrong.exceptions[0]
    if failure is not None:
        raise failure


def _verifier(settings: Settings) -> AbstractAsyncContextManager[Verifier]:
    rules = TokenRules(
        algorithms=settings.jwt_algorithms,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
    return open_verifier(
        rules,
        secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
        public_key=settings.jwt_public_key.get_secret_value() if settings.jwt_public_key else None,
        jwks_url=settings.jwt_jwks_url,
    )


async def _management(settings: Settings, stack: AsyncExitStack) -> ManagementApi | None:
    if settings.management_url is None:
        return None
    return await stack.enter_async_context(
        ManagementApi(
            settings.management_url.get_secret_value(),
            vhost=virtual_host(settings.amqp_url.get_secret_value()),
        )
    )


async def _listen(
    app: web.Application, settings: Settings, stack: AsyncExitStack, *, share_port: bool
) -> int:
    runner = web.AppRunner(
        app,
        handle_signals=False,
        access_log_class=AccessLog,
        shutdown_timeout=SHUTDOWN_SECONDS,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None
    sockets = await listen(settings.host, settings.port, backlog=LISTEN_BACKLOG, share_port=share_port)
    stack.push_async_callback(Acceptor(sockets, runner.server).close)
    return int(sockets[0].getsockname()[1])
