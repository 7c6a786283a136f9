"""`realtime-service status`: the status route, readable."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from typing import Final

import aiohttp
from pydantic import ValidationError
from yarl import URL

from contracts.http import StatusReport
from realtime_service.cli import arguments
from realtime_service.cli.findings_screen import has_colours
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.status_screen import LiveTable, table
from realtime_service.cli.token import signed
from realtime_service.cli.waiting import told, until_stopped
from realtime_service.domain.identity import Scope
from realtime_service.settings import load_settings

ANSWER_SECONDS: Final = 10.0
"""The server itself gives its broker 5 s."""
TOKEN_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 2.0

_EPILOG: Final = """\
Without --token, one is signed with REALTIME_JWT_SECRET, where that is set. On a terminal green is somebody connected,
yellow are events that wait with nobody there, and red is a full backlog (100), or what the numbers leave out.

examples:
  realtime-service status
  realtime-service status --watch
  realtime-service status --server https://realtime.example.org --token - < operator.jwt
"""

_REFUSALS: Final = {
    401: "the server does not believe the token (401): it is wrong, expired, or signed with another secret",
    403: "the token lacks the scope `operator` (403): sign one with `realtime-service token --user 1 --scope operator`",
    404: "the server has no /ws/status (404): is --server the address of this service, with nothing behind the port?",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Show who is connected and what waits, by diagnosis."
    parser.epilog = _EPILOG
    arguments.add_server(parser)
    parser.add_argument("--token", help="a token with the scope operator; - reads it from standard input")
    parser.add_argument(
        "--watch",
        type=arguments.seconds,
        nargs="?",
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help="show it again every SECONDS (default: %(const)g), until Ctrl-C",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report as the server sent it, in one line"
    )


def run(args: argparse.Namespace) -> int:
    """Ask and print. Raises Failed, SettingsError."""
    server = arguments.server_of(args)
    given = arguments.token_of(args)
    settings = None if given else load_settings()

    def token() -> str:
        if settings is None:
            return given or ""
        return signed(settings, 1, expires_in_seconds=TOKEN_SECONDS, scopes=[Scope.OPERATOR.value])

    if args.watch is not None:
        return asyncio.run(until_stopped(_keep_showing(server, token, args.watch, as_json=args.json)))
    body = asyncio.run(_ask(server, token()))
    report = _read(body, server)
    print(_line(body) if args.json else "\n".join(table(report, colours=has_colours(sys.stdout))), flush=True)
    return Exit.OK


def _read(body: bytes, server: URL) -> StatusReport:
    try:
        return StatusReport.model_validate_json(body)
    except ValidationError:
        raise Failed(f"{_address(server)} answered with something that is no status report") from None


def _line(body: bytes) -> str:
    return json.dumps(json.loads(body))


async def _keep_showing(server: URL, token: Callable[[], str], seconds: float, *, as_json: bool) -> Exit:
    """Ask again and again. Raises Failed for a refusal; a server that is away may come back."""
    if as_json:
        while True:
            try:
                print(_line(await _ask(server, token())), flush=True)
            except _Away as away:
                print(away, file=sys.stderr, flush=True)
            await asyncio.sleep(seconds)
    screen = LiveTable(_address(server), terminal=sys.stdout.isatty(), colours=has_colours(sys.stdout))
    with screen.open():
        while True:
            try:
                screen.show(_read(await _ask(server, token()), server))
            except _Away as away:
                screen.away(str(away))
            await asyncio.sleep(seconds)


class _Away(Failed):
    """No answer, or one that it was not able to give."""


async def _ask(server: URL, token: str) -> bytes:
    """The body of the server's answer. Raises Failed, and _Away where trying again may help."""
    at = _address(server)
    try:
        with told(f"asking {at}"):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as session,
                session.get(
                    server / "ws" / "status",
                    headers={"Authorization": f"Bearer {token}"},
                    allow_redirects=False,  # the token is for this server
                ) as answer,
            ):
                if answer.status != 200:
                    known = _REFUSALS.get(answer.status)
                    wrong = Failed if known else _Away
                    raise wrong(known or f"{at} answered {answer.status} instead of a status report")
                return await answer.read()
    except TimeoutError:
        raise _Away(f"{at} did not answer within {ANSWER_SECONDS:g} s") from None
    except aiohttp.ClientError as error:
        raise _Away(
            f"{at} cannot be asked ({arguments.reason(error)}): is the service running there?"
        ) from None


def _address(server: URL) -> str:
    return f"{server.host}:{server.port}"
