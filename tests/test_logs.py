"""What ends in the log, seen from outside: one line an event, and no value of a variable."""

import json
import subprocess
import sys

import pytest

from realtime_service.logs import TROUBLES, count_troubles

PROGRAM = """
import logging, structlog
from realtime_service import logs

logs.configure("info", {format!r})
log = structlog.get_logger("realtime_service.test")

def admit(token):
    raise ValueError("no")

log.info("connection_opened", connection="abc")
log.debug("not wanted")
logging.getLogger("some.library").warning("said %s", "so")
try:
    admit("open " + "sesame")
except ValueError:
    log.exception("failed", number=7)
"""


def log_of(log_format: str) -> str:
    program = [sys.executable, "-c", PROGRAM.format(format=log_format)]
    ended = subprocess.run(program, capture_output=True, text=True, check=True)
    assert not ended.stdout
    return ended.stderr


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_lines_of_code_and_no_variables(log_format: str) -> None:
    log = log_of(log_format)
    assert "ValueError: no" in log
    assert "open sesame" not in log


def test_every_line_for_machines_is_one_json_object() -> None:
    lines = [json.loads(line) for line in log_of("json").splitlines()]
    assert [line["event"] for line in lines] == ["connection_opened", "said so", "failed"]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert lines[0]["connection"] == "abc"
    assert lines[2]["number"] == 7
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_troubles_are_counted_by_the_name_of_their_line() -> None:
    before = troubles("relay_failed"), troubles("other")
    for method, event in (("warning", "relay_failed"), ("info", "relay_failed"), ("error", "lost 7 of them")):
        assert count_troubles(None, method, {"event": event}) == {"event": event}
    assert (troubles("relay_failed"), troubles("other")) == (before[0] + 1, before[1] + 1)


def troubles(event: str) -> float:
    return float(TROUBLES.labels(event=event)._value.get())
