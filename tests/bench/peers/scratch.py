"""Peers from PyPI: an environment of their own, so that nothing of theirs reaches the service's."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtime_service.embedded.loopback import LOOPBACK, free_ports
from tests.bench.processes import SOURCES, WORK, Missing, running

VENV: Final = WORK / "venv"
REQUIREMENTS: Final = SOURCES / "requirements.txt"


@dataclass(frozen=True, slots=True)
class Replaced:
    """The replaced module's way, running."""

    pid: int
    port: int
    publishing: http.client.HTTPConnection

    def publish(self, diagnosis: int, body: bytes) -> None:
        """Broadcast one message."""
        self.publishing.request("POST", f"/publish/{diagnosis}", body)
        self.publishing.getresponse().read()


@dataclass(frozen=True, slots=True)
class SocketIO:
    """A python-socketio server that runs; it is published to through RabbitMQ."""

    pid: int
    port: int
    exchange: str = "socketio"

    def message(self, diagnosis: int, body: bytes) -> bytes:
        """What its manager publishes for `emit("event", …, room=…)`."""
        fields = {"method": "emit", "event": "event", "data": json.loads(body), "namespace": "/"}
        return json.dumps(
            fields | {"room": str(diagnosis), "skip_sid": None, "callback": None, "host_id": "bench"}
        ).encode()


def python() -> Path:
    """The environment's interpreter; made on the first call. Raises Missing."""
    program, done = VENV / "bin" / "python", VENV / ".installed"
    if not done.exists() or done.stat().st_mtime < REQUIREMENTS.stat().st_mtime:
        try:
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
            subprocess.run(
                [program, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "-r", REQUIREMENTS],
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise Missing(f"peers from PyPI could not be installed: {error}") from error
        done.touch()
    return program


@contextmanager
def replaced() -> Iterator[Replaced]:
    """FastAPI and a dictionary. Raises Missing."""
    port = free_ports(1)[0]
    words = (python(), SOURCES / "peers" / "replaced_server.py", str(port))
    with running(words, port, log="replaced") as pid:
        publishing = http.client.HTTPConnection(LOOPBACK, port)
        yield Replaced(pid, port, publishing)
        publishing.close()


@contextmanager
def socketio(amqp_url: str) -> Iterator[SocketIO]:
    """python-socketio behind RabbitMQ. Raises Missing."""
    port = free_ports(1)[0]
    words = (python(), SOURCES / "peers" / "socketio_server.py", str(port), amqp_url)
    with running(words, port, log="socketio") as pid:
        yield SocketIO(pid, port)
