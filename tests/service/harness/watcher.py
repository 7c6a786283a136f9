"""A client in a process of its own, on the `websockets` library: it can be frozen and killed.

Law: a frame is written down before the proof of it goes out; what a killed client had proved is therefore on record.

    argv[1], JSON: url; ack (bool); seed (int or null: stays until it is told otherwise)
    standard output, one JSON array a line:
        [connection, "frame", {…}]    [connection, "proven", number of events]    [connection, "closed", code]

It comes back whenever its connection ends, until standard input is closed; a code that forbids that ends it.
"""

import json
import os
import random
import select
import socket
import struct
import sys
import time
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

PATIENCE_SECONDS = 0.1
STAY_SECONDS = (0.05, 1.2)
ABSENT_SECONDS = (0.0, 0.1)
GOODBYE_SECONDS = 3.0
"""How long a closing handshake may take before the socket is reset."""
STAY_AWAY = (1008, 1009, 4409)


def tell(connection: int, what: str, value: Any) -> None:
    """One write a line: a kill leaves whole lines."""
    os.write(1, json.dumps([connection, what, value]).encode() + b"\n")


class Visit:
    """One connection."""

    def __init__(self, number: int, url: str, *, ack: bool) -> None:
        self.number = number
        self.ack = ack
        uri = parse_uri(url)
        self.protocol = ClientProtocol(uri)
        self.socket = socket.create_connection((uri.host, uri.port), timeout=10)
        self.protocol.send_request(self.protocol.connect())
        self.events = 0
        self.newest = ""
        self.acked = 0
        self.covered: int | None = None
        self.over = False
        self.send()

    def send(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.socket.sendall(data)
            else:
                self.socket.shutdown(socket.SHUT_WR)

    def read(self) -> None:
        """Take what came, write it down, then answer."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
            self.over = True
        for event in self.protocol.events_received():
            if isinstance(event, Frame):
                self.hear(event)
            elif isinstance(event, Response) and self.protocol.handshake_exc is not None:
                raise self.protocol.handshake_exc
        if self.ack and self.acked < self.events and self.protocol.state is State.OPEN:
            self.protocol.send_text(json.dumps({"type": "ack", "event_id": self.newest}).encode())
            self.acked = self.covered = self.events
        try:
            self.send()
        except OSError:  # the other end is gone; what it sent before can still be read
            return
        if self.covered is not None:
            tell(self.number, "proven", self.covered)
            self.covered = None

    def hear(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            message = json.loads(bytes(frame.data))
            tell(self.number, "frame", message)
            if message["type"].endswith("_update"):
                self.events += 1
                self.newest = message["event_id"]
        elif frame.opcode is Opcode.PING and not self.ack:
            self.covered = self.events  # its PONG is about to be sent

    def leave(self, *, rudely: bool) -> None:
        if rudely:  # a reset, as when a process dies or a router forgets
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.over = True
        elif self.protocol.state is State.OPEN:
            self.protocol.send_close(1000)
            self.send()

    def end(self) -> int:
        self.socket.close()
        closed = self.protocol.close_rcvd
        code = closed.code if closed else 1006
        tell(self.number, "closed", code)
        return code


def stay(visit: Visit, until: float | None, *, rudely: bool) -> bool:
    """Read until the connection ends, by itself or at `until`. Returns whether standard input was closed."""
    told = leaving = False
    while not visit.over:
        wait = None if until is None else max(0.0, until - time.monotonic())
        ready, _, _ = select.select([visit.socket.fileno(), *([] if told else [0])], [], [], wait)
        told = told or 0 in ready
        if visit.socket.fileno() in ready:
            visit.read()
        if (until is not None and time.monotonic() >= until) or (told and not leaving):
            visit.leave(rudely=leaving or (rudely and not told))
            leaving, until = True, time.monotonic() + GOODBYE_SECONDS
    return told


def main() -> None:
    """Come, watch, leave, come again."""
    wishes = json.loads(sys.argv[1])
    chance = None if wishes["seed"] is None else random.Random(wishes["seed"])
    number, told = 0, False
    while not told:
        try:
            visit = Visit(number, wishes["url"], ack=wishes["ack"])
            until = time.monotonic() + chance.uniform(*STAY_SECONDS) if chance else None
            told = stay(visit, until, rudely=bool(chance and chance.random() < 0.5))
            if visit.end() in STAY_AWAY:
                return
            number += 1
            pause = chance.uniform(*ABSENT_SECONDS) if chance else 0.0
        except (OSError, InvalidHandshake):
            pause = PATIENCE_SECONDS
        if not told:
            told = bool(select.select([0], [], [], pause)[0])


if __name__ == "__main__":
    main()
