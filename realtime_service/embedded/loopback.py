"""Ports on the loopback interface: finding free ones, and waiting until somebody answers there."""

import secrets
import socket
import time
from collections.abc import Callable
from typing import Final

LOOPBACK: Final = "127.0.0.1"

PORTS: Final = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections (Linux: from 32768, others: from 49152). A client that
tries again and again on one of those, while its server is away, is once connected to itself, and then holds the port
that the server comes back to."""

POLL_SECONDS: Final = 0.05
PROBE_SECONDS: Final = 1.0


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now. Chosen at random, so that several owners seldom meet."""
    found: set[int] = set()
    while len(found) < count:
        port = PORTS[secrets.randbelow(len(PORTS))]
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        found.add(port)
    return list(found)


def answers(port: int, question: bytes = b"", reply: bytes = b"") -> bool:
    """Whether the server on a port accepts a connection and answers `question` with something that begins `reply`."""
    try:
        with socket.create_connection((LOOPBACK, port), PROBE_SECONDS) as probe:
            probe.sendall(question)
            return not reply or probe.recv(len(reply)) == reply
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until a condition holds; False when it does not within `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(POLL_SECONDS)
    return True
