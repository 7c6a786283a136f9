"""Policies that change the limits of the service's queues for the worse.

Of a queue's own arguments and the policies that fit its name the lower number counts (RabbitMQ, *Policies*); of several
policies of a kind, the one with the highest priority.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from contracts import topology
from contracts.events import MAX_BODY_BYTES
from realtime_service.adapters.management import Policy
from realtime_service.cli.examinations import odd, wrong
from realtime_service.domain.finding import Finding
from realtime_service.settings import Settings

ENOUGH_RETURNS: Final = 1000
"""Times a quorum queue may be told to give an event back, at least: every lost connection is one."""
ENOUGH_PARKED: Final = 1000
"""Of the largest events, to look at."""

_REPLICAS: Final = "queues of replicas"
_QUEUE_KINDS: Final = {"all", "queues"}


def harmful(policies: list[Policy], queues: list[str], settings: Settings) -> list[Finding]:
    """A finding for each policy that does harm to any of these queues, and each thing it does."""
    kinds = _QUEUE_KINDS | {f"{settings.queue_type}_queues"}
    findings: dict[str, Finding] = {}
    for queue in queues:
        for policy in _effective(policies, queue, kinds):
            for finding in _harm(policy, queue, settings):
                findings.setdefault(f"{finding.object} {finding.found}", finding)
    return list(findings.values())


def _effective(policies: Iterable[Policy], queue: str, kinds: set[str]) -> Iterator[Policy]:
    for by_operator in (False, True):
        fitting = [
            policy
            for policy in policies
            if policy.by_operator is by_operator and policy.apply_to in kinds and _fits(policy, queue)
        ]
        if fitting:
            yield max(fitting, key=lambda policy: policy.priority)


def _fits(policy: Policy, queue: str) -> bool:
    try:
        return re.search(policy.pattern, queue) is not None
    except re.error:  # Erlang's are PCRE, which knows a little more
        return False


def _harm(policy: Policy, queue: str, settings: Settings) -> Iterator[Finding]:
    what = f"{'operator policy' if policy.by_operator else 'policy'} {policy.name!r}"
    kind = _kind(queue)
    advice = "remove that from the policy, or keep its pattern from fitting the service's queues"
    for name, value in policy.definition.items():
        found = f"{name} {value} for {kind}"
        match name:
            case "expires" if kind != _REPLICAS:
                yield wrong(what, found, "queues are deleted with what waits in them", advice)
            case "message-ttl" if _below(value, _ages().get(kind)):
                yield wrong(
                    what, found, "events are dropped earlier than promised, and nobody is told", advice
                )
            case "max-length" if _below(value, _lengths(settings).get(kind)):
                problem = (
                    "older events are dropped at fewer than the service counts on; it does not say `gap` then"
                )
                yield odd(
                    what,
                    found,
                    problem,
                    f"nothing, if this is meant (and set REALTIME_BACKLOG_LIMIT); {advice}",
                )
            case "max-length-bytes" if _below(value, _bytes(settings).get(kind, float("inf"))):
                yield odd(
                    what, found, "older events are dropped, and the service does not say `gap` then", advice
                )
            case "overflow" if value != "drop-head":
                yield wrong(what, found, "a full queue refuses new events, which then reach nobody", advice)
            case "delivery-limit" if settings.queue_type == "quorum" and _below(value, ENOUGH_RETURNS):
                yield wrong(what, found, "an event that came back that often is dropped unreceived", advice)


def _kind(queue: str) -> str:
    if queue in (topology.UNROUTED, topology.PARKED):
        return queue
    parsed = topology.parse_queue(queue)
    if parsed is None:
        return _REPLICAS
    return "queues of diagnoses" if parsed[1] is None else "queues of devices"


def _ages() -> dict[str, float]:
    """Milliseconds that an event stays, by the queue's arguments. The other queues have no age."""
    return {
        "queues of diagnoses": topology.BACKLOG_TTL_MS,
        "queues of devices": topology.BACKLOG_TTL_MS,
        topology.PARKED: topology.PARKED_TTL_MS,
        topology.UNROUTED: float("inf"),
        _REPLICAS: topology.NODE_EXPIRES_MS,
    }


def _lengths(settings: Settings) -> dict[str, float]:
    return {
        "queues of diagnoses": settings.backlog_limit,
        "queues of devices": settings.backlog_limit,
        topology.PARKED: topology.PARKED_LIMIT,
        topology.UNROUTED: topology.UNROUTED_LIMIT,
        _REPLICAS: topology.NODE_LIMIT,
    }


def _bytes(settings: Settings) -> dict[str, float]:
    """What so many of the largest events take. The parking queue promises no number of such."""
    backlog = settings.backlog_limit * MAX_BODY_BYTES
    return {
        "queues of diagnoses": backlog,
        "queues of devices": backlog,
        topology.PARKED: ENOUGH_PARKED * MAX_BODY_BYTES,
    }


def _below(value: Any, limit: float | None) -> bool:
    return limit is not None and isinstance(value, int) and value < limit
