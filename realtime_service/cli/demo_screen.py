"""What the demo prints: commands to copy, which work as they stand from another terminal in the same folder."""

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from yarl import URL

from contracts.events import EffectivenessUpdate
from contracts.ids import DiagnosisId
from contracts.topology import EXCHANGES, routing_key

DIAGNOSIS: Final = DiagnosisId(123)

_READY, _BEGIN = "Ready at ", "Begin here: "
_CYAN, _GREEN, _PLAIN = "\x1b[36m", "\x1b[32m", "\x1b[0m"

_EVENT: Final = EffectivenessUpdate(
    diagnosis_id=DIAGNOSIS, recommendation_id=789, effectiveness=0.85, confidence=0.92, sample_size=100
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to show."""

    server: URL
    token: str
    operator_token: str
    amqp_url: str | None
    """None: the broker of REALTIME_AMQP_URL, whose password is not ours to show."""
    management_url: str | None
    console: bool
    """The page is there."""


def line(facts: Facts) -> str:
    """For scripts, in JSON: addresses and tokens. What is not ours to show is null."""
    plain = facts.server.with_scheme("http")
    return json.dumps(
        {
            "server": str(plain),
            "websocket": str(_socket(facts)),
            "console": str(plain / "console") if facts.console else None,
            "diagnosis": DIAGNOSIS,
            "token": facts.token,
            "operator_token": facts.operator_token,
            "amqp_url": facts.amqp_url,
            "management_url": facts.management_url,
        }
    )


def _socket(facts: Facts) -> URL:
    return facts.server / "ws" / str(DIAGNOSIS) % {"token": facts.token}


def screen(facts: Facts, *, colours: bool = False) -> str:
    """The text; every command is a line of its own, two spaces in. In colours, what is to be copied stands out."""
    lines = _text(facts).splitlines()
    if colours:
        lines = [f"{colour}{one}{_PLAIN}" if (colour := _colour(one)) else one for one in lines]
    return "\n".join(lines)


def _colour(line: str) -> str:
    if line.startswith("  "):
        return _CYAN
    return _GREEN if line.startswith((_READY, _BEGIN)) else ""


def _text(facts: Facts) -> str:
    socket = _socket(facts)
    plain = facts.server.with_scheme("http")
    program = program_again(Path(sys.argv[0]), Path.cwd())
    status = shlex.quote(str(plain / "ws" / "status"))
    body = json.dumps(_EVENT.model_dump(mode="json"), separators=(",", ":"))
    publish = (
        f"publish effectiveness --diagnosis {DIAGNOSIS} --recommendation-id {_EVENT.recommendation_id}"
        f" --effectiveness {_EVENT.effectiveness} --confidence {_EVENT.confidence} --sample-size {_EVENT.sample_size}"
    )
    url = '"$REALTIME_AMQP_URL"' if facts.amqp_url is None else shlex.quote(facts.amqp_url)
    prefix = "" if facts.amqp_url is None else f"REALTIME_AMQP_URL={url} "
    where = " (with REALTIME_AMQP_URL set there as it is here)" if facts.amqp_url is None else ""
    parts = [
        "",
        f"{_READY}{plain}. Diagnosis 123 belongs to user 100, diagnosis 124 to user 101.",
        f"The commands are for another terminal in this folder{where}; the tokens are good for 24 hours.",
        "",
        *(["See it work, in a browser:", f"  {plain / 'console'}", ""] if facts.console else []),
        "The WebSocket of diagnosis 123, for any client:",
        f"  {socket}",
        "",
        "Watch it:",
        f"  {program} watch {shlex.quote(str(socket))}",
        "",
        "Publish an event to it (while nobody watches, it waits):",
        f"  {prefix}{program} {publish}",
        "",
        "The same from anything that speaks AMQP, here with Debian's amqp-tools:",
        f"  amqp-publish --url {url} -e {EXCHANGES[_EVENT.event_type]} -r {routing_key(_EVENT.diagnosis_id)} -p"
        f" -C application/json -b {shlex.quote(body)}",
        "",
        "Who is connected and what waits, for an operator:",
        f"  {program} status --server {shlex.quote(str(plain))} --token {facts.operator_token}",
        f"  curl -sS -H 'Authorization: Bearer {facts.operator_token}' {status}",
        "",
        "The same as variables, for README.md and deploy/docs/tutorial.md:",
        f"  export SERVER={shlex.quote(str(plain))} TOKEN={facts.token} OPERATOR_TOKEN={facts.operator_token}"
        f" {prefix}".rstrip(),
        "",
    ]
    if facts.management_url is not None:
        management = URL(facts.management_url)
        parts += [
            f"RabbitMQ's own page (user {management.user}, password {management.password}):",
            f"  {management.with_user(None)}",
            "",
        ]
    begin = [f"{_BEGIN}{plain / 'console'}"] if facts.console else []
    return "\n".join([*parts, *begin, "Ctrl-C stops everything."])


def program_again(started: Path, folder: Path) -> str:
    """How to start this program again from `folder`, ready for a shell. `started`: how it was (`sys.argv[0]`)."""
    if started.name == "__main__.py" or not (folder / started).is_file():
        return f"{_from(folder, Path(sys.executable))} -m realtime_service"
    return _from(folder, started)


def _from(folder: Path, program: Path) -> str:
    """Absolute, or relative where it lies below the folder; never a bare name, which would be looked for on PATH."""
    whole = Path(os.path.normpath(folder / program))  # a link stays one: behind it, Python lacks our packages
    if not whole.is_relative_to(folder):
        return shlex.quote(str(whole))
    relative = str(whole.relative_to(folder))
    return shlex.quote(relative if os.sep in relative else os.path.join(os.curdir, relative))
