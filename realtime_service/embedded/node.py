"""A RabbitMQ node of our own, started from an installed server.

Law: it is nobody else's. Own directory, name, cookie, user, ports and port mapper (epmd); every listener is on
loopback, Erlang's own included; whatever becomes of its owner, nothing of it is left behind.
"""

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from realtime_service.embedded.configuration import NodeConfiguration
from realtime_service.embedded.loopback import LOOPBACK, answers, wait_until
from realtime_service.embedded.programs import find_port_mapper, find_rabbitmq_server
from realtime_service.embedded.watchdog import Watchdog, WatchdogFailure

START_SECONDS: Final = 45.0
"""A start takes some 5 s on two idle cores; more only where the machine is busy with something else."""
CTL_SECONDS: Final = 60.0
START_ATTEMPTS: Final = 2
"""A port that was free when it was chosen may be taken by the time the node listens."""

_HELLO: Final = b"AMQP\x00\x00\x09\x01"
_START_METHOD: Final = b"\x01"
"""A server that speaks AMQP 0-9-1 answers the protocol header with a method frame (type 1), `connection.start`."""


class BrokerUnavailable(Exception):
    """There is no RabbitMQ to work with, and why."""


class PrivateRabbitMQ:
    """A running private node. It ends with this process; `stop` ends it before."""

    amqp_url: str
    management_url: str | None
    """`http://user:password@127.0.0.1:port`, where the management plugin was asked for."""
    port: int
    """Where it speaks AMQP; the same after every restart."""
    directory: Path
    """All that it has on disk."""

    def __init__(self, server: Path, directory: Path, *, management: bool, configuration: str = "") -> None:
        """Start it; `start_private_rabbitmq` is the way in."""
        self._server = server
        self._its = its = NodeConfiguration(directory, management, configuration)
        self._environment = its.environment()
        self._process: int | None = None
        self.directory, self.port = directory, its.port
        at = f"{its.user}:{its.password}@{LOOPBACK}"
        self.amqp_url = f"amqp://{at}:{its.port}/%2F"
        self.management_url = f"http://{at}:{its.management_port}" if management else None
        self._watchdog = Watchdog(directory)
        try:
            its.write()
            self._start_port_mapper()
            self._start()
        except BaseException:
            self._watchdog.close()
            raise

    @property
    def pid(self) -> int:
        """The pid of the Erlang VM."""
        return int(self._its.pid_file.read_text())

    def kill(self) -> None:
        """SIGKILL the VM, like a crash; its data stay, for `restart`. See `flush`."""
        if self._process is not None:
            self._watchdog.end(self._process, signal.SIGKILL)
            self._process = None

    def flush(self) -> None:
        """Write down what was declared: a queue of the last seconds before `kill` may else be gone, with its messages.

        Seen on RabbitMQ 3.10 about one time in five: declare-ok is sent before Mnesia's decision is on disk. A quorum
        queue is also written down in a directory (dets); one that is missing there never gets a leader again.
        """
        self.ctl("eval", "mnesia:dump_log(), [dets:sync(Table) || Table <- dets:all()].")

    def restart(self) -> None:
        """Start the node again, on the same ports and data; stop it in good order before, if it runs."""
        if self._process is not None:
            self._watchdog.end(self._process, signal.SIGTERM)
            self._process = None
        self._start()

    def pause(self) -> None:
        """Freeze the VM (SIGSTOP): its sockets stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen VM go on."""
        os.kill(self.pid, signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` on this node; returns what it printed. Raises CalledProcessError when it fails."""
        return subprocess.run(
            [self._server.with_name("rabbitmqctl"), "--quiet", "--node", self._its.node, *arguments],
            env=self._environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            timeout=CTL_SECONDS,
        ).stdout

    def stop(self) -> None:
        """End the node and remove its data."""
        self._watchdog.close()

    def _start_port_mapper(self) -> None:
        """Erlang's epmd, as a child of ours: one that the VM starts by itself would stay behind."""
        program = find_port_mapper()
        if program is None:
            raise BrokerUnavailable("Erlang's epmd was not found on PATH")
        self._watchdog.start(
            [program, "-address", LOOPBACK, "-port", str(self._its.mapper_port)],
            environment=self._environment,
            log=self._its.console,
        )

    def _start(self) -> None:
        self._its.pid_file.unlink(missing_ok=True)  # a killed node leaves its old one
        process = self._process = self._watchdog.start(
            [self._server], environment=self._environment, log=self._its.console
        )
        ended = False

        def answered() -> bool:
            nonlocal ended
            ended = not self._watchdog.running(process)
            return ended or self._is_up()

        if not wait_until(answered, START_SECONDS) or ended:
            reason = "ended" if ended else f"did not accept AMQP within {START_SECONDS:.0f} s"
            raise BrokerUnavailable(f"{self._server} {reason}: {self._last_words()}")

    def _is_up(self) -> bool:
        return (
            self._its.pid_file.exists()
            and answers(self.port, _HELLO, _START_METHOD)
            and (self.management_url is None or answers(self._its.management_port))
        )

    def _last_words(self) -> str:
        lines = [
            line
            for log in (self._its.log, self._its.console)
            if log.exists()
            for line in log.read_text(errors="replace").splitlines()
            if line.strip()
        ]
        return "\n".join(["", *lines[-20:]]) if lines else "it left no log"


def start_private_rabbitmq(
    *,
    management: bool = False,
    data_dir: Path | None = None,
    server: Path | None = None,
    configuration: str = "",
) -> PrivateRabbitMQ:
    """Start a node and wait until it accepts AMQP, some 5 s. Raises BrokerUnavailable.

    `data_dir` is where it keeps everything: a directory that is new or empty, and is removed with the node. `server` is
    the start script, found by itself if not given. `management` adds the management plugin and its HTTP port.
    `configuration` is added to its `rabbitmq.conf`.
    """
    server = server or find_rabbitmq_server()
    if server is None:
        raise BrokerUnavailable("no rabbitmq-server is installed")
    for attempt in range(1, START_ATTEMPTS + 1):
        directory = _make_directory(data_dir)
        try:
            return PrivateRabbitMQ(server, directory, management=management, configuration=configuration)
        except (OSError, WatchdogFailure) as error:
            raise BrokerUnavailable(f"{server} could not be started: {error}") from error
        except BrokerUnavailable as error:
            if attempt == START_ATTEMPTS or "eaddrinuse" not in str(error):
                raise
    raise AssertionError("unreachable")


def _make_directory(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="realtime-rabbitmq-"))
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise BrokerUnavailable(f"{wanted} is not empty; a private node's directory is removed with it")
    except OSError as error:
        raise BrokerUnavailable(f"{wanted} cannot hold a private node's data: {error}") from error
    return wanted.resolve()
