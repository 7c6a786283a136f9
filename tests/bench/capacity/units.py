"""What one of each costs: measured by `python -m tests.bench.capacity measure`, kept in `deploy/docs/capacity.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.processes import ROOT

FILE: Final = ROOT / "deploy" / "docs" / "capacity.json"


@dataclass(frozen=True, slots=True)
class Units:
    """Memory is resident memory in KiB, CPU is user and system time in µs; `_broker` is RabbitMQ's part."""

    replica_kib: float
    """A replica without clients."""
    client_kib: float
    """A further client of a diagnosis that has one."""
    room_kib: float
    """The first one's more: the room, and the session on its shared queue."""
    device_kib: float
    """A named client's more: the session on its own queue."""
    node_kib: float
    """RabbitMQ without queues."""
    queue_kib: float
    """An empty durable queue with its binding, and nobody there."""
    session_kib: float
    """A channel that consumes one, in RabbitMQ."""
    waiting_kib: float
    """An event of 300 bytes that waits in a queue, in RabbitMQ's memory."""
    waiting_disk_kib: float
    """The same on its disk."""
    queue_processes: float
    """Erlang processes; `+P` bounds them."""
    session_processes: float
    queue_files: float
    """Files and folders on disk, of a queue in which events wait."""
    queue_restart_ms: float
    """What it adds to the start of a node after a crash, on the two processors of the measurement."""
    event_us: float
    """An event that its one client proved and the broker deleted."""
    event_broker_us: float
    device_event_us: float
    """More where that client is named: a second queue has the event, too."""
    device_event_broker_us: float
    frame_us: float
    """The same event to a further client."""
    relay_us: float
    """More of both, where clients of the diagnosis are on a further replica."""
    relay_broker_us: float
    connect_us: float
    """Token, database, room, session, welcome; the queue is there."""
    connect_broker_us: float
    device_connect_us: float
    """More of a named client."""
    device_connect_broker_us: float
    ping_us: float
    """A PING to a silent client, and its PONG."""
    look_us: float
    """One watched diagnosis in a look at who owns it."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was predicted of a small real run, and what it had."""

    what: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured to predicted."""
        return self.measured / self.predicted


def load(path: Path = FILE) -> tuple[Units, dict[str, str], dict[str, list[Check]]]:
    """The units, where and when they were measured, and the checks by the words that repeat them."""
    kept: dict[str, Any] = json.loads(path.read_text())
    checks = {words: [Check(**each) for each in found] for words, found in kept["checks"].items()}
    return Units(**kept["units"]), kept["measured"], checks


def save(units: Units, measured: dict[str, str], checks: dict[str, list[Check]], path: Path = FILE) -> None:
    """Write all of it; figures with three digits, since no more of them mean anything."""
    kept = {
        "measured": measured,
        "units": {name: rounded(value) for name, value in asdict(units).items()},
        "checks": {
            words: [
                {"what": each.what, "predicted": rounded(each.predicted), "measured": rounded(each.measured)}
                for each in found
            ]
            for words, found in checks.items()
        },
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")


def rounded(value: float) -> float:
    """To three digits."""
    return float(f"{value:.3g}")
