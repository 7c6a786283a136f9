"""The tables of `deploy/docs/capacity.md`, made from the unit costs."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Final

from tests.bench.capacity.model import CHANNEL_LIMIT, GIB, PROCESS_LIMIT, Load, Plan, Site, plan
from tests.bench.capacity.units import Check, Units
from tests.bench.processes import ROOT

PAGE: Final = ROOT / "deploy" / "docs" / "capacity.md"
SIZES: Final = (10_000, 100_000, 1_000_000)
CASES: Final = (
    ("one unnamed client a diagnosis", Load(0), Site()),
    ("one named client a diagnosis", Load(0, named=1), Site()),
    ("five unnamed clients a diagnosis", Load(0, per_diagnosis=5), Site()),
    ("five, of which two are named", Load(0, per_diagnosis=5, named=0.4), Site()),
    ("five unnamed, no hashing balancer", Load(0, per_diagnosis=5), Site(hashed=False)),
    ("one unnamed, 360 events an hour", Load(0, events_per_hour=360), Site()),
)
_GENERATED: Final = re.compile(r"(<!-- generated: ([a-z ]+) -->\n)(.*?)(<!-- /generated -->)", re.DOTALL)
_WHAT: Final = re.compile(r'^    (\w+): float\n(?:    """(.+?)"""\n)?', re.M | re.DOTALL)


def fresh(text: str, units: Units, measured: dict[str, str], checks: dict[str, list[Check]]) -> str:
    """The page with its tables written anew."""
    tables: dict[str, Callable[[], str]] = {
        "units": lambda: _units(units, measured),
        "plans": lambda: _plans(units),
        "brokers": lambda: _brokers(units),
        "limits": lambda: _limits(units),
        "checks": lambda: _checks(checks),
    }
    return _GENERATED.sub(lambda found: f"{found[1]}\n{tables[found[2]]()}\n{found[4]}", text)


def said(load: Load, site: Site, units: Units) -> str:
    """One plan in full, for a terminal."""
    found = plan(load, site, units)
    width = max(len(each.name) for each in fields(Plan))
    values = ((each.name, getattr(found, each.name)) for each in fields(Plan))
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}  {value if isinstance(value, str) else number(value)}"
        for name, value in values
    )


def number(value: float) -> str:
    """Short, and no more exact than it is known."""
    for size, unit in ((1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / size * (10 if unit == ' k' else 1):.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _units(units: Units, measured: dict[str, str]) -> str:
    rows = [(name, number(getattr(units, name))) for name in Units.__slots__]
    where = ", ".join(f"{name} {value}" for name, value in measured.items())
    half = (len(rows) + 1) // 2
    pairs = zip(rows[:half], [*rows[half:], ("", "")][:half], strict=True)
    table = _table(("what", "", "what", ""), ((a, b, c, d) for (a, b), (c, d) in pairs))
    return f"Measured: {where}.\n\n{table}"


def _cases() -> Iterable[tuple[str, int, Load, Site]]:
    for name, load, site in CASES:
        for clients in SIZES:
            sized = {each.name: getattr(load, each.name) for each in fields(Load)} | {"clients": clients}
            yield name, clients, Load(**sized), site


def _plans(units: Units) -> str:
    head = (
        "clients", "of which", "replicas", "because", "MiB each", "processors each", "files each",
        "s until all of one are back",
    )  # fmt: skip
    rows = []
    for name, clients, load, site in _cases():
        found = plan(load, site, units)
        figures = (found.replica_mib, found.replica_cpu, found.replica_files, found.return_seconds)
        rows.append(
            (number(clients), name, number(found.replicas), found.replicas_because, *map(number, figures))
        )
    return _table(head, rows)


def _brokers(units: Units) -> str:
    head = (
        "clients", "of which", "events/s", "queues", "channels", "GiB", "processors", "Erlang processes",
        "GiB on disk", "minutes to start", "nodes", "because",
    )  # fmt: skip
    rows = []
    for name, clients, load, site in _cases():
        found = plan(load, site, units)
        figures = (
            found.events_per_second, found.queues, found.channels, found.broker_gib, found.broker_cpu,
            found.broker_processes, found.broker_disk_gib, found.restart_seconds / 60, found.nodes,
        )  # fmt: skip
        rows.append((number(clients), name, *map(number, figures), found.nodes_because))
    return _table(head, rows)


def _limits(units: Units) -> str:
    """Where one node of the default site comes to its end, with a client on every second queue."""
    site = Site()
    room = site.node_gib * GIB * site.watermark - units.node_kib
    pair_kib = 2 * units.queue_kib + units.session_kib
    pair_processes = 2 * units.queue_processes + units.session_processes
    rows = (
        ("memory: watermark of 16 GiB × 0.6", number(room / pair_kib)),
        (f"Erlang processes: {PROCESS_LIMIT:,}", number(PROCESS_LIMIT / pair_processes)),
        ("channels of one replica's connection: 2047 (as RabbitMQ comes)", "2,047, then another connection"),
        (
            f"channels of one replica's connection: {CHANNEL_LIMIT:,} (`channel_max = 0`)",
            number(CHANNEL_LIMIT),
        ),
        ("a start takes five minutes", number(300_000 / (2 * units.queue_restart_ms))),
        ("8 processors, at 10 events an hour", number(8 / (20 / 3600 * units.event_broker_us / 1e6))),
    )
    return _table(("limit of one node", "connected diagnoses"), rows)


def _checks(checks: dict[str, list[Check]]) -> str:
    rows = [
        (f"`{words}`", each.what, number(each.predicted), number(each.measured), f"{each.ratio:.2f}")
        for words, found in checks.items()
        for each in found
    ]
    return _table(("check", "what", "predicted", "measured", "ratio"), rows)
