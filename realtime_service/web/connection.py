"""One authenticated WebSocket as the hub sees it: an outbox, receipts on the wire, and an end.

Law: no task and no `await` per message. What is written in one loop turn leaves in one write, a PING behind it; the
transport's buffer is the outbox, and a client that lets it grow past the bound is too slow and told to come back.
"""

import asyncio
import secrets
import time
from typing import Final

import structlog
from aiohttp import web

from contracts.close_codes import REASONS, CloseCode
from contracts.ids import DiagnosisId, EventId
from contracts.messages import Gap, GapData, WebSocketMessage, rfc3339
from realtime_service.domain.identity import Identity
from realtime_service.domain.room import Member
from realtime_service.frames import ping_frame, pong_frame, text_frame
from realtime_service.hub import Hub
from realtime_service.web.timekeeper import Timekeeper

log = structlog.get_logger(__name__)

GAP_SECONDS: Final = 0.1
"""Evictions come in bursts, one message each: one notice tells of all within this time."""
CLOSE_SECONDS: Final = 2.0
"""How long a closing handshake may take before the socket is cut."""


class ClientConnection:
    """A socket in a room. `hub.Connection` and `timekeeper.Timed`."""

    def __init__(
        self,
        socket: "Socket",
        diagnosis: DiagnosisId,
        member: Member,
        identity: Identity,
        hub: Hub,
        timekeeper: Timekeeper,
    ) -> None:
        self.diagnosis = diagnosis
        self.member = member
        self.identity = identity
        self.connected_at = time.time()
        self._socket = socket
        self._hub = hub
        self._timekeeper = timekeeper
        self._outbox: list[bytes] = []
        self._welcomed = False
        self._flushing = False
        self._evicted: int | None = 0

    # hub.Connection

    def write(self, frame: bytes) -> None:
        """Send a frame, after the welcome and behind everything written before."""
        if self._socket.ended:
            return
        self._outbox.append(frame)
        if (number := self.member.receipts.ping_due(more_follows=True)) is not None:
            self._outbox.append(self._socket.ping(number))
        self._flush_soon()

    def tell_gap(self, evicted: int | None) -> None:
        """Add to the next gap notice; before the welcome it is the welcome that says so."""
        if self._welcomed:
            if self._evicted == 0:
                asyncio.get_running_loop().call_later(GAP_SECONDS, self._send_gap)
            self._evicted = None if evicted is None or self._evicted is None else self._evicted + evicted

    def progress(self) -> None:
        """The client proved something, or answered a PING."""
        if self.member.receipts.waiting:
            self._timekeeper.owes(self)
        else:
            self._timekeeper.owes_nothing(self)

    def end(self, code: CloseCode) -> None:
        """Close with the fixed reason of `code`."""
        if self._socket.ended:
            return
        self._hub.metrics.closed.labels(code=str(int(code))).inc()
        log.info("connection_ended", connection=self.member.id, code=int(code), reason=REASONS[code])
        self._timekeeper.forget(self)
        self._outbox.clear()
        self._socket.end(code)
        self._hub.leave(self)

    # What the route calls

    def welcome(self, message: WebSocketMessage) -> None:
        """Send the first frame; what was written meanwhile follows it."""
        self._outbox.insert(0, text_frame(message.to_bytes()))
        self._welcomed = True
        self._timekeeper.heard(self)
        self.renewed(self.identity)
        self._flush_soon()

    def renewed(self, identity: Identity) -> None:
        """The client showed a newer token."""
        self.identity = identity
        self._timekeeper.expires(self, identity.expires_at)

    def heard(self) -> None:
        """Something came from the client."""
        self._timekeeper.heard(self)

    def answer(self, message: WebSocketMessage) -> None:
        """Send a frame that is no event."""
        self.write(text_frame(message.to_bytes()))

    def pong(self, payload: bytes) -> bool:
        """A PONG came. Returns whether it proved anything."""
        number = self._socket.number_of(payload)
        if number is None:
            return False
        proved = self._hub.pong(self, number)
        self._flush_soon()  # what was sent meanwhile may want a PING of its own
        return proved

    def ack(self, event: EventId) -> bool:
        """An `ack` frame came. Returns whether it proved anything."""
        return self._hub.ack(self, event)

    def gone(self) -> None:
        """The socket is closed."""
        self._timekeeper.forget(self)
        self._outbox.clear()
        self._hub.leave(self)

    # timekeeper.Timed

    def receipt_overdue(self) -> None:
        """No proof in time: presumed dead; the events go back."""
        self.end(CloseCode.NO_RECEIPT)

    def heartbeat_due(self) -> None:
        """Ask a client that has been quiet whether it is there."""
        if self._socket.ended:
            return
        self._timekeeper.heard(self)
        if not self.member.receipts.waiting and self.member.receipts.mode != "none":
            self._ping(self.member.receipts.ping())

    def token_expired(self, expires_at: float) -> None:
        """End unless the token was renewed meanwhile."""
        if not self._socket.ended and self.identity.expires_at <= expires_at:
            self.end(CloseCode.TOKEN_EXPIRED)

    # Parts

    def _flush_soon(self) -> None:
        if self._welcomed and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._socket.ended:
            return
        receipts = self.member.receipts
        if (number := receipts.ping_due(more_follows=False)) is not None:
            self._outbox.append(self._socket.ping(number))
        if self._outbox:
            data = b"".join(self._outbox)
            self._outbox.clear()
            if not self._socket.write(data):
                self.end(CloseCode.TRY_LATER)
                return
        if receipts.mode == "none":
            self._hub.written(self)
        elif receipts.waiting:
            self._timekeeper.begins_to_owe(self)

    def _ping(self, number: int) -> None:
        self.write(self._socket.ping(number))

    def _send_gap(self) -> None:
        data = GapData(evicted=self._evicted)
        self._evicted = 0
        self.answer(Gap(diagnosis_id=self.diagnosis, timestamp=rfc3339(time.time()), data=data))


