"""`realtime-service status`: the status route, readable."""

import argparse
import asyncio
import json
from typing import Final

import aiohttp
from pydantic import ValidationError
from yarl import URL

from contracts.http import StatusReport
from realtime_service.cli import arguments
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.token import signed
from realtime_service.domain.identity import Scope
from realtime_service.settings import load_settings

ANSWER_SECONDS: Final = 10.0
"""The server itself gives its broker 5 s."""
TOKEN_SECONDS: Final = 60.0

_EPILOG: Final = """\
Without --token, one is signed with REALTIME_JWT_SECRET, where that is set.

examples:
  realtime-service status
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
    parser.add_argument("--json", action="store_true", help="print the report as the server sent it")


def run(args: argparse.Namespace) -> int:
    """Ask and print. Raises Failed, SettingsError."""
    server = arguments.server_of(args)
    token = arguments.token_of(args) or signed(
        load_settings(), 1, expires_in_seconds=TOKEN_SECONDS, scopes=[Scope.OPERATOR.value]
    )
    body = asyncio.run(_ask(server, token))
    try:
        report = StatusReport.model_validate_json(body)
    except ValidationError:
        raise Failed(f"{_address(server)} answered with something that is no status report") from None
    print(json.dumps(json.loads(body)) if args.json else _table(report), flush=True)
    return Exit.OK


async def _ask(server: URL, token: str) -> bytes:
    """The body of the server's answer. Raises Failed."""
    at = _address(server)
    try:
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
                raise Failed(known or f"{at} answered {answer.status} instead of a status report")
            return await answer.read()
    except TimeoutError:
        raise Failed(f"{at} did not answer within {ANSWER_SECONDS:g} s") from None
    except aiohttp.ClientError as error:
        raise Failed(
            f"{at} cannot be asked ({arguments.reason(error)}): is the service running there?"
        ) from None


def _address(server: URL) -> str:
    return f"{server.host}:{server.port}"


def _table(report: StatusReport) -> str:
    connections, waiting = report.connections_by_diagnosis, report.queued_messages_by_diagnosis
    known = sorted({*connections, *waiting}, key=lambda text: (len(text), text))  # as numbers
    rows: list[tuple[str, int | str, int | str]] = [
        ("diagnosis", "connections", "waiting"),
        *((diagnosis, connections.get(diagnosis, 0), waiting.get(diagnosis, 0)) for diagnosis in known),
        ("total", report.total_connections, sum(waiting.values())),
    ]
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:<{width}}  {row[1]!s:>11}  {row[2]!s:>8}" for row in rows]
    if report.truncated:
        lines.append(
            "What waits may be incomplete: it lists diagnoses that the replica that answered has seen"
        )
        lines[-1] += " (set REALTIME_MANAGEMENT_URL on the server to see all)."
    if report.silent_replicas:
        silent = ", ".join(map(repr, report.silent_replicas))  # a replica may have any name
        lines.append(f"These replicas did not answer, and what they have is not counted: {silent}")
    return "\n".join(lines)
