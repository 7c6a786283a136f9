"""Opening a connection: what an AMQP URL says, TCP or TLS, and the hand-shake.

Parameters of the URL are those of aiormq: `heartbeat`, `auth` (plain, external); for TLS `cafile`, `capath`, `cadata`,
`certfile`, `keyfile`, `no_verify_ssl`. And `channel_max`, for fewer channels than the broker allows.
"""

import asyncio
import ssl
from base64 import b64decode
from typing import Final

from pamqp.commands import Connection as Command
from pamqp.common import FieldTable
from yarl import URL

from realtime_service.adapters.rabbitmq.amqp.connection import MOST_CHANNELS, Connection

DEFAULT_PORTS: Final = {"amqp": 5672, "amqps": 5671}
HEARTBEAT_SECONDS: Final = 5
"""A silent broker is given up after three of these plus one second each: 18 s."""
LARGEST: Final = 65535

_CAPABILITIES: Final[FieldTable] = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
}


async def open_connection(amqp_url: str, *, name: str) -> Connection:
    """Connect and log in; `name` is what operators see. Raises OSError, AMQPError; when cancelled, nothing is left."""
    url = URL(amqp_url)
    assert url.host is not None
    loop = asyncio.get_running_loop()
    tls = await loop.run_in_executor(None, _tls, url) if url.scheme == "amqps" else None
    port = url.port or DEFAULT_PORTS[url.scheme]
    _, connection = await loop.create_connection(lambda: Connection(loop), url.host, port, ssl=tls)
    mechanism = url.query.get("auth", "plain").upper()
    try:
        await connection.log_in(
            Command.StartOk(
                client_properties={
                    "product": "realtime_service",
                    "connection_name": name,
                    "capabilities": _CAPABILITIES,
                },
                mechanism=mechanism,
                response=""
                if mechanism == "EXTERNAL"
                else f"\0{url.user or 'guest'}\0{url.password or 'guest'}",
            ),
            url.path[1:].replace("%2F", "/") or "/",
            mechanism=mechanism,
            heartbeat_seconds=_number(url.query.get("heartbeat", ""), HEARTBEAT_SECONDS),
            most_channels=_number(url.query.get("channel_max", ""), 0) or MOST_CHANNELS,
        )
    except BaseException:
        connection.abort()
        await asyncio.wait([connection.closed])
        raise
    return connection


def _number(text: str, otherwise: int) -> int:
    """A parameter of 16 bits."""
    if text.isascii() and text.isdigit() and (number := int(text[:9])) <= LARGEST:
        return number
    return otherwise


def _tls(url: URL) -> ssl.SSLContext:
    """Reads files."""
    data = url.query.get("cadata")
    context = ssl.create_default_context(
        cafile=url.query.get("cafile"),
        capath=url.query.get("capath"),
        cadata=b64decode(data) if data else None,
    )
    if certificate := url.query.get("certfile"):
        context.load_cert_chain(certificate, url.query.get("keyfile"))
    if url.query.get("no_verify_ssl", "0") != "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
