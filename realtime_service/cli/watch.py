"""`realtime-service watch`: a diagnosis' events in a terminal, by a client that does what the contract asks of one.

Law: an event is shown once, also when a reconnect brings it again; nothing is proved that was not shown; the close
code decides whether to come back (`contracts.close_codes.ADVICE`).
"""

import argparse
import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from yarl import URL

from contracts.close_codes import ADVICE, REASONS, Advice, CloseCode
from realtime_service.adapters.rabbitmq.backoff import delays
from realtime_service.cli import arguments
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.waiting import until_stopped
from realtime_service.cli.watch_connection import Connection, Ended
from realtime_service.cli.watch_screen import EventLines, RawLines, Screen

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 20.0
STABLE_SECONDS: Final = 10.0
"""A connection that lived this long was a good one: the pauses start anew after it."""

_EPILOG: Final = """\
examples:
  realtime-service watch 'ws://127.0.0.1:8000/ws/123?token=…'
  realtime-service watch --diagnosis 123 --token - --client-id my-phone < token.jwt
  realtime-service watch 'ws://…' --json --count 1 --timeout 30

Comes back by itself after a lost connection, where the close code allows it, and shows every event once. Without
--client-id, what it has shown counts as received by everybody; with one, this device has its own backlog.

Exit codes: 0 Ctrl-C, or --count events were seen; 1 the server does not want this client back; 2 wrong words;
3 --timeout was up first.
"""

_TURNED_AWAY: Final = {
    CloseCode.NOT_ALLOWED: (
        "refused (1008): the token is wrong, expired or from another run of the service, or the diagnosis is not its "
        "user's; get a new one (`realtime-service token`)"
    ),
    CloseCode.TOKEN_EXPIRED: "the token expired (4401): come back with a new one (`realtime-service token`)",
    CloseCode.REPLACED: (
        "replaced (4409): the same device connected again elsewhere; two that both came back would fight for ever"
    ),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What to watch, and until when."""

    url: URL
    token: str | None
    ack: bool
    count: int | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Show a diagnosis' events as they happen, one a line."
    parser.epilog = _EPILOG
    parser.add_argument(
        "url", type=arguments.web_url, nargs="?", metavar="URL", help="ws://host/ws/DIAGNOSIS?token=…"
    )
    parser.add_argument(
        "--diagnosis", type=arguments.number, metavar="ID", help="instead of URL: a diagnosis of --server"
    )
    arguments.add_server(parser)
    parser.add_argument("--token", help="instead of the URL's; - reads it from standard input")
    parser.add_argument(
        "--client-id",
        type=arguments.client_id,
        metavar="NAME",
        help="names this device: it gets what it missed",
    )
    parser.add_argument(
        "--ack", action="store_true", help="prove each event by an `ack` frame instead of WebSocket PONGs"
    )
    parser.add_argument("--json", action="store_true", help="print every frame as it came, one a line")
    parser.add_argument("--count", type=arguments.number, metavar="N", help="end after N events")
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="end after this time, with exit code 3"
    )
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Watch. Raises Failed, SettingsError."""
    screen: Screen = RawLines() if args.json else EventLines.on_standard_output()
    return asyncio.run(until_stopped(_within(args.timeout, watch(_wish(args), screen))))


def _wish(args: argparse.Namespace) -> Wish:
    if (args.url is None) == (args.diagnosis is None):
        args.usage_error("give either a URL or --diagnosis")
    if args.url is not None and args.server is not None:
        args.usage_error("--server goes with --diagnosis; the URL names its server itself")
    url = args.url or arguments.server_of(args) / "ws" / str(args.diagnosis)
    token = arguments.token_of(args) or url.query.get("token")
    url = url.without_query_params("token")  # it travels as a header, which nobody prints or logs
    if args.client_id is not None:
        url = url.update_query(client_id=args.client_id)
    if args.ack:
        url = url.update_query(receipts="ack")
    return Wish(url, token, url.query.get("receipts") == "ack", args.count)


async def watch(wish: Wish, screen: Screen) -> Exit:
    """Show events, over as many connections as it takes. Raises Failed when the server wants no more of them."""
    loop = asyncio.get_running_loop()
    pauses = delays(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
    connection = Connection(wish.url, wish.token, screen, ack=wish.ack, count=wish.count)
    while True:
        began = loop.time()
        ended = await connection.run()
        if ended is None:
            return Exit.OK
        advice = _advice(ended)
        if (advice is Advice.COME_BACK and ended.welcomed) or loop.time() - began > STABLE_SECONDS:
            pauses = delays(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        screen.note(f"{ended.why}; connecting again")
        await asyncio.sleep(next(pauses))


def _advice(ended: Ended) -> Advice:
    """What to do after a close. Raises Failed for what is not to be tried again."""
    try:
        code = CloseCode(ended.code or 0)
    except ValueError:  # no close frame at all, or one that is not ours
        return Advice.BACK_OFF
    if ADVICE[code] in (Advice.STAY_AWAY, Advice.RENEW_TOKEN):
        raise Failed(
            _TURNED_AWAY.get(code, f"the server closed the connection for good: {REASONS[code]} ({code:d})")
        )
    return ADVICE[code]


async def _within(seconds: float | None, work: Coroutine[Any, Any, Exit]) -> Exit:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        return Exit.TIMED_OUT