class Socket:
    """An accepted WebSocket: raw frames out, numbered PINGs, one close handshake with an end."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request, max_unsent_bytes: int) -> None:
        """Raises ConnectionResetError when the client is gone already."""
        if request.transport is None:
            raise ConnectionResetError
        self.ws = ws
        self.ended = False
        self._transport = request.transport
        self._max_unsent_bytes = max_unsent_bytes
        self._nonce = secrets.token_hex(4)
        self._closing: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> bool:
        """Hand bytes to the transport. False: the client is too slow, too much of what it was sent is still unsent."""
        if self.ended or self._transport.is_closing():
            return True
        if self._transport.get_write_buffer_size() + len(data) > self._max_unsent_bytes:
            return False
        self._transport.write(data)
        return True

    def ping(self, number: int) -> bytes:
        """A PING that only this socket's client can answer."""
        return ping_frame(f"{self._nonce}.{number}".encode())

    def number_of(self, payload: bytes) -> int | None:
        """The number of the PING that a PONG answers; None for an unsolicited one (RFC 6455 §5.5.3 allows them)."""
        nonce, _, number = payload.partition(b".")
        if nonce != self._nonce.encode() or not number.isdigit() or len(number) > 18:
            return None
        return int(number)

    def answer_ping(self, payload: bytes) -> None:
        """Answer the client's PING."""
        self.write(pong_frame(payload))

    def end(self, code: CloseCode) -> None:
        """Start the closing handshake; nothing is written after it."""
        if not self.ended:
            self.ended = True
            self._closing = asyncio.create_task(self._close(code))

    async def closed(self) -> None:
        """Wait until the closing handshake, if one was started, is over."""
        if self._closing:
            await asyncio.wait([self._closing])

    async def _close(self, code: CloseCode) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.ws.close(code=code, message=REASONS[code].encode())
        except (TimeoutError, OSError, RuntimeError):
            pass
        finally:
            if not self._transport.is_closing():
                self._transport.close()
            # A client that reads nothing would keep a closed transport's buffer for ever.
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abort)
