"""What there is to say about exchanges, queues and bindings that are otherwise than declared: what that does to events.

RabbitMQ (3.10 to 4.1) names one difference at a time when it refuses a declaration (406), and the value that it has.
Whether a difference is an error stands here: it is one where events get lost, or a promise is broken.
"""

import re
from dataclasses import dataclass
from typing import Final

from contracts import topology
from realtime_service.domain.finding import Finding, Severity

NONE: Final = "none"

_INEQUIVALENT: Final = re.compile(
    r"inequivalent arg '(?P<name>[\w-]+)' for .*but current is (?:the value )?(?P<value>none|'(?P<text>.*?)')"
    r"(?: of type '(?P<type>\w+)')?\Z"
)

_GONE: Final = "it is gone after a restart of the broker, with what is in it or bound to it"
_DELETED: Final = "the broker deletes it by itself, with what is in it or bound to it"
_UNUSUAL: Final = "it is used as it is"


@dataclass(frozen=True, slots=True)
class Difference:
    """One attribute or argument."""

    name: str
    current: str | int | bool | None
    """None: it has none; or, where `readable` is false, unknown."""
    readable: bool = True

    @property
    def value(self) -> str:
        """What there is, for people."""
        return "another value" if not self.readable else NONE if self.current is None else str(self.current)


def difference(text: str, declared: topology.Arguments) -> Difference:
    """Read the broker's refusal of a declaration with these arguments."""
    match = _INEQUIVALENT.search(text)
    if match is None:
        return Difference("arguments", None, readable=False)
    name, value = match["name"], match["text"]
    if value is None:
        return Difference(name, None)
    if match["type"] == "bool" or isinstance(declared.get(name), bool):
        return Difference(name, value == "true")
    number = match["type"] != "longstr" and value.isdecimal()
    return Difference(name, int(value) if number else value)


def exchange_differs(name: str, found: Difference, wanted: str) -> Finding:
    """An exchange has another attribute or argument than it should have."""
    severity, problem = _judge_exchange(name, found)
    repair = "stop the publishers, delete the exchange, and start the service, which declares it anew"
    return _differs(severity, f"exchange {name!r}", found, wanted, problem, repair)


def queue_differs(name: str, found: Difference, wanted: str) -> Finding:
    """The same of a queue."""
    severity, problem = _judge_queue(name, found)
    repair = "let the queue run empty, delete it, and start the service, which declares it anew"
    return _differs(severity, f"queue {name!r}", found, wanted, problem, repair)


def _differs(
    severity: Severity, what: str, found: Difference, wanted: str, problem: str, repair: str
) -> Finding:
    advice = repair if severity is Severity.ERROR else f"nothing, if this is meant; else {repair}"
    return Finding(severity, what, f"{found.name} is {found.value}, not {wanted}", problem, advice)


def missing(what: str, *, refused: bool) -> Finding:
    """It does not exist, and cannot be declared; `refused`: this user may not."""
    if refused:
        problem = "this user may not declare it"
        advice = "grant the user the configure permission, or have it declared by one who has that"
    else:
        problem, advice = "the broker refuses to declare it", "look for the reason in the broker's log"
    return Finding(Severity.ERROR, what, "it does not exist", problem, advice)


def not_yet(what: str) -> Finding:
    """It does not exist, and nobody tried to declare it."""
    return Finding(
        Severity.WARNING,
        what,
        "it does not exist",
        "nothing can be published or received before it does",
        "start the service, which declares it, or says why it may not",
    )


def end_missing(what: str) -> Finding:
    """A binding of something that does not exist."""
    advice = "declare what is missing, and start the service"
    return Finding(Severity.ERROR, what, "one of its ends does not exist", "no event takes this way", advice)


def of_another_connection(what: str) -> Finding:
    """It is exclusive."""
    return Finding(
        Severity.WARNING,
        what,
        "it belongs to another connection alone",
        "events will not pass through it until that one ends",
        "find out who declared it, and end that connection",
    )


def used_as_it_is(what: str) -> Finding:
    """It exists, and this user may not declare it."""
    return Finding(
        Severity.WARNING,
        what,
        "it exists",
        "this user may not declare it, and so cannot see how it was declared; it is used as it is",
        "nothing, if an earlier start or the broker's definitions declared it",
    )


def taken_to_be_there(what: str) -> Finding:
    """A binding that this user may not make."""
    return Finding(
        Severity.WARNING,
        what,
        "whether it exists cannot be seen",
        "this user may not make it; it is taken to be there",
        "nothing, if an earlier start or the broker's definitions made it",
    )


def _judge_exchange(name: str, found: Difference) -> tuple[Severity, str]:
    """How bad a difference of an exchange is, and why."""
    match found.name:
        case "type":
            return Severity.ERROR, "events take other ways through it than the service relies on"
        case "durable":
            return Severity.ERROR, _GONE
        case "auto_delete":
            return Severity.ERROR, _DELETED
        case "internal" if found.current == "true":
            return Severity.ERROR, "nobody can publish to it"
        case "internal":
            return Severity.WARNING, "publishers can send to it past the outer exchanges"
        case "alternate-exchange" if name == topology.EVENTS:
            lost = "an event of a diagnosis without a queue is confirmed to its publisher, and lost"
            return Severity.ERROR, lost
        case "alternate-exchange" if name in topology.EVENT_TYPES:
            return Severity.ERROR, "an event with a wrong routing key is confirmed to its publisher, and lost"
        case "alternate-exchange" if name == topology.DEVICES and found.current == topology.UNROUTED:
            return Severity.ERROR, "an event of a diagnosis without named devices is delivered twice"
    return Severity.WARNING, _UNUSUAL


def _judge_queue(name: str, found: Difference) -> tuple[Severity, str]:
    """The same of a queue."""
    match found.name:
        case "durable":
            return Severity.ERROR, _GONE
        case "auto_delete" | "x-expires":
            return Severity.ERROR, _DELETED
        case "x-queue-type" if found.current == "stream":
            return Severity.ERROR, "a stream keeps what was settled, and hands it out again"
        case "x-single-active-consumer" if name == topology.UNROUTED:
            return (
                Severity.ERROR,
                "several replicas make first contact at once: new events overtake older ones",
            )
        case "x-message-ttl" if name == topology.UNROUTED:
            return (
                Severity.ERROR,
                "events that wait for their first contact are dropped when they reach that age",
            )
    return Severity.WARNING, _UNUSUAL
