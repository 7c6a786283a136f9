"""One authenticated WebSocket as the hub sees it: an outbox, receipts on the wire, and an end.

Law: no task and no `await` per message. What is written in one loop turn leaves in one write, a PING behind it; the
transport's buffer is the outbox, and a client that lets it grow past the bound is too slow and told to come back.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final, cast

import structlog
from aiohttp import web

from contracts.close_codes import REASONS, CloseCode
from contracts.ids import DiagnosisId, EventId
from contracts.messages import Gap, GapData, WebSocketMessage, rfc3339
from realtime_service.domain.identity import Identity
from realtime_service.domain.receipts import CrowdLog
from realtime_service.domain.room import Member
from realtime_service.frames import ping_frame, pong_frame, text_frame
from realtime_service.hub import Hub
from realtime_service.logs import hashed
from realtime_service.web.proofs import ProvingWebSocket
from realtime_service.web.rests import Rests
from realtime_service.web.timekeeper import Timekeeper

log = structlog.get_logger(__name__)

GAP_SECONDS: Final = 0.1
"""Evictions come in bursts, one message each: one notice tells of all within this time."""
CLOSE_SECONDS: Final = 2.0
"""How long a closing handshake may take before the socket is cut."""


class ClientConnection:
    """A socket in a room. `hub.Connection` and `timekeeper.Timed`."""

    __slots__ = (
        "_ask",
        "_ends_with",
        "_evicted",
        "_flushing",
        "_gone",
        "_hub",
        "_outbox",
        "_rests",
        "_socket",
        "_timekeeper",
        "_welcomed",
        "_writer",
        "connected_at",
        "diagnosis",
        "identity",
        "member",
    )

    def __init__(
        self,
        socket: "Socket",
        diagnosis: DiagnosisId,
        member: Member,
        identity: Identity,
        hub: Hub,
        timekeeper: Timekeeper,
        writer: "TurnWriter",
        rests: Rests,
    ) -> None:
        self.diagnosis = diagnosis
        self.member = member
        self.identity = identity
        self.connected_at = socket.opened_at
        self._socket = socket
        self._hub = hub
        self._timekeeper = timekeeper
        self._writer = writer
        self._rests = rests
        self._outbox: list[bytes] = []
        self._ask = False
        self._welcomed = False
        self._flushing = False
        self._gone = False
        self._evicted: int | None = 0
        self._ends_with: CloseCode | None = None

    # crowd.Walker

    def step_in(self, log: CrowdLog) -> bool:
        """Be sent what a crowd is sent, from here on, unless something of its own is under way."""
        able = self._welcomed and not self._outbox and not self._over and self._ends_with is None
        return able and self.member.receipts.mode != "none" and self.member.receipts.step_in(log)

    def writer(self) -> Callable[[bytes], object]:
        """What hands bytes to the socket, unasked whether it takes them."""
        return self._socket.write_anyhow

    def ask_now(self) -> None:
        """Ask for a proof of what was written, unless it is being asked; one that says so by itself is listened to."""
        if self._over:
            return
        if self.member.receipts.mode == "ack":
            self._socket.resume_reading()
        elif (number := self.member.receipts.ping_due()) is not None:
            if not self._socket.write(self._socket.ping(number)):
                self.end(CloseCode.TRY_LATER)
                return
            self._timekeeper.begins_to_owe(self)

    def owes(self) -> None:
        """Something was written: a proof is asked for in a while, and the receipt's clock starts unless it runs."""
        receipts = self.member.receipts
        if self._over:
            return
        if receipts.mode == "pong" and receipts.uncovered:
            self._timekeeper.asks_later(self)
        if receipts.waiting:
            self._timekeeper.begins_to_owe(self)

    def end_if_slow(self) -> None:
        """End if too much of what was written is unsent."""
        if not self._socket.write(b""):
            self.end(CloseCode.TRY_LATER)

    # hub.Connection

    @property
    def unsent_bytes(self) -> int:
        """What the network did not take yet."""
        return self._socket.unsent_bytes

    def send(self, event: EventId, frame: bytes) -> None:
        """Send an event's frame, after the welcome and behind everything written before."""
        if self._over or self._ends_with is not None:
            return
        number = self.member.receipts.sent(event, len(frame))
        self._outbox.append(frame)
        if number is not None:
            self._outbox.append(self._socket.ping(number))
        if not self._flushing:
            self._flush_soon()

    def ask(self) -> None:
        """Ask for a proof of what was sent with the next write, not some time later."""
        self._ask = True

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

    def rest(self) -> None:
        """Nobody waits for what the client proves next: one that was not asked for it is read a little later."""
        if self.member.receipts.mode == "ack":
            self._rests.rest(self._socket)

    def end(self, code: CloseCode) -> None:
        """Close with the fixed reason of `code`; what was sent before is written before."""
        if not self._over:
            self._hub.flush(self.diagnosis)
        if self._over:  # it was too slow for that
            return
        cause = "slow" if code is CloseCode.TRY_LATER else code.name.lower()
        self._hub.metrics.closed.labels(code=str(int(code)), cause=cause).inc()
        log.info(
            "connection_ended",
            connection=self.member.id,
            diagnosis=hashed(self.diagnosis),
            code=int(code),
            reason=REASONS[code],
            cause=cause,
        )
        self._timekeeper.forget(self)
        self._outbox.clear()
        self._socket.end(code)
        self.member.receipts.step_out()
        self._hub.leave(self)

    def broke_off(self, code: int) -> None:
        """The WebSocket library closed: the client broke the protocol."""
        if self._socket.ended:
            return
        self._hub.metrics.closed.labels(code=str(code), cause="protocol").inc()
        log.info(
            "connection_ended",
            connection=self.member.id,
            diagnosis=hashed(self.diagnosis),
            code=code,
            cause="protocol",
        )

    def end_when_proven(self, code: CloseCode) -> None:
        """Close now if nothing is unproven, else with the proof that leaves nothing; nothing more is sent till then."""
        self._hub.flush(self.diagnosis)
        self._ends_with = code
        self.member.receipts.step_out()
        self._ask = True
        self._flush_soon()
        self._end_if_proven()

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
        self._write(text_frame(message.to_bytes()))

    def pong(self, payload: bytes) -> bool:
        """A PONG came. Returns whether it proved anything."""
        number = self._socket.number_of(payload)
        if number is None:
            return False
        proved = self._hub.pong(self, number)
        self._end_if_proven()
        if self.member.receipts.uncovered:
            self._flush_soon()  # what was sent meanwhile wants a PING of its own
        return proved

    def proof(self, payload: bytes) -> bool:
        """A PONG came. Returns whether it proved anything; one that did not is heard like any other frame."""
        if not self.pong(payload):
            return False
        self.heard()
        return True

    def acknowledged(self, events: list[str]) -> bool:
        """`ack` frames came together. Returns whether the last of them proved anything; if not, each is to be told.

        One that proved nothing by itself is heard like any other frame.
        """
        if not self.ack(EventId(events[-1])):
            return False
        for event in events[:-1]:
            if not self.member.receipts.unproven:
                break
            self.ack(EventId(event))  # an app may acknowledge in another order
        self.heard()
        return True

    def ack(self, event: EventId) -> bool:
        """An `ack` frame came. Returns whether it proved anything."""
        proved = self._hub.ack(self, event)
        self._end_if_proven()
        return proved

    def hung_up(self) -> None:
        """The socket is closed: nothing is sent, asked or waited for any more."""
        self._gone = True
        self._timekeeper.forget(self)
        self._outbox.clear()
        self.member.receipts.step_out()

    def gone(self) -> None:
        """Leave the room."""
        self.hung_up()
        self._hub.leave(self)

    # timekeeper.Timed

    def receipt_overdue(self) -> None:
        """No proof in time: presumed dead; the events go back."""
        self.end(CloseCode.NO_RECEIPT)

    def ask_due(self) -> None:
        """Something was sent a while ago and not asked for."""
        if self.member.receipts.place is not None:
            self.ask_now()
            return
        self._ask = True
        self._flush_soon()

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

    @property
    def _over(self) -> bool:
        """Whether nothing is written any more."""
        return self._gone or self._socket.ended

    def _end_if_proven(self) -> None:
        if self._ends_with is not None and not self.member.receipts.unproven:
            self.end(self._ends_with)

    def _flush_soon(self) -> None:
        if self._welcomed and not self._flushing:
            self._flushing = True
            self._writer.soon(self)

    def flush(self) -> None:
        """Write what was sent in this turn of the loop, and behind it, if it is time, a PING."""
        self._flushing = False
        if self._over:
            return
        receipts = self.member.receipts
        if receipts.mode == "pong" and receipts.uncovered:
            if not self._ask:
                self._timekeeper.asks_later(self)
            elif (number := receipts.ping_due()) is not None:
                self._outbox.append(self._socket.ping(number))
                self._ask = False
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
        self._write(self._socket.ping(number))

    def _write(self, frame: bytes) -> None:
        if not self._socket.ended:
            self._outbox.append(frame)
            self._flush_soon()

    def _send_gap(self) -> None:
        data = GapData(evicted=self._evicted)
        self._evicted = 0
        self.answer(Gap(diagnosis_id=self.diagnosis, timestamp=rfc3339(time.time()), data=data))


