"""The WebSocket half of the AsyncAPI document: one channel, which is the connection, and the frames on it."""

from typing import Final

from contracts.close_codes import ADVICE, MEANINGS, REASONS, CloseCode
from contracts.documents.examples import examples_of
from contracts.documents.shapes import SHAPES, Json
from contracts.documents.tables import close_code_table
from contracts.ids import CLIENT_ID_PATTERN
from contracts.messages import BEARER_SUBPROTOCOL, MAX_AUTH_FRAME_BYTES, MAX_FRAME_BYTES, SUBPROTOCOL

ADDRESS: Final = "/ws/{diagnosis_id}"
BINDING: Final = "0.1.0"

QUERY: Final[Json] = {
    "type": "object",
    "properties": {
        "token": {
            "type": "string",
            "description": "A JWT. It may come as `Authorization`, sub-protocol or first frame instead.",
        },
        "client_id": {
            "type": "string",
            "pattern": CLIENT_ID_PATTERN,
            "description": "Names this device: it gets a queue of its own, and with it all that it missed. "
            "The token's claim `device_id` does the same.",
        },
        "receipts": {
            "type": "string",
            "enum": ["pong", "ack"],
            "default": "pong",
            "description": "How arrival is proved: by the PONGs that every WebSocket library sends by "
            "itself, or by `ack` frames once the app has handled an event.",
        },
    },
}

HEADERS: Final[Json] = {
    "type": "object",
    "properties": {
        "Authorization": {
            "type": "string",
            "pattern": "^[Bb]earer .+$",
            "description": "`Bearer` and a JWT.",
        },
        "Sec-WebSocket-Protocol": {
            "type": "string",
            "description": f"`{SUBPROTOCOL}`, which is answered; beside it `{BEARER_SUBPROTOCOL}<jwt>` may "
            "carry the token, for browsers, which cannot set `Authorization`.",
        },
    },
}

_DESCRIPTION: Final = f"""\
The server sends `connect`, then what waits, in order, then events as they are published; `gap` where
something was or may have been dropped. Text frames of JSON; a client ignores types and
fields that it does not know.

A client need not send anything. Without a token in the handshake its first frame is `auth`, within 5 seconds.
A client's frame has at most {MAX_FRAME_BYTES // 1024} KiB,
an `auth` frame {MAX_AUTH_FRAME_BYTES // 1024} KiB.

The same `event_id` is never sent twice on one connection. It may come again on another one, where the service
knows of it with `"redelivered": true`: a client drops what it has seen.

### Close codes

{close_code_table()}"""

SECURITY: Final[dict[str, Json]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The claim `user_id`, or else `sub`, is the user id; `exp` is required.",
    },
    "query_token": {
        "type": "httpApiKey",
        "in": "query",
        "name": "token",
        "description": "The same JWT in the address, for clients that can do nothing else.",
    },
    "subprotocol_token": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": f"The same JWT as sub-protocol `{BEARER_SUBPROTOCOL}<jwt>`, beside `{SUBPROTOCOL}`.",
    },
}


def frames(side: str) -> list[str]:
    """The names of the frames that a side (`server`, `client`) sends."""
    return [name for name in SHAPES if name.startswith(f"{side}.")]


def messages() -> dict[str, Json]:
    """The frames by name."""
    return {name: _frame(name) for name in frames("server") + frames("client")}


def _frame(name: str) -> Json:
    schema = SHAPES[name].schema()
    return {
        "name": name.partition(".")[2],
        "title": schema["title"],
        "summary": schema["description"],
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [{"name": example, "payload": value} for example, value in examples_of(name).items()],
    }


def channel() -> Json:
    """The connection."""
    return {
        "address": ADDRESS,
        "title": "A client's connection",
        "description": _DESCRIPTION,
        "servers": [{"$ref": "#/servers/websocket"}],
        "parameters": {"diagnosis_id": {"$ref": "#/components/parameters/diagnosis_id"}},
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in frames("server") + frames("client")
        },
        "bindings": {"ws": {"method": "GET", "query": QUERY, "headers": HEADERS, "bindingVersion": BINDING}},
        "x-close-codes": [
            {
                "code": code.value,
                "name": code.name,
                "reason": REASONS[code],
                "meaning": MEANINGS[code],
                "advice": ADVICE[code].value,
            }
            for code in CloseCode
        ],
    }
