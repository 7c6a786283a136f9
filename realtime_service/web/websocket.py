"""`GET /ws/{diagnosis_id}`: from the handshake to the last frame of one client.

Two phases, two types: `_admit` turns a socket and a token into an identity that may watch the diagnosis; only then is
there a `ClientConnection`, and only that joins a room. Whoever is not admitted is told one and the same thing.
"""

import asyncio
import math
import time
import uuid
from typing import Final

import structlog
from aiohttp import WebSocketError, WSMessage, WSMsgType, hdrs, web
from pydantic import ValidationError

from contracts import topology
from contracts.close_codes import REASONS, CloseCode
from contracts.ids import (
    ClientId,
    ConnectionId,
    DiagnosisId,
    EventId,
    parse_client_id,
    parse_diagnosis_id,
)
from contracts.messages import (
    BEARER_SUBPROTOCOL,
    CLIENT_FRAME,
    MAX_AUTH_FRAME_BYTES,
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    Ack,
    Auth,
    ClientFrame,
    ErrorData,
    ErrorMessage,
    Ping,
    Pong,
    ReceiptMode,
    Welcome,
    WelcomeData,
    rfc3339,
)
from realtime_service.connection_manager import ConnectionManager
from realtime_service.domain.errors import (
    DatabaseUnavailable,
    Disconnect,
    NotAllowed,
    NotAuthenticated,
    Refused,
    Unavailable,
)
from realtime_service.domain.identity import Identity
from realtime_service.domain.ports import Ownership, Verifier
from realtime_service.domain.room import Member
from realtime_service.domain.window import WINDOW_EVENTS
from realtime_service.hub import Hub
from realtime_service.logs import hashed
from realtime_service.settings import Settings
from realtime_service.web.admission import Admission
from realtime_service.web.connection import CLOSE_SECONDS, ClientConnection, Socket, TurnWriter
from realtime_service.web.credentials import bearer_token
from realtime_service.web.problems import HttpProblem
from realtime_service.web.proofs import ProvingWebSocket
from realtime_service.web.rate import TokenBucket
from realtime_service.web.rests import REST_SECONDS, Rests
from realtime_service.web.timekeeper import Timekeeper
from realtime_service.web.turnstile import Turnstile

log = structlog.get_logger(__name__)

CLIENT_GONE: Final = 499
"""For the access log: the client left during the handshake (nginx's number; nobody reads the answer)."""
PROTOCOL: Final = "protocol"
"""Why a connection ended that broke RFC 6455; aiohttp has closed it."""
ENDINGS: Final = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


