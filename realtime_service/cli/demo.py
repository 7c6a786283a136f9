"""`realtime-service demo`: the service and all it needs, for somebody who has just found it.

Law: nothing is left behind, and nothing that was there before is touched: the database is the demo's own, and so is the
broker, unless one is named.
"""

import argparse
import asyncio
import errno
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import aiohttp
from yarl import URL

from contracts.ids import DiagnosisId
from realtime_service import logs
from realtime_service.adapters.database import create_embedded_database
from realtime_service.adapters.rabbitmq.connecting import broker_address, close, connect
from realtime_service.cli import arguments
from realtime_service.cli.demo_screen import Facts, line, screen
from realtime_service.cli.findings_screen import has_colours
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.serve import cannot_listen
from realtime_service.cli.token import signed
from realtime_service.cli.waiting import told
from realtime_service.domain.errors import BrokerUnavailable as BrokerCannotBeUsed
from realtime_service.domain.identity import Scope
from realtime_service.embedded.rabbitmq import Broker, BrokerUnavailable, obtain_broker
from realtime_service.embedded.ways import Say
from realtime_service.service import Service, serve
from realtime_service.settings import Settings, load_settings

OWNERS: Final = {123: 100, 124: 101}
"""Diagnosis → its user."""
TOKEN_SECONDS: Final = 24 * 3600.0
CONSOLE_TOKEN_SECONDS: Final = 900.0
"""The console asks for new ones by itself."""
READY_SECONDS: Final = 20.0
"""From listening to the broker's and the database's first answer; a second is usual."""
POLL_SECONDS: Final = 0.05
PORTS_TRIED: Final = 100

_NOT_OURS: Final = (
    "REALTIME_DATABASE_URL",
    "REALTIME_JWT_PUBLIC_KEY",
    "REALTIME_JWT_JWKS_URL",
    "REALTIME_JWT_ALGORITHMS",
)
"""Settings of a real service: the demo fills its own database, and signs its tokens itself."""

_EPILOG: Final = """\
The broker is the one that REALTIME_AMQP_URL names; else a private node of an installed rabbitmq-server; else a
container; else the server is installed. Do not name a broker that a real service uses: the demo knows the diagnoses 123
and 124 alone, and would park what waits for others to be known.

The secret of its tokens is made up at each start, unless REALTIME_JWT_SECRET is set. REALTIME_DATABASE_URL is not used.

example:
  realtime-service demo --port 9000
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Run the service with all it needs, and print commands to try it out with."
    parser.epilog = _EPILOG
    parser.add_argument("--host", help="address to listen on, instead of REALTIME_HOST (127.0.0.1)")
    parser.add_argument(
        "--port",
        type=arguments.port,
        help="port to listen on, instead of REALTIME_PORT (8000, or the next free one)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print addresses and tokens as a line of JSON, the rest elsewhere"
    )


def run(args: argparse.Namespace) -> int:
    """Show it, until Ctrl-C or SIGTERM. Raises SettingsError, Failed."""
    _at_stop(_interrupt)
    env = {name: text for name, text in os.environ.items() if name.removesuffix("_FILE") not in _NOT_OURS}
    given = load_settings(env, host=args.host, port=args.port)
    with suppress(KeyboardInterrupt):
        try:
            _run(env, given, as_json=args.json)
        except BrokerUnavailable as error:
            raise Failed(str(error)) from error
    return Exit.OK


def _run(env: Mapping[str, str], given: Settings, *, as_json: bool) -> None:
    amqp_url = given.amqp_url.get_secret_value() if "amqp_url" in given.model_fields_set else None
    management = "management_url" not in given.model_fields_set
    say = _say_aside if as_json else _say
    with ExitStack() as stack:
        with told("until RabbitMQ is there"):
            broker = stack.enter_context(obtain_broker(amqp_url, management=management, say=say))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-demo-"))
        settings = _settings(env, given, broker, Path(directory), say)
        logs.configure(settings.log_level, settings.log_format)
        try:
            asyncio.run(_show(settings, broker, as_json=as_json))
        finally:
            _at_stop(signal.SIG_IGN)
    say("Stopped.")


def _at_stop(action: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(signum, action)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    """Until `serve` has its own. Once: the rest takes seconds, and who presses twice wants nothing left either."""
    _at_stop(signal.SIG_IGN)
    raise KeyboardInterrupt


def _settings(env: Mapping[str, str], given: Settings, broker: Broker, directory: Path, say: Say) -> Settings:
    """What was set, and the demo's own for the rest."""
    own: dict[str, object] = {
        "jwt_secret": secrets.token_urlsafe(32),
        "management_url": broker.management_url,
        "console": True,
        "drain_seconds": 0,
        "log_level": "warning",
        "log_format": "console",
    }
    chosen = {name: value for name, value in own.items() if name not in given.model_fields_set}
    return load_settings(
        env,
        **chosen,
        amqp_url=broker.amqp_url,
        database_url=f"sqlite:///{directory / 'demo.db'}",
        host=given.host,
        port=_free_port(given.host, given.port, say),
    )


