"""`realtime-service prune`: deletes the queues of diagnoses that nobody has used for long."""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

from realtime_service import logs
from realtime_service.adapters.management import ManagementApi, virtual_host
from realtime_service.adapters.rabbitmq import connecting
from realtime_service.adapters.rabbitmq.pruning import SHARED_QUEUES, Pruned, Pruning, why_kept
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.cli import arguments
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.waiting import told
from realtime_service.settings import Settings, load_settings

IDLE_DAYS: Final = 30.0
"""As long as an event may wait."""
MANAGEMENT_SECONDS: Final = 30.0
"""A page of 500 queues; a busy broker takes its time."""

_EPILOG: Final = """\
Needs REALTIME_AMQP_URL and REALTIME_MANAGEMENT_URL. Safe while the service runs: a queue is unbound first, and only
deleted when it stays empty and unused; whatever comes meanwhile brings it back. RabbitMQ counts the idle time anew when
it restarts, and does not count it for quorum queues: --idle-days 0 deletes any that is unused.

example:
  realtime-service prune --idle-days 90 --dry-run
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Delete queues of diagnoses that hold nothing and that nobody has used for long."
    parser.epilog = _EPILOG
    parser.add_argument(
        "--idle-days",
        type=arguments.days,
        default=IDLE_DAYS,
        metavar="N",
        help="how long a queue must not have been used (default: %(default)g)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each queue")


def run(args: argparse.Namespace) -> int:
    """Prune and report. Raises Failed, SettingsError, BrokerUnavailable, PublishError, ManagementUnavailable."""
    logs.configure("critical", "console")
    settings = load_settings()
    if settings.management_url is None:
        raise Failed("REALTIME_MANAGEMENT_URL is not set: RabbitMQ lists its queues there", Exit.USAGE)
    report = _Report(as_json=args.json, dry_run=args.dry_run)
    asyncio.run(_prune(settings, timedelta(days=args.idle_days), report))
    report.close()
    return Exit.OK


class _Report:
    """Prints what became of the queues: each that is deleted, and how many were kept for what reason."""

    def __init__(self, *, as_json: bool, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._as_json = as_json
        self._kept = Counter[str]()
        self._deleted = 0

    def tell(self, pruned: Pruned) -> None:
        """Print a queue."""
        if self._as_json:
            print(json.dumps({**pruned._asdict(), "dry_run": self.dry_run}), flush=True)
        elif pruned.deleted:
            print(f"{'would delete' if self.dry_run else 'deleted'} {pruned.queue}", flush=True)
        self._deleted += pruned.deleted
        if not pruned.deleted:
            self._kept[pruned.reason] += 1

    def close(self) -> None:
        """Print the totals."""
        if self._as_json:
            return
        print(f"{self._deleted} {'would be deleted' if self.dry_run else 'deleted'}")
        for reason, count in sorted(self._kept.items()):
            print(f"{count} kept: {reason}", flush=True)


async def _prune(settings: Settings, idle: timedelta, report: _Report) -> None:
    assert settings.management_url is not None
    amqp_url = settings.amqp_url.get_secret_value()
    async with ManagementApi(
        settings.management_url.get_secret_value(),
        vhost=virtual_host(amqp_url),
        timeout_seconds=MANAGEMENT_SECONDS,
    ) as management:
        with told("listing the queues"):
            queues = await management.states(SHARED_QUEUES)
    reasons = {queue.name: why_kept(queue, idle, datetime.now(UTC)) for queue in queues}
    for name, reason in reasons.items():
        if reason or report.dry_run:
            report.tell(Pruned(name, deleted=not reason, reason=reason or "empty, and nobody uses it"))
    unused = [name for name, reason in reasons.items() if not reason]
    if report.dry_run or not unused:
        return
    quorum = frozenset(queue.name for queue in queues if queue.type == "quorum")
    connection = await connecting.connect(amqp_url, name="realtime prune")
    try:
        async with ConfirmedPublisher(amqp_url, name="realtime prune publishes") as publisher:
            pruning = Pruning(connection, publisher).prune(unused, quorum)
            while (pruned := await _next(pruning)) is not None:
                report.tell(pruned)
    finally:
        await connecting.close(connection)


async def _next(pruning: AsyncIterator[Pruned]) -> Pruned | None:
    """What became of the next queue; None after the last one."""
    with told("waiting whether anybody still uses them"):
        return await anext(pruning, None)
