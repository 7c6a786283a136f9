"""The command `realtime-service`: one module a command, imported only when it is the one that runs.

Law: whatever happens, the person who typed the command reads lines that say what is wrong and what to do, and no
traceback; results go to standard output, everything else to standard error; a token is never printed by a command
that was given it.
"""

import argparse
import importlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from typing import Final, Protocol, cast

from realtime_service import __version__
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.domain.errors import RealtimeError, SettingsError

PROGRAM: Final = "realtime-service"

COMMANDS: Final = {
    "demo": "everything set up, to try it out: broker, database, tokens, commands to copy",
    "serve": "run a replica, until SIGTERM or SIGINT",
    "publish": "publish an event, and print its id once the broker has it on disk",
    "watch": "show a diagnosis' events as they happen",
    "status": "show who is connected and what waits",
    "doctor": "look at everything a replica needs, and say what is wrong",
    "prune": "delete queues of diagnoses that nobody has used for long",
    "token": "sign a token with REALTIME_JWT_SECRET",
    "completion": "print a script with which a shell completes these words",
}

_EPILOG: Final = f"""\
examples:
  {PROGRAM} demo
  {PROGRAM} publish --help

Settings are environment variables (REALTIME_…); they are listed in the README.
"""


class Command(Protocol):
    """What a command's module holds."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments, its description and an example."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` by default) and return its exit code, one of `outcome.Exit`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a sign is no reason to fail
    # Without any, Python prints the libraries' warnings by itself.
    logging.getLogger().addHandler(logging.NullHandler())
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except (
        Exception
    ) as error:  # a bug; its text may quote what is secret, so only its kind and place are told
        while isinstance(error, ExceptionGroup):  # a part of the service died
            error = error.exceptions[0]
        place = traceback.extract_tb(error.__traceback__)[-1]
        say(
            f"{PROGRAM}: internal error: {type(error).__name__} at {place.filename}:{place.lineno}; please report it"
        )
        return Exit.FAILED
    return code


def parser_of(asked: Collection[str]) -> argparse.ArgumentParser:
    """The parser; only the commands that are asked for have their arguments, and their modules imported."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Carries a diagnosis' events from RabbitMQ to the WebSockets of its patient.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        if name in asked:
            _module(name).configure(command)
    return parser


def _module(name: str) -> Command:
    return cast("Command", importlib.import_module(f"realtime_service.cli.{name}"))


def _run(words: Sequence[str]) -> int:
    parser = parser_of(words[:1])
    if not words:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    try:
        args = parser.parse_args(words)
        return _module(args.command).run(args)
    except SystemExit as done:  # argparse has printed its help, or what is wrong with the words
        return done.code if isinstance(done.code, int) else Exit.USAGE
    except SettingsError as wrong:
        for problem in wrong.problems:
            say(problem)
        return Exit.USAGE
    except Failed as failure:
        say(f"{PROGRAM} {words[0]}: {failure}")
        return failure.code
    except RealtimeError as error:
        say(f"{PROGRAM} {words[0]}: {error}")
        return Exit.FAILED


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(line, file=sys.stderr, flush=True)
