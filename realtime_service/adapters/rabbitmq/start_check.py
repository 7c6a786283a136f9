"""Whether RabbitMQ is set up as the service needs it: asked at every connect, and again while it is not.

Law: what waiting cannot repair ends a start, with findings that say what to do; it never ends a replica that was
connected before, which goes on with what there is and says so in its log and in `/readyz`. A broker that is merely away
is nothing of the kind: it is waited for.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from aiormq.exceptions import ChannelAccessRefused

from contracts import topology
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection
from realtime_service.adapters.rabbitmq.permissions import check_permissions, check_publishing, refusal
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.topology import declare_topology
from realtime_service.domain.errors import BrokerUnavailable, TopologyWrong
from realtime_service.domain.finding import Finding, Severity

log = structlog.get_logger(__name__)

LOOK_AGAIN_SECONDS: Final = 5.0
"""While it is wrong: somebody may be repairing it."""


class StartCheck:
    """The look, and what came of the last one."""

    def __init__(
        self, publisher: ConfirmedPublisher, *, look_again_seconds: float = LOOK_AGAIN_SECONDS
    ) -> None:
        self._publisher = publisher
        self._look_again_seconds = look_again_seconds
        self._started = False
        self._findings: list[Finding] = []

    @property
    def wrong(self) -> bool:
        """Whether events may be lost, or a promise be broken, by how the broker is set up."""
        return _wrong(self._findings)

    async def look(self, connection: BrokerConnection) -> None:
        """Declare what is missing, and say what is wrong. Raises TopologyWrong at the start, BrokerUnavailable."""
        findings = await declare_topology(connection)
        if not self._started:
            findings += await check_permissions(connection)
            findings += await check_publishing(self._publisher)
            if _wrong(findings):
                raise TopologyWrong(findings)
        self._note(findings)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Around the first use of what was looked at: what is refused there ends a start, too."""
        try:
            yield
        except ChannelAccessRefused as error:
            if self._started:
                raise
            raise TopologyWrong([refusal(str(error), {topology.UNROUTED: "read"})]) from error
        self._started = True

    async def run(self, connection: Callable[[], BrokerConnection | None]) -> None:
        """Look again while it is wrong, for ever."""
        while True:
            await asyncio.sleep(self._look_again_seconds)
            if self.wrong and (current := connection()) is not None:
                try:
                    await self.look(current)
                except BrokerUnavailable as error:
                    log.warning("topology_not_seen", reason=str(error))

    def _note(self, findings: list[Finding]) -> None:
        if findings != self._findings:
            for finding in findings:
                tell(finding)
        if self.wrong and not _wrong(findings):
            log.info("topology_repaired")
        self._findings = findings


def _wrong(findings: list[Finding]) -> bool:
    return any(finding.severity is Severity.ERROR for finding in findings)


def tell(finding: Finding) -> None:
    """Log it."""
    fields = {
        "object": finding.object,
        "found": finding.found,
        "problem": finding.problem,
        "advice": finding.advice,
    }
    if finding.severity is Severity.ERROR:
        log.error("topology_wrong", **fields)
    else:
        log.warning("topology_odd", **fields)
