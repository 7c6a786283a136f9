"""`realtime-service publish`: one event, by the same way as upstream tasks."""

import argparse
import asyncio
import os
import sys
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from contracts.events import BODIES, MAX_BODY_BYTES, BodyInvalid, EventBody, EventType, explain, parse_body
from contracts.ids import EventId
from realtime_service import logs
from realtime_service.cli import arguments
from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.waiting import told
from realtime_service.domain.errors import EventInvalid
from realtime_service.publisher import EventOptions, EventPublisher

TIMEOUT_SECONDS: Final = 10.0

_EPILOG: Final = """\
`realtime-service publish KIND --help` lists the fields of each.

example:
  realtime-service publish effectiveness --diagnosis 123 --recommendation-id 789 \\
      --effectiveness 0.85 --confidence 0.92 --sample-size 100

Exit codes: 0 the broker has the event on disk, 1 it was not confirmed, 2 the event or the words are wrong.
"""

_EXAMPLES: Final = {
    EventType.RECOMMENDATION: """\
examples:
  realtime-service publish recommendation --diagnosis 123 --new-data '{"dose": 5}' --reason 'lower dose'
  realtime-service publish recommendation --json - < body.json
""",
    EventType.EFFECTIVENESS: """\
examples:
  realtime-service publish effectiveness --diagnosis 123 --recommendation-id 789 \\
      --effectiveness 0.85 --confidence 0.92 --sample-size 100
  realtime-service publish effectiveness --json - < body.json
""",
    EventType.FEEDBACK: """\
examples:
  realtime-service publish feedback --diagnosis 123 --feedback-id 5 --rating 4 --effectiveness 0.7
  echo '{"diagnosis_id": 123, "feedback_id": 5, "rating": 4, "effectiveness": 0.7}' |
      realtime-service publish feedback --json -
""",
}

_KINDS: Final = {kind.value.removesuffix("_update"): kind for kind in EventType}


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("""must be a JSON object such as '{"dose": 5}'""")
    return value


_FIELDS: Final[dict[EventType, dict[str, dict[str, Any]]]] = {
    EventType.RECOMMENDATION: {
        "old_data": {
            "type": _json_object,
            "metavar": "JSON",
            "help": "the recommendation before the change, a JSON object (default: {}, for a new one)",
        },
        "new_data": {
            "type": _json_object,
            "metavar": "JSON",
            "help": "the recommendation as it is now, a JSON object",
        },
        "reason": {"metavar": "TEXT", "help": "why it changed, for people"},
    },
    EventType.EFFECTIVENESS: {
        "recommendation_id": {"type": int, "metavar": "ID", "help": "the recommendation whose score this is"},
        "effectiveness": {"type": float, "metavar": "SHARE", "help": "from 0 to 1"},
        "confidence": {"type": float, "metavar": "SHARE", "help": "from 0 to 1"},
        "sample_size": {"type": int, "metavar": "N", "help": "number of observations behind the score"},
    },
    EventType.FEEDBACK: {
        "feedback_id": {"type": int, "metavar": "ID", "help": "the feedback that was summarised"},
        "rating": {"type": int, "metavar": "STARS", "help": "from 1 to 5"},
        "effectiveness": {"type": float, "metavar": "SHARE", "help": "from 0 to 1"},
    },
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Publish an event, and print its id once the broker has it on disk."
    parser.epilog = _EPILOG
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, kind in _KINDS.items():
        summary = " ".join((BODIES[kind].__doc__ or "").split())
        one = kinds.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=_EXAMPLES[kind],
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        _configure_kind(one, _FIELDS[kind])


def _configure_kind(parser: argparse.ArgumentParser, fields: dict[str, dict[str, Any]]) -> None:
    body = parser.add_argument_group("the event")
    body.add_argument(
        "--diagnosis",
        dest="diagnosis_id",
        type=arguments.number,
        metavar="ID",
        help="the diagnosis it is about",
    )
    for field, options in fields.items():
        body.add_argument("--" + field.replace("_", "-"), **options)
    body.add_argument(
        "--json",
        metavar="BODY",
        help="the whole body as JSON instead, diagnosis_id included; - reads standard input",
    )
    parser.add_argument(
        "--event-id",
        type=arguments.event_id,
        metavar="ID",
        help="clients show an id once (default: a random one)",
    )
    parser.add_argument(
        "--user", type=arguments.number, metavar="ID", help="a personal event, for this user alone"
    )
    parser.add_argument("--exclude-connection", metavar="ID", help="leave this connection out")
    parser.add_argument(
        "--amqp-url",
        type=arguments.amqp_url,
        metavar="URL",
        help="the broker (default: REALTIME_AMQP_URL, or a fresh RabbitMQ on this machine)",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.seconds,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for the broker's confirm (default: %(default)g)",
    )
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Publish. Raises Failed, SettingsError, PublishError."""
    logs.configure("critical", "console")
    kind = _KINDS[args.kind]
    try:
        body = _body(kind, args)
        options: EventOptions = {
            "event_id": args.event_id,
            "user_id": args.user,
            "exclude_connection_id": args.exclude_connection,
        }
        with told("waiting for the broker's confirm"):
            event_id = asyncio.run(_publish(body, args.amqp_url, args.timeout, options))
    except (BodyInvalid, EventInvalid) as error:
        raise Failed(f"{error}; nothing was sent", Exit.USAGE) from None
    print(event_id, flush=True)
    return Exit.OK


async def _publish(
    body: EventBody, amqp_url: str | None, timeout_seconds: float, options: EventOptions
) -> EventId:
    async with EventPublisher(
        amqp_url, timeout_seconds=timeout_seconds, app_id="realtime-service"
    ) as publisher:
        return await publisher.publish(body, **options)


def _body(kind: EventType, args: argparse.Namespace) -> EventBody:
    """The event's body. Raises BodyInvalid; ends with usage when words are missing or too many."""
    names = ["diagnosis_id", *_FIELDS[kind]]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.json is not None:
        if given:
            args.usage_error(f"give either --json or the fields, not both: {_options(given)}")
        # One byte more than a body may have, so that a longer one is refused and not cut.
        whole = sys.stdin.buffer.read(MAX_BODY_BYTES + 1) if args.json == "-" else os.fsencode(args.json)
        return parse_body(kind, whole)
    if kind is EventType.RECOMMENDATION:
        given.setdefault("old_data", {})
    if missing := [name for name in names if name not in given]:
        args.usage_error(f"these are missing: {_options(missing)}")
    try:
        return BODIES[kind].model_validate(given)
    except ValidationError as error:
        raise BodyInvalid(explain(error)) from None


def _options(names: Any) -> str:
    return ", ".join(
        "--diagnosis" if name == "diagnosis_id" else "--" + name.replace("_", "-") for name in names
    )
