"""`python -m tests.bench.capacity`: what so many clients need, from measured unit costs.

Without a command: a plan, by arithmetic alone. `measure` measures the unit costs anew, some minutes long; `check` holds
a small real system against the arithmetic; both write `deploy/docs/capacity.json`. `page` writes the tables of
`deploy/docs/capacity.md` anew.
"""

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import time
from dataclasses import MISSING, Field, fields, replace
from typing import Any, Final

from realtime_service.embedded.programs import find_rabbitmq_server
from tests.bench.capacity import page, units
from tests.bench.capacity.check import Shape, check
from tests.bench.capacity.measure import measure
from tests.bench.capacity.model import Load, Site
from tests.bench.processes import WORK, pin

DIAGNOSES: Final = 1500
CHECKS: Final = (
    ("--clients 1200", Shape(1200)),
    ("--clients 500 --named 1", Shape(500, named=1)),
    ("--clients 800 --per-diagnosis 4 --replicas 2", Shape(800, per_diagnosis=4, replicas=2)),
)
"""What `check` without words runs, and the page shows."""


def main(words: list[str] | None = None) -> int:
    """Do what the words say."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for each in (*fields(Load), *fields(Site)):
        _option(parser, each)
    commands = parser.add_subparsers(dest="command", metavar="measure | check | page")
    measuring = commands.add_parser("measure", help="measure the unit costs")
    measuring.add_argument("--diagnoses", type=int, default=DIAGNOSES)
    checking = commands.add_parser("check", help="hold the arithmetic against a real system")
    for each in fields(Shape):
        kind = float if each.name == "known" else int
        checking.add_argument(f"--{each.name.replace('_', '-')}", type=kind, dest=f"check_{each.name}")
    commands.add_parser("page", help="write the page's tables anew")
    args = parser.parse_args(words)
    if args.command is None:
        print(page.said(_from(Load, args), _from(Site, args), units.load()[0]))
    elif args.command == "measure":
        _measure(args.diagnoses)
    elif args.command == "check":
        _check({each.name: getattr(args, f"check_{each.name}") for each in fields(Shape)})
    if args.command is not None:
        page.PAGE.write_text(page.fresh(page.PAGE.read_text(), *units.load()))
    return 0


def _option(parser: argparse.ArgumentParser, of: Field[Any]) -> None:
    default = 100_000 if of.default is MISSING else of.default
    name = f"--{of.name.replace('_', '-')}"
    if isinstance(default, bool):
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default)
    else:
        parser.add_argument(name, type=type(default), default=default, help=f"{default:g}")


def _from(kind: type[Any], args: argparse.Namespace) -> Any:
    return kind(**{each.name: getattr(args, each.name) for each in fields(kind)})


def _measure(diagnoses: int) -> None:
    _ready()
    found = asyncio.run(measure(diagnoses, lambda step: print(step, file=sys.stderr, flush=True)))
    kept = units.load()[2] if units.FILE.exists() else {}
    busy = {"load average": f"{os.getloadavg()[1]:.1f}"}
    units.save(found, {"on": time.strftime("%Y-%m-%d", time.gmtime()), **_machine(), **busy}, kept)


def _check(words: dict[str, int | None]) -> None:
    _ready()
    costs, measured, kept = units.load()
    given = {name: value for name, value in words.items() if value is not None}
    said = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    shapes = [(said, replace(Shape(1000), **given))] if given else CHECKS
    for said, shape in shapes:
        found = asyncio.run(check(shape, costs))
        print(said)
        for each in found:
            print(f"  {each.what}: predicted {each.predicted:.0f}, measured {each.measured:.0f}", flush=True)
        kept[said] = found
    if not given:  # what somebody tries is not written down
        units.save(costs, measured, {said: kept[said] for said, _ in CHECKS})


def _ready() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    pin(os.getpid(), first=False)


def _machine() -> dict[str, str]:
    server = find_rabbitmq_server()
    assert server is not None
    version = subprocess.run(
        [server.with_name("rabbitmqctl"), "version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return {
        "processors": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        "RabbitMQ": version,
    }


if __name__ == "__main__":
    sys.exit(main())
