"""`serve --workers N`: replicas in processes of their own on one port, and a parent that keeps them running.

Law: whoever ends, the others know it. A worker that dies is started again, later and later while it goes on dying; a
signal reaches all of them, and the parent ends after the last one. A parent that is killed takes them along: each
holds the end of a pipe that nobody writes to, and drains when it closes.

The kernel spreads new connections over the workers (SO_REUSEPORT). The parent holds the port without listening, so
that no stranger takes it between two workers, and port 0 is the same one for all.
"""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.cli.outcome import Exit
from realtime_service.settings import Settings

log = structlog.get_logger(__name__)

FIRST_DELAY_SECONDS: Final = 0.2
LONGEST_DELAY_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 60.0
"""A worker that lived this long did not die of its start: the next one is started soon again."""
LATE_SECONDS: Final = 20.0
"""Beyond the drain, a worker that does not end is killed."""
IN_GOOD_ORDER: Final = (Exit.OK, Exit.INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)
"""How workers end that were told to; a signal kills one that has only begun to start."""


def serve_with_workers(settings: Settings, count: int) -> int:
    """Run until SIGTERM or SIGINT, and return the exit code. Raises OSError when the port is taken."""
    with _held_port(settings.host, settings.port) as port:
        lifeline, held = os.pipe()
        try:
            words = ["serve", "--host", settings.host, "--port", str(port), "--worker", str(lifeline)]
            workers = _Workers([sys.executable, "-m", "realtime_service", *words], lifeline)
            return asyncio.run(workers.run(count, settings.drain_seconds + LATE_SECONDS))
        finally:
            os.close(lifeline)
            os.close(held)


class _Workers:
    """The processes."""

    def __init__(self, command: list[str], lifeline: int) -> None:
        self._command = command
        self._lifeline = lifeline
        self._running: set[Process] = set()
        self._stopping = asyncio.Event()
        self._code: int = Exit.OK

    async def run(self, count: int, patience_seconds: float) -> int:
        """Keep them running until told to stop; then wait for the last one, but not for ever."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._forward, signum)
        tasks = [asyncio.create_task(self._keep(number)) for number in range(1, count + 1)]
        await self._stopping.wait()
        await asyncio.wait(tasks, timeout=patience_seconds)
        for process in self._running:
            log.error("worker_killed", pid=process.pid)
            process.kill()
        await asyncio.gather(*tasks)
        return self._code

    async def _keep(self, number: int) -> None:
        """Run one, and the next when it has died."""
        loop = asyncio.get_running_loop()
        pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        first = True  # later, other workers may be at work with a topology that turned wrong meanwhile
        while not self._stopping.is_set():
            since = loop.time()
            code = await self._run_one(number)
            if self._stopping.is_set():
                if code not in IN_GOOD_ORDER:
                    self._code = self._code or Exit.FAILED
                return
            log.warning("worker_ended", worker=number, code=code)
            if code == Exit.USAGE or (code == Exit.WRONG_TOPOLOGY and first):  # and will be the next time
                self._code = code
                self._forward(signal.SIGTERM)
                return
            if loop.time() - since > HEALTHY_SECONDS:
                pauses = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
            first = False
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), next(pauses))

    async def _run_one(self, number: int) -> int:
        # A group of its own: Ctrl-C reaches it through the parent alone; twice would end its drain.
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, pass_fds=(self._lifeline,), process_group=0
            )
        except OSError as error:  # no memory, too many processes
            log.error("worker_not_started", worker=number, reason=error.strerror)
            return Exit.FAILED
        log.info("worker_started", worker=number, pid=process.pid)
        self._running.add(process)
        try:
            if self._stopping.is_set():
                process.terminate()
            return await process.wait()
        finally:
            self._running.discard(process)

    def _forward(self, signum: signal.Signals) -> None:
        self._stopping.set()
        for process in self._running:
            with suppress(ProcessLookupError):
                process.send_signal(signum)


@contextmanager
def _held_port(host: str, port: int) -> Iterator[int]:
    """Hold a port for the workers. Raises OSError when another program listens there."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if port:  # a program that shares its ports would let us in without a word
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
        yield int(holder.getsockname()[1])