class TurnWriter:
    """Writes what connections were sent in a turn of the loop: one write for each, one call-back for all."""

    def __init__(self) -> None:
        self._waiting: list[ClientConnection] = []
        self._loop: asyncio.AbstractEventLoop | None = (
            None  # asking which one runs is a system call (Python 3.11)
        )

    def soon(self, connection: ClientConnection) -> None:
        """Let it write at the end of this turn."""
        if not self._waiting:
            self._loop = self._loop or asyncio.get_running_loop()
            self._loop.call_soon(self._write)
        self._waiting.append(connection)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            try:
                connection.flush()
            except Exception as error:
                log.exception("write_failed", connection=connection.member.id, error=type(error).__name__)


class Socket:
    """An accepted WebSocket: raw frames out, numbered PINGs, one close handshake with an end."""

    __slots__ = (
        "_closing",
        "_max_unsent_bytes",
        "_nonce",
        "_transport",
        "ended",
        "opened_at",
        "ws",
    )

    def __init__(self, ws: ProvingWebSocket, request: web.Request, max_unsent_bytes: int) -> None:
        """Raises ConnectionResetError when the client is gone already."""
        if request.transport is None:
            raise ConnectionResetError
        self.ws = ws
        self.opened_at = time.time()
        """Unix seconds."""
        self.ended = False
        self._transport = request.transport
        self._max_unsent_bytes = max_unsent_bytes
        self._nonce = f"{secrets.token_hex(4)}.".encode()
        self._closing: asyncio.Task[None] | None = None

    @property
    def gone(self) -> bool:
        """Whether the client is known to be gone, without a word."""
        return self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        """What the network did not take yet."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Leave what comes in the kernel's buffer."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless aiohttp has more to handle than it would take."""
        protocol = cast(web.RequestHandler | None, self._transport.get_protocol())
        if not self._transport.is_closing() and protocol is not None and not protocol._reading_paused:
            self._transport.resume_reading()

    @property
    def write_anyhow(self) -> Callable[[bytes], object]:
        """Hands bytes to the transport, whatever state that is in."""
        return self._transport.write

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
        return ping_frame(b"%b%d" % (self._nonce, number))

    def number_of(self, payload: bytes) -> int | None:
        """The number of the PING that a PONG answers; None for an unsolicited one (RFC 6455 §5.5.3 allows them)."""
        number = payload.removeprefix(self._nonce)
        if len(number) in (0, len(payload)) or not number.isdigit() or len(number) > 18:
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
