"""Writes RabbitMQ's definitions: the fixed topology, and who may do what to it.

    python deploy/rabbitmq/definitions.py > definitions.json

A user's password is read from the file that `RABBITMQ_<USER>_PASSWORD_FILE` names, or from `RABBITMQ_<USER>_PASSWORD`
(`PUBLISHER`, `SERVICE`, `MONITOR`, `OPERATOR`); only its salted hash is written. A user without one is written without
a password, and cannot log in by one (`rabbitmqctl change_password` gives it one). RabbitMQ reads the result at its
start (`load_definitions`), or by `rabbitmqctl import_definitions`. Names come from `contracts.topology`.
"""

import base64
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from contracts import topology

VHOST: Final = "realtime"

_DIAGNOSIS: Final = r"diagnosis\.[0-9]{1,19}"
_BACKLOG: Final = rf"{_DIAGNOSIS}(\.device\.[0-9a-f]{{1,32}})?"
_NOTHING: Final = "^$"
_ANYTHING_BUT_REPLICAS: Final = r"^diagnosis\."


def _names(*alternatives: str) -> str:
    return f"^({'|'.join(alternatives)})$"


def _literal(*names: str) -> tuple[str, ...]:
    return tuple(name.replace(".", r"\.") for name in names)


_OUTER: Final = _literal(*topology.EXCHANGES.values())
_FIXED: Final = (
    *_OUTER,
    *_literal(topology.EVENTS, topology.DEVICES, topology.UNROUTED, topology.PARKED, topology.NODES),
)
_SERVICE: Final = (*_FIXED, _BACKLOG, r"realtime\.node\.[!-~]{1,100}")

PERMISSIONS: Final[dict[str, dict[str, str]]] = {
    # What tasks need is to publish to the three outer exchanges.
    "publisher": {"configure": _NOTHING, "write": _names(*_OUTER), "read": _NOTHING},
    # `amq.default` is how it parks, forwards and answers: straight to a queue. It is also the way into a replica's
    # queue, and therefore nobody else's.
    "service": {
        "configure": _names(*_SERVICE),
        "write": _names(r"amq\.default", *_SERVICE),
        "read": _names(*_SERVICE),
    },
    # For REALTIME_MANAGEMENT_URL: it sees the lengths of queues, and no message.
    "monitor": {"configure": _NOTHING, "write": _NOTHING, "read": _NOTHING},
    # For `prune`, for looking at queues, and for giving back what was parked.
    "operator": {
        "configure": _names(_BACKLOG),
        "write": _names(*_OUTER, _BACKLOG),
        "read": _ANYTHING_BUT_REPLICAS,
    },
}
"""Regular expressions of names, by user: what it may declare or delete, publish or bind to, consume or bind from."""

TAGS: Final[dict[str, list[str]]] = {
    "publisher": [],
    "service": [],
    "monitor": ["management"],
    "operator": ["management"],
}
"""`management` lets a user ask the management API about this virtual host. None of them is an administrator."""

KEYS: Final = rf"^{_DIAGNOSIS}$"
"""The routing keys a publisher may use: a wrong one is refused at once instead of being parked."""

POLICIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    # 100 events of 64 KiB each fit in. It bounds what REALTIME_BACKLOG_LIMIT may be raised to by mistake.
    "backlogs": (rf"^{_BACKLOG}$", {"max-length-bytes": 64 * 1024 * 1024}),
    "parked": (_names(*_literal(topology.PARKED)), {"max-length-bytes": 256 * 1024 * 1024}),
}
"""Bounds in bytes beside the contract's bounds in events: pattern of queues, and what holds for them."""


def definitions(environment: Mapping[str, str]) -> dict[str, Any]:
    """All definitions. Raises OSError when a password's file cannot be read."""
    return {
        "vhosts": [{"name": VHOST}],
        "users": [
            {
                "name": user,
                "password_hash": _hash(password) if (password := _password(user, environment)) else "",
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": TAGS[user],
            }
            for user in PERMISSIONS
        ],
        "permissions": [{"user": user, "vhost": VHOST, **allowed} for user, allowed in PERMISSIONS.items()],
        "topic_permissions": [
            {"user": "publisher", "vhost": VHOST, "exchange": exchange, "write": KEYS, "read": _NOTHING}
            for exchange in topology.EXCHANGES.values()
        ],
        "policies": [
            {"vhost": VHOST, "name": name, "pattern": pattern, "apply-to": "queues", "definition": bounds}
            for name, (pattern, bounds) in POLICIES.items()
        ],
        "exchanges": [
            _exchange(topology.UNROUTED, kind="fanout"),
            _exchange(topology.NODES),
            _exchange(topology.EVENTS, internal=True, arguments=topology.EVENTS_ARGUMENTS),
            _exchange(topology.DEVICES, internal=True),
            *(_exchange(name, arguments=topology.OUTER_ARGUMENTS) for name in topology.EXCHANGES.values()),
        ],
        "queues": [
            _queue(topology.UNROUTED, topology.UNROUTED_ARGUMENTS),
            _queue(topology.PARKED, topology.PARKED_ARGUMENTS),
        ],
        "bindings": [
            _binding(topology.UNROUTED, topology.UNROUTED, "queue", ""),
            *(
                _binding(outer, inner, "exchange", topology.ANY_DIAGNOSIS)
                for outer in topology.EXCHANGES.values()
                for inner in (topology.EVENTS, topology.DEVICES)
            ),
        ],
    }


def _exchange(
    name: str, *, kind: str = "topic", internal: bool = False, arguments: topology.Arguments | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "vhost": VHOST,
        "type": kind,
        "durable": True,
        "auto_delete": False,
        "internal": internal,
        "arguments": arguments or {},
    }


def _queue(name: str, arguments: topology.Arguments) -> dict[str, Any]:
    return {"name": name, "vhost": VHOST, "durable": True, "auto_delete": False, "arguments": arguments}


def _binding(source: str, destination: str, kind: str, key: str) -> dict[str, Any]:
    return {
        "source": source,
        "vhost": VHOST,
        "destination": destination,
        "destination_type": kind,
        "routing_key": key,
        "arguments": {},
    }


def _password(user: str, environment: Mapping[str, str]) -> str:
    variable = f"RABBITMQ_{user.upper()}_PASSWORD"
    if path := environment.get(f"{variable}_FILE"):
        return Path(path).read_text("utf-8").rstrip("\r\n")
    return environment.get(variable, "")


def _hash(password: str) -> str:
    """As RabbitMQ keeps it: four random bytes, then the SHA-256 of these and the password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


if __name__ == "__main__":
    json.dump(definitions(os.environ), sys.stdout, indent=2)
    print()