def _free_port(host: str, wanted: int, say: Say) -> int:
    """`wanted`, or the next one that nobody listens on. Raises Failed."""
    for port in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        if _is_free(host, port):
            if port != wanted:
                say(f"Port {wanted} is taken by another program: using {port}.")
            return port
    raise Failed(f"port {wanted} and those after it are taken: choose another one (--port)")


def _is_free(host: str, port: int) -> bool:
    """Whether one can listen there. What stands in the way besides another listener, `serve` says better."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


async def _show(settings: Settings, broker: Broker, *, as_json: bool) -> None:
    """Serve, and print what to do with it once it can be done. Raises Failed."""
    if broker.source == "given":
        await _reach(broker.amqp_url)
    await create_embedded_database(settings.database_url.get_secret_value(), OWNERS)
    started: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, started, demo_tokens=partial(_console_tokens, settings)))
    telling = asyncio.create_task(_tell(settings, broker, started, as_json=as_json))
    try:
        await asyncio.wait({serving, telling}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
        await serving
    except OSError as error:
        raise cannot_listen(error, settings) from error
    finally:
        for task in (telling, serving):
            task.cancel()
        await asyncio.wait({serving, telling})


def _console_tokens(settings: Settings) -> dict[DiagnosisId, str]:
    """For the console: of each diagnosis' user, who may do everything."""
    scopes = [Scope.OPERATOR.value, Scope.PUBLISHER.value]
    return {
        DiagnosisId(diagnosis): signed(
            settings, user, expires_in_seconds=CONSOLE_TOKEN_SECONDS, scopes=scopes
        )
        for diagnosis, user in OWNERS.items()
    }


async def _reach(amqp_url: str) -> None:
    """Find out at once whether somebody's broker can be used. Raises Failed."""
    try:
        await close(await connect(amqp_url, name="realtime demo"))
    except BrokerCannotBeUsed as error:
        address = broker_address(amqp_url)
        raise Failed(f"the broker at {address} (REALTIME_AMQP_URL) cannot be used: {error}") from None


async def _tell(
    settings: Settings, broker: Broker, started: "asyncio.Future[Service]", *, as_json: bool
) -> None:
    service = await started
    server = arguments.local_url(settings.host, service.port)
    with told("until everything is ready"):
        await _ready(server)
    facts = Facts(
        server=server,
        token=signed(settings, OWNERS[123], expires_in_seconds=TOKEN_SECONDS),
        operator_token=signed(settings, 1, expires_in_seconds=TOKEN_SECONDS, scopes=[Scope.OPERATOR.value]),
        amqp_url=None if broker.source == "given" else broker.amqp_url,
        management_url=broker.management_url,
        console=settings.console,
    )
    _say(line(facts) if as_json else screen(facts, colours=has_colours(sys.stdout)))


async def _ready(server: URL) -> None:
    """Return once everything that will be printed works. Raises Failed."""
    missing = "anything"
    try:
        async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as session:
            while True:
                async with session.get(server / "readyz") as answer:
                    if answer.status == 200:
                        return
                    checks = (await answer.json(content_type=None)).get("checks", {})
                    missing = ", ".join(name for name, state in checks.items() if state != "ok")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise Failed(f"not ready after {READY_SECONDS:g} s, missing: {missing}") from None


def _say(text: str) -> None:
    print(text, flush=True)


def _say_aside(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
