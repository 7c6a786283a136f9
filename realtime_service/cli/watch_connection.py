"""One client of `/ws/{diagnosis_id}`, connection after connection.

Law: a PING is answered, and an `ack` sent, only after everything before it was shown: each of them proves it.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import WSMessage, WSMsgType
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from contracts.close_codes import REASONS, CloseCode
from contracts.ids import EventId
from contracts.messages import SUBPROTOCOL, Ack, ErrorMessage, EventMessage, Gap, Pong, Welcome
from realtime_service.cli.arguments import reason
from realtime_service.cli.outcome import Failed
from realtime_service.cli.waiting import told
from realtime_service.cli.watch_screen import Message, Screen
from realtime_service.domain.recent import RecentIds

HANDSHAKE_SECONDS: Final = 10.0
WELCOME_SECONDS: Final = 60.0
"""How long the first frame may take; the server gives itself 10 s by default."""
FAREWELL_SECONDS: Final = 2.0
LAST_PING_SECONDS: Final = 1.0
"""The PING that asks for the last event's proof is on its way with it, or behind the answer to the one before."""

_MESSAGE: Final[TypeAdapter[Message]] = TypeAdapter(Welcome | EventMessage | Gap | Pong | ErrorMessage)
_OVER: Final = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended."""

    code: int | None
    """None: without a close frame, or it never began."""
    why: str
    welcomed: bool


class Connection:
    """Connects anew with every `run`; what was seen is remembered from one to the next."""

    def __init__(self, url: URL, token: str | None, screen: Screen, *, ack: bool, count: int | None) -> None:
        """`count`: how many events to show before it is enough; None: all of them."""
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._screen = screen
        self._ack = ack
        self._left = count
        self._seen = RecentIds()
        self._silence: float = WELCOME_SECONDS
        self._welcomed = False

    async def run(self) -> Ended | None:
        """One connection, from hand-shake to close; None when enough events were seen. Raises Failed."""
        self._silence, self._welcomed = WELCOME_SECONDS, False
        address = f"{self._url.host}:{self._url.port}"
        try:
            async with aiohttp.ClientSession() as session:
                with told(f"connecting to {address}"):
                    async with asyncio.timeout(HANDSHAKE_SECONDS):
                        ws = await session.ws_connect(
                            self._url,
                            headers=self._headers,
                            protocols=(SUBPROTOCOL,),
                            autoping=False,
                            timeout=aiohttp.ClientWSTimeout(ws_close=FAREWELL_SECONDS),
                        )
                async with ws:
                    return await self._converse(ws)
        except aiohttp.WSServerHandshakeError as error:
            if error.status < 500 and error.status != 429:
                raise Failed(
                    f"{address} answered {error.status} instead of a WebSocket: the URL should end in /ws/DIAGNOSIS"
                ) from None
            return Ended(None, f"{address} answered {error.status}", welcomed=False)
        except aiohttp.ClientConnectorCertificateError:
            raise Failed(f"the certificate of {address} is not trusted") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            what = "lost the connection to" if self._welcomed else "no connection to"
            return Ended(None, f"{what} {address} ({reason(error)})", self._welcomed)

    async def _converse(self, ws: aiohttp.ClientWebSocketResponse) -> Ended | None:
        while True:
            try:
                frame = await ws.receive(self._silence)
            except TimeoutError:
                return Ended(None, "nothing was heard for too long", self._welcomed)
            if frame.type in _OVER:
                return self._ended(ws.close_code)
            if await self._hear(ws, frame):
                return None

    async def _hear(self, ws: aiohttp.ClientWebSocketResponse, frame: WSMessage) -> bool:
        """Act on a frame; returns whether it was the last one wanted."""
        match frame.type:
            case WSMsgType.PING:
                await ws.pong(frame.data)
            case WSMsgType.TEXT:
                return await self._hear_text(ws, frame.data)
        return False

    async def _hear_text(self, ws: aiohttp.ClientWebSocketResponse, text: str) -> bool:
        message = _parse(text)
        if isinstance(message, Welcome):
            self._welcomed = True
            # The server sends a PING at least that often, and waits that long for what it is owed.
            self._silence = message.data.heartbeat_seconds + message.data.receipt_timeout_seconds
        if not isinstance(message, EventMessage):
            self._screen.show(text, message)
            return False
        repeated = message.event_id in self._seen
        if not repeated:
            self._screen.show(text, message)
        self._seen.add(EventId(message.event_id))
        if self._ack:
            await ws.send_str(Ack(event_id=message.event_id).model_dump_json())
        if repeated or self._left is None:
            return False
        self._left -= 1
        if not self._left and not self._ack:
            await self._prove_last(ws)
        return not self._left

    async def _prove_last(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Answer the PING that follows; not if another event comes first, which nobody would have seen."""
        try:
            frame = await ws.receive(LAST_PING_SECONDS)
        except TimeoutError:
            return
        if frame.type is WSMsgType.PING:
            await ws.pong(frame.data)

    def _ended(self, code: int | None) -> Ended:
        try:
            why = f"the server closed the connection: {REASONS[CloseCode(code or 0)] or 'as asked'} ({code})"
        except ValueError:
            why = "the connection was lost" if code in (None, 1006) else f"the connection was closed ({code})"
        return Ended(code, why, self._welcomed)


def _parse(text: str) -> Message | None:
    try:
        return _MESSAGE.validate_json(text)
    except ValidationError:
        return None  # a type that a newer service may have added
