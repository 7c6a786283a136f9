"""Programs that are measured: started on loopback, waited for, put on a processor, ended; and what they used."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from realtime_service.embedded.loopback import answers, wait_until

ROOT: Final = Path(__file__).parents[2]
WORK: Final = ROOT / "build" / "bench"
"""Everything a run leaves; untracked."""
SOURCES: Final = Path(__file__).parent
START_SECONDS: Final = 60.0
MANY_FILES: Final = 65_536
STOP_SECONDS: Final = 15.0
_ALL: Final = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()


class Missing(Exception):
    """A peer that cannot be had on this machine, and why."""


@contextmanager
def running(
    words: Sequence[str | Path], port: int, env: Mapping[str, str] | None = None, log: str = "peer"
) -> Iterator[int]:
    """Run a server until the block ends; yields its pid once it accepts connections on `port`.

    It has the first processor to itself where there are several: its clients and the broker get the others.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    with (WORK / f"{log}.log").open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in words],
            env={**inherited, **(env or {})},
            cwd=WORK,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            up = wait_until(lambda: process.poll() is not None or answers(port), START_SECONDS)
            if not up or process.poll() is not None:
                raise Missing(f"{log} did not start, see {output.name}")
            pin(process.pid, first=True)
            yield process.pid
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            if process.poll() is None:
                process.kill()
                process.wait()


def most_files() -> int:
    """Allow this process and those it starts MANY_FILES open files, or what the machine allows; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, MANY_FILES)
    with suppress(ValueError, OSError):  # it is not root's
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def pin(pid: int, *, first: bool) -> None:
    """Give a process and its descendants the first processor, or all but the first; nothing where there is one."""
    cores = sorted(_ALL)
    if len(cores) > 1:
        for process in tree(pid):
            for thread in process.threads():
                with suppress(OSError):
                    os.sched_setaffinity(thread.id, cores[:1] if first else cores[1:])


def cpu_seconds(*pids: int) -> float:
    """User and system time that the processes and their descendants have used (`/proc/<pid>/stat`)."""
    return sum(sum(process.cpu_times()[:2]) for pid in pids for process in tree(pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; what they share counts for each."""
    return sum(process.memory_info().rss for process in tree(pid))


def compiled(source: str) -> Path:
    """A C program of this folder, compiled by the machine's compiler unless that was done since its last change."""
    path, program = SOURCES / source, WORK / source.removesuffix(".c")
    if not program.exists() or program.stat().st_mtime < path.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            sys.exit("A C compiler is needed for the clients: apt-get install gcc libc6-dev")
        subprocess.run([compiler, "-O2", "-Wall", "-o", program, path], check=True)
    return program
