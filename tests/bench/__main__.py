"""`python -m tests.bench`: measures this service beside its peers, on this machine, in one run."""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.bench.broker import private_broker
from tests.bench.measuring import Bench, Result, Size
from tests.bench.peers import scratch
from tests.bench.processes import SOURCES, WORK, Missing, pin
from tests.bench.rows import backlog, connecting, fanout, latency, memory, scale, unicast
from tests.bench.table import markdown, table

ROWS: Final[dict[str, Callable[[Bench], Awaitable[Result]]]] = {
    "fanout": fanout.paced,
    "burst": fanout.burst,
    "unicast": unicast.unicast,
    "latency": latency.latency,
    "memory": memory.memory,
    "connecting": connecting.connecting,
    "backlog": backlog.backlog,
    "scale": scale.scale,
}
QUICK: Final = 0.05
BAR: Final = 30


def main() -> int:
    """Measure, print, write `build/bench/result.json` and the plots. Returns 1 when a row could not be measured."""
    words = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    words.add_argument("rows", nargs="*", choices=[*ROWS, []], help=f"of {', '.join(ROWS)}; by default all")
    words.add_argument(
        "--quick", action="store_true", help="small sizes, under a minute: shows that it works"
    )
    words.add_argument("--clients", type=int, help="clients (fan-out) or diagnoses (unicast, …)")
    words.add_argument("--no-plots", action="store_true", help="neither matplotlib nor PNG files")
    args = words.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    pin(os.getpid(), first=False)
    size = Size(QUICK if args.quick else 1.0, args.clients)
    path = WORK / "result.json"
    results = asyncio.run(measure(args.rows or list(ROWS), size, path))
    print(f"\n{path}")
    if not args.no_plots:
        with suppress(Missing):
            subprocess.run([scratch.python(), SOURCES / "plots.py", path, WORK], check=True)
    return int(any(not result.figures for result in results))


async def measure(rows: list[str], size: Size, path: Path) -> list[Result]:
    """Measure rows one after another, on one broker; each is printed, and written to `path`, once it is there."""
    results: list[Result] = []
    with private_broker() as node:
        for number, row in enumerate(rows):
            _progress(number, len(rows), row)
            try:
                results.append(await ROWS[row](Bench(node, size)))
            except (
                OSError,
                RuntimeError,
            ) as error:  # time-outs and closed clients are OSErrors; the rest goes on
                results.append(Result(row, "failed", missing=[f"{type(error).__name__}: {error}"]))
            _progress(number + 1, len(rows), "")
            print(table(results[-1:]), flush=True)
            write_down(results, path)
    return results


def write_down(results: list[Result], path: Path) -> None:
    """For programs: the machine, and all rows so far; beside it, for people, a table of the targets."""
    found = {"machine": _machine(), "rows": [asdict(result) for result in results]}
    path.write_text(json.dumps(found, indent=1))
    path.with_suffix(".md").write_text(markdown(results))


def _progress(done: int, total: int, row: str) -> None:
    if sys.stderr.isatty():
        bar = "█" * (BAR * done // total)
        print(
            f"\r{bar:░<{BAR}} {done}/{total} {row:<12}", end="" if row else "\n", file=sys.stderr, flush=True
        )


def _machine() -> dict[str, object]:
    return {
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "until": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


if __name__ == "__main__":
    sys.exit(main())
