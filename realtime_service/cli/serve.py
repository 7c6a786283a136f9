"""`realtime-service serve`: one replica, or several on one port, in the foreground."""

import argparse
import asyncio
import errno
import gc
import socket
import sys
from collections.abc import Callable
from typing import Final

import structlog

from realtime_service import logs
from realtime_service.adapters.rabbitmq.start_check import tell
from realtime_service.cli import arguments, findings_screen
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.workers import serve_with_workers
from realtime_service.domain.errors import TopologyWrong
from realtime_service.service import serve
from realtime_service.settings import Settings, load_settings, require_token_settings
from realtime_service.tracing import exporting

log = structlog.get_logger(__name__)

_YOUNG: Final = (5_000, 5)
"""Objects more before the youngest are looked at by the garbage collector, and how many times that before older ones
are. With the default of 700 an event to a thousand clients started several, a seventh of what it cost; with 50,000 one
took 0.1 s while thousands connected, with 10,000 25 ms (Python 3.11)."""
_ALL: Final = {True: 1_000, False: 20}
"""How many times that before all are, which stops everybody for a second where there are twenty thousand clients. With
uvloop nothing of a closed connection waits for it; of asyncio's own, the transport does: some 100 MB between two."""

_EPILOG: Final = """\
Needs RabbitMQ (REALTIME_AMQP_URL), a database with diagnoses(id, patient_id) (REALTIME_DATABASE_URL), and one of
REALTIME_JWT_SECRET, REALTIME_JWT_PUBLIC_KEY, REALTIME_JWT_JWKS_URL. It starts without the first two and waits for
them: /readyz says what is missing. At SIGTERM or Ctrl-C it drains; a second signal ends that. With --workers a
process that dies is replaced, and limits and metrics are those of each process.

It does not start, says why and ends with exit code 4 where RabbitMQ is set up in a way in which events would be lost
(an exchange of another type, a missing permission). A replica that was connected before goes on, and /readyz says so.

example:
  REALTIME_JWT_SECRET=… REALTIME_DATABASE_URL=postgresql://… realtime-service serve --port 8080
"""

_LISTENING: Final = {
    errno.EADDRINUSE: "another program listens on {host}:{port}: end it, or choose another (REALTIME_PORT, --port)",
    errno.EACCES: "this user may not listen on port {port}: choose one above 1023 (REALTIME_PORT, --port)",
    errno.EADDRNOTAVAIL: "{host} is no address of this machine: choose another one (REALTIME_HOST, --host)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Run a replica of the service, until SIGTERM or SIGINT."
    parser.epilog = _EPILOG
    parser.add_argument("--host", help="address to listen on, instead of REALTIME_HOST (127.0.0.1)")
    parser.add_argument(
        "--port", type=arguments.port, help="port to listen on, instead of REALTIME_PORT (8000)"
    )
    parser.add_argument(
        "--workers",
        type=arguments.number,
        default=1,
        metavar="N",
        help="replicas to run on that port, each in a process of its own, where a processor is not enough (1)",
    )
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve. Raises SettingsError, Failed."""
    settings = load_settings(host=args.host, port=args.port)
    require_token_settings(settings)
    logs.configure(settings.log_level, settings.log_format)
    gc.freeze()  # modules stay
    make_loop = _loop_factory()
    gc.set_threshold(*_YOUNG, _ALL[make_loop is not None])
    try:
        if args.workers > 1:
            return serve_with_workers(settings, args.workers)
        with exporting(), asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(serve(settings, lifeline=args.worker))
    except OSError as error:
        raise cannot_listen(error, settings) from error
    except TopologyWrong as wrong:
        _report(wrong)
        return Exit.WRONG_TOPOLOGY
    except Exception as error:
        log.critical("crashed", error=type(error).__name__, exc_info=True)
        return Exit.FAILED
    return Exit.OK


def _report(wrong: TopologyWrong) -> None:
    """A table for a person at a terminal, a log line a finding for everybody else."""
    if not sys.stderr.isatty():
        for finding in wrong.findings:
            tell(finding)
        log.critical("not_started", reason="RabbitMQ is not set up as the service needs it")
        return
    colours, width = findings_screen.has_colours(sys.stderr), findings_screen.width_of(sys.stderr)
    table = findings_screen.table(wrong.findings, colours=colours, width=width)
    print(f"RabbitMQ is not set up as the service needs it:\n\n{table}\n", file=sys.stderr)
    print(
        "Not started. `realtime-service doctor` looks at everything else, too.", file=sys.stderr, flush=True
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed (the extra `speed`); None: the one of the standard library."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def cannot_listen(error: OSError, settings: Settings) -> Exception:
    """What to tell when listening failed; any other error is handed back."""
    known = _LISTENING.get(error.errno or 0)
    if known is None and isinstance(error, socket.gaierror):
        known = "the host name {host} does not resolve: choose another one (REALTIME_HOST, --host)"
    return Failed(known.format(host=settings.host, port=settings.port)) if known else error