class WebSocketRoute:
    """Serves every WebSocket of this replica."""

    def __init__(
        self,
        settings: Settings,
        verifier: Verifier,
        ownership: Ownership,
        manager: ConnectionManager,
        hub: Hub,
        timekeeper: Timekeeper,
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._ownership = ownership
        self._manager = manager
        self._hub = hub
        self._timekeeper = timekeeper
        self._writer = TurnWriter()
        self._rests = Rests(min(REST_SECONDS, settings.receipt_timeout_seconds / 4))
        self._exit = Turnstile()
        self._admission = Admission(settings)
        self._open = 0
        self.draining = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The aiohttp handler."""
        if self.draining:
            raise HttpProblem(503, "this replica restarts; connect again", headers={hdrs.RETRY_AFTER: "1"})
        if not request.headers.get(hdrs.SEC_WEBSOCKET_KEY, "").isascii():
            raise web.HTTPBadRequest  # aiohttp 3.14 would raise what nobody expects
        address = self._admission.address(request)
        if wait := self._admission.wait(address):
            raise HttpProblem(
                429,
                "too many connections from this address",
                headers={hdrs.RETRY_AFTER: str(math.ceil(wait))},
            )
        ws = ProvingWebSocket(
            protocols=(SUBPROTOCOL,),
            autoping=False,
            compress=False,
            max_msg_size=MAX_AUTH_FRAME_BYTES + 1,  # aiohttp 3.14 refuses what has just that size
            timeout=CLOSE_SECONDS,
        )
        try:
            await ws.prepare(request)
            socket = Socket(ws, request, self._settings.max_unsent_bytes)
        except ConnectionResetError:
            return web.Response(status=CLIENT_GONE)
        self._open += 1
        try:
            await self._serve(request, socket)
        except Disconnect as end:
            if end.close_code == CloseCode.NOT_ALLOWED:
                self._admission.refused(address)
            self._tell_of_refusal(socket, end)
            socket.end(CloseCode(end.close_code) if end.cause != PROTOCOL else CloseCode.NORMAL)
        finally:
            self._open -= 1
            await socket.closed()
            ws.let_go()
        return ws

    # Admission

    async def _serve(self, request: web.Request, socket: Socket) -> None:
        if self._open > self._settings.max_connections:
            raise Disconnect(CloseCode.TRY_LATER, REASONS[CloseCode.TRY_LATER], "connections")
        if not self._admission.allows_page(request):
            self._hub.metrics.refused.labels(reason="origin").inc()
            raise Disconnect(CloseCode.NOT_ALLOWED, REASONS[CloseCode.NOT_ALLOWED], "origin")
        try:
            diagnosis, identity, client = await self._admit(request, socket)
        except (NotAuthenticated, NotAllowed) as refusal:
            reason = refusal.cause_code if isinstance(refusal, NotAuthenticated) else "not_allowed"
            self._hub.metrics.refused.labels(reason=str(reason)).inc()
            raise Disconnect(CloseCode.NOT_ALLOWED, REASONS[CloseCode.NOT_ALLOWED], str(reason)) from refusal
        except Unavailable as away:
            cause = "database" if isinstance(away, DatabaseUnavailable) else "keys"
            raise Disconnect(CloseCode.TRY_LATER, REASONS[CloseCode.TRY_LATER], cause) from away
        if socket.gone:  # it may be back by now, elsewhere
            raise Disconnect(CloseCode.NORMAL, "")
        mode: ReceiptMode = "ack" if request.query.get("receipts") == "ack" else "pong"
        user = identity.user_id
        device = topology.device_key(user, client) if client else None
        member = Member.of(ConnectionId(uuid.uuid4().hex), user, mode, device)
        connection = ClientConnection(
            socket, diagnosis, member, identity, self._hub, self._timekeeper, self._writer, self._rests
        )
        conversation = _Conversation(connection, socket, self._verifier, self._settings)
        socket.ws.prove_to(connection)
        if not self._admission.enter(user):
            raise Disconnect(CloseCode.TRY_LATER, REASONS[CloseCode.TRY_LATER], "user_connections")
        try:
            await self._probe(connection, socket, conversation)
            resumed = await self._manager.connect(connection)
            if self.draining:  # since this handshake; the others were told, or will be
                raise Disconnect(CloseCode.RESTARTING, REASONS[CloseCode.RESTARTING])
            if not socket.ended:
                connection.welcome(self._welcome(connection, resumed=resumed))
                log.info(
                    "connection_opened",
                    connection=member.id,
                    diagnosis=hashed(diagnosis),
                    named=client is not None,
                    receipts=member.receipts.mode,
                )
                await conversation.run()
                connection.hung_up()
                await self._exit.pass_through()
        finally:
            self._admission.leave(user)
            connection.gone()
            code = socket.ws.close_code
            log.info(
                "connection_closed",
                connection=member.id,
                diagnosis=hashed(diagnosis),
                code=code and int(code),
            )

    async def _admit(
        self, request: web.Request, socket: Socket
    ) -> tuple[DiagnosisId, Identity, ClientId | None]:
        """Who this is and what they watch. Raises NotAuthenticated, NotAllowed or Unavailable."""
        token = _token(request) or await self._token_frame(socket)
        identity = await self._verifier.verify(token)
        diagnosis = parse_diagnosis_id(request.match_info["diagnosis_id"])
        if diagnosis is None or await self._ownership.owner_of(diagnosis) != identity.user_id:
            raise NotAllowed
        client = identity.device_id
        if (name := request.query.get("client_id")) is not None and (client := parse_client_id(name)) is None:
            raise NotAllowed
        return diagnosis, identity, client

    async def _token_frame(self, socket: Socket) -> str:
        """The token in a first frame, within the time for it."""
        refusal = Disconnect(CloseCode.NOT_ALLOWED, REASONS[CloseCode.NOT_ALLOWED])
        try:
            async with asyncio.timeout(self._settings.auth_timeout_seconds):
                while True:
                    message = await socket.ws.receive()
                    if message.type is WSMsgType.PING:
                        socket.answer_ping(message.data)
                    elif message.type is not WSMsgType.PONG:
                        break
        except TimeoutError:
            raise refusal from None
        if message.type in ENDINGS:
            raise _end_of(message)
        if message.type is not WSMsgType.TEXT:
            raise refusal
        try:
            frame = CLIENT_FRAME.validate_json(message.data)
        except ValidationError:
            raise refusal from None
        if not isinstance(frame, Auth):
            raise refusal
        return frame.token

    async def _probe(
        self, connection: ClientConnection, socket: Socket, conversation: "_Conversation"
    ) -> None:
        """Send a PING at once: gateways that swallow PINGs are found out by it.

        Where receipts are not required its answer decides, before the welcome, whether this client can give any.
        """
        receipts = connection.member.receipts
        if receipts.mode != "pong":
            return
        socket.write(socket.ping(receipts.ping()))
        if self._settings.require_receipts:
            return  # the receipt time-out ends a connection that does not answer
        try:
            async with asyncio.timeout(self._settings.receipt_timeout_seconds):
                while receipts.waiting and not socket.ended:
                    message = await socket.ws.receive()
                    if message.type in ENDINGS:
                        raise _end_of(message)
                    if message.type is WSMsgType.PONG:
                        receipts.pong(socket.number_of(message.data) or 0)
                    await conversation.hear(message)
        except TimeoutError:
            connection.member.receipts.mode = "none"
            self._hub.metrics.untrusted.inc()

    def _welcome(self, connection: ClientConnection, *, resumed: bool) -> Welcome:
        return Welcome(
            diagnosis_id=connection.diagnosis,
            timestamp=rfc3339(time.time()),
            data=WelcomeData(
                connection_id=connection.member.id,
                queued_messages=self._hub.queued_for(connection),
                gap=self._hub.gap_for(connection),
                resumed=resumed,
                receipts=connection.member.receipts.mode,
                window=WINDOW_EVENTS,
                receipt_timeout_seconds=self._settings.receipt_timeout_seconds,
                heartbeat_seconds=self._settings.heartbeat_seconds,
            ),
        )

    def _tell_of_refusal(self, socket: Socket, end: Disconnect) -> None:
        if not socket.ended and end.close_code != CloseCode.NORMAL:
            cause = end.cause or CloseCode(end.close_code).name.lower()
            by_reason = end.close_code == CloseCode.NOT_ALLOWED  # those are counted by reason elsewhere
            label = "not_allowed" if by_reason else cause
            self._hub.metrics.closed.labels(code=str(end.close_code), cause=label).inc()
            log.info("connection_refused", code=end.close_code, cause=cause)


class _Conversation:
    """What an admitted client says."""

    __slots__ = ("_connection", "_frames", "_socket", "_verifier")

    def __init__(
        self, connection: ClientConnection, socket: Socket, verifier: Verifier, settings: Settings
    ) -> None:
        self._connection = connection
        self._socket = socket
        self._verifier = verifier
        now = asyncio.get_running_loop().time()
        self._frames = TokenBucket(settings.frames_per_second, settings.frame_burst, now)

    async def run(self) -> None:
        """Read until either side ends."""
        while not self._socket.ended:
            message = await self._socket.ws.receive()
            if message.type in ENDINGS:
                self._tell_of_breach(message)
                return
            await self.hear(message)

    def _tell_of_breach(self, message: WSMessage) -> None:
        """aiohttp closes by itself where a client breaks RFC 6455 (1002): 1002, 1007, 1009."""
        if message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
            self._connection.broke_off(int(message.data.code))

    async def hear(self, message: WSMessage) -> None:
        """Act on a frame; before the welcome, what it is answered with follows that."""
        self._connection.heard()
        proving = await self._act_on(message)
        if not proving and self._frames.take(asyncio.get_running_loop().time()):
            self._connection.end(CloseCode.TOO_MANY_FRAMES)

    async def _act_on(self, message: WSMessage) -> bool:
        """Act on a frame. Returns whether it proved something: proofs are not counted as load."""
        match message.type:
            case WSMsgType.PONG:
                return self._connection.pong(message.data)
            case WSMsgType.PING:
                self._socket.answer_ping(message.data)
            case WSMsgType.TEXT:
                return await self._hear_text(message.data)
            case _ if len(message.data) > MAX_FRAME_BYTES:
                self._connection.end(CloseCode.FRAME_TOO_LARGE)
            case _:
                self._refuse(Refused("bad_frame", "frames are JSON text"))
        return False

    async def _hear_text(self, text: str) -> bool:
        try:
            frame = self._parse(text)
            match frame:
                case Ping():
                    self._connection.answer(
                        Pong(diagnosis_id=self._connection.diagnosis, timestamp=rfc3339(time.time()))
                    )
                case Ack(event_id=event_id):
                    return self._connection.ack(EventId(event_id))
                case Auth(token=token):
                    await self._renew(token)
        except Refused as refused:
            self._refuse(refused)
        except Disconnect as end:
            self._connection.end(CloseCode(end.close_code))
        return False

    @staticmethod
    def _parse(text: str) -> ClientFrame:
        if text == "ping":
            return Ping()
        large = len(text) > MAX_FRAME_BYTES or len(text.encode()) > MAX_FRAME_BYTES
        try:
            frame = CLIENT_FRAME.validate_json(text)
        except ValidationError:
            if large:
                raise Disconnect(CloseCode.FRAME_TOO_LARGE, REASONS[CloseCode.FRAME_TOO_LARGE]) from None
            raise Refused("bad_frame", "expected a JSON object with type ping, ack or auth") from None
        if large and not isinstance(frame, Auth):
            raise Disconnect(CloseCode.FRAME_TOO_LARGE, REASONS[CloseCode.FRAME_TOO_LARGE])
        return frame

    async def _renew(self, token: str) -> None:
        try:
            identity = await self._verifier.verify(token)
        except (NotAuthenticated, Unavailable):
            raise Refused("token_refused", "this token cannot renew the connection") from None
        if identity.user_id != self._connection.identity.user_id:
            raise Refused("token_refused", "this token cannot renew the connection")
        if identity.expires_at > self._connection.identity.expires_at:
            self._connection.renewed(identity)

    def _refuse(self, refused: Refused) -> None:
        self._connection.answer(
            ErrorMessage(
                diagnosis_id=self._connection.diagnosis,
                timestamp=rfc3339(time.time()),
                data=ErrorData(code=refused.code, message=refused.message),
            )
        )


def _end_of(message: WSMessage) -> Disconnect:
    """How a connection ended that was not welcomed yet: aiohttp closes by itself where RFC 6455 is broken."""
    if message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
        return Disconnect(int(message.data.code), "", PROTOCOL)
    return Disconnect(CloseCode.NORMAL, "")


def _token(request: web.Request) -> str | None:
    """The token of the handshake: `Authorization`, sub-protocol `bearer.<jwt>`, or `?token=`."""
    if token := bearer_token(request):
        return token
    for offered in request.headers.getall("Sec-WebSocket-Protocol", []):
        for protocol in offered.split(","):
            if protocol.strip().startswith(BEARER_SUBPROTOCOL):
                return protocol.strip().removeprefix(BEARER_SUBPROTOCOL)
    return request.query.get("token") or None
