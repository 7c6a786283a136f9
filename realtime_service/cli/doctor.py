"""`realtime-service doctor`: looks at everything a replica needs, and says what is wrong and what to do about it.

Law: it only looks. What it finds is told in our own words, without a secret.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
from typing import Final

from realtime_service import logs
from realtime_service.cli import findings_screen
from realtime_service.cli.examinations import wrong
from realtime_service.cli.examinations.broker import examine_broker
from realtime_service.cli.examinations.database import examine_database
from realtime_service.cli.examinations.machine import examine_machine
from realtime_service.cli.examinations.tokens import examine_tokens
from realtime_service.cli.outcome import Exit
from realtime_service.cli.waiting import told
from realtime_service.domain.errors import SettingsError
from realtime_service.domain.finding import Finding, Severity
from realtime_service.settings import load_settings

_EPILOG: Final = """\
Looks at the settings, the broker (version, permissions, exchanges and queues, policies), the database, the tokens'
keys, the clock and the limit of open files, with the settings and the limits of this shell. Changes nothing.

Exit codes: 0 nothing is wrong (there may be warnings); 1 something is.

examples:
  realtime-service doctor
  realtime-service doctor --json | jq '.findings[] | select(.severity == "error")'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Look at everything a replica needs, and say what is wrong and what to do about it."
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def run(args: argparse.Namespace) -> int:
    """Look, and report."""
    logs.configure("critical", "console")
    findings = asyncio.run(_examine())
    healthy = not any(finding.severity is Severity.ERROR for finding in findings)
    if args.json:
        print(json.dumps({"ok": healthy, "findings": [dataclasses.asdict(each) for each in findings]}))
    else:
        print(findings_screen.report(findings, sys.stdout))
    return Exit.OK if healthy else Exit.FAILED


async def _examine() -> list[Finding]:
    try:
        settings = load_settings()
    except SettingsError as error:
        problem, advice = "the service does not start", "correct the variable; nothing else was looked at"
        return [wrong("settings", line, problem, advice) for line in error.problems]
    with told("looking"):
        found = await asyncio.gather(
            examine_broker(settings), examine_database(settings), examine_tokens(settings)
        )
    return [finding for findings in found for finding in findings] + examine_machine(settings)
