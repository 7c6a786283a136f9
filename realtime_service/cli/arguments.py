"""What words on the command line must be; a wrong one ends with usage and exit code 2.

Law: no message quotes the word; it may be a token in the wrong place.
"""

import argparse
import math
import os
import re
import sys
from typing import Any, Final

import aiohttp
from yarl import URL

from contracts.ids import MAX_EVENT_ID, ClientId, EventId, parse_client_id, parse_diagnosis_id, parse_event_id
from realtime_service.adapters.rabbitmq.connecting import broker_address
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.settings import load_settings

_SCHEMES: Final = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (what a server listens on; nobody binds here)
MOST_DAYS: Final = 36_500
_TOKEN: Final = re.compile(r"[!-~]+\Z")
"""Printable ASCII: anything else does not fit a header."""


def port(text: str) -> int:
    """A TCP port; 0 takes a free one."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def number(text: str) -> int:
    """A diagnosis, a user, or how many of something."""
    found = parse_diagnosis_id(text)
    if found is None:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return found


def seconds(text: str) -> float:
    """A time that passes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return value


def days(text: str) -> float:
    """A time that has passed; 0 is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"must be a number of days from 0 to {MOST_DAYS}")
    return value


def event_id(text: str) -> EventId:
    """An AMQP `message_id`."""
    found = parse_event_id(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_EVENT_ID} printable characters")
    return found


def client_id(text: str) -> ClientId:
    """A device's name."""
    found = parse_client_id(text)
    if found is None:
        raise argparse.ArgumentTypeError("must be 1 to 128 of A-Z a-z 0-9 . _ -")
    return found


def amqp_url(text: str) -> str:
    """A broker."""
    try:
        broker_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must look like amqp://user:password@host:5672/vhost") from None
    return text


def web_url(text: str) -> URL:
    """A server or something on it, as `ws://` or `wss://`, which aiohttp takes for plain requests too."""
    try:
        url = URL(text)
        if url.scheme in _SCHEMES and url.host and url.port and url.user is None and url.password is None:
            return url.with_scheme(_SCHEMES[url.scheme]).with_fragment(None)
    except ValueError:
        pass  # its text would quote the URL
    raise argparse.ArgumentTypeError("must start with ws://, wss://, http:// or https:// and name a host")


def add_server(parser: argparse.ArgumentParser) -> None:
    """`--server`, for commands that ask one."""
    parser.add_argument(
        "--server",
        type=web_url,
        metavar="URL",
        help="where it listens (default: as REALTIME_HOST and REALTIME_PORT say, or http://127.0.0.1:8000)",
    )


def server_of(args: argparse.Namespace) -> URL:
    """The server that was named, or the one that these settings would start. Raises SettingsError."""
    given: URL | None = args.server
    if given is not None:
        return given
    settings = load_settings()
    return local_url(settings.host, settings.port)


def local_url(host: str, port: int) -> URL:
    """How a server that listens on `host` is reached from its own machine."""
    return URL.build(scheme="ws", host=_ANY_ADDRESS.get(host, host), port=port)


def token_of(args: argparse.Namespace) -> str | None:
    """The token that was given; `-` reads it from standard input. Raises Failed."""
    given: Any = sys.stdin.readline().strip() if args.token == "-" else args.token  # noqa: S105
    if given is None:
        return None
    if not _TOKEN.match(given):
        raise Failed("this is no token: `realtime-service token` signs one", Exit.USAGE)
    return str(given)


def reason(error: Exception) -> str:
    """Why a server cannot be reached, in our words: aiohttp's own hold the URL."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its host name does not resolve"
        case aiohttp.ClientSSLError():
            return "the TLS hand-shake failed"
        case aiohttp.ClientConnectorError() if error.os_error.strerror:
            return os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no connection"
        case TimeoutError():
            return "no answer in time"
        case _:
            return "the connection was lost"
