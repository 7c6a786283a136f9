"""Why the server ends a WebSocket connection, and what the client should do about it.

The number carries the advice (RFC 6455 §7.4; 1012 and 1013 from the IANA WebSocket close code registry;
4000–4999 are private use, RFC 6455 §7.4.2). The reason texts are fixed: a stranger learns nothing from them.
"""

from enum import IntEnum, StrEnum
from typing import Final


class Advice(StrEnum):
    """What a client does next."""

    STAY_AWAY = "do not come back by yourself"
    RENEW_TOKEN = "come back with a new token"  # noqa: S105  (advice, not a secret)
    COME_BACK = "come back at once"
    BACK_OFF = "come back with a growing, random delay"


class CloseCode(IntEnum):
    """Close codes this service sends."""

    NORMAL = 1000
    NOT_ALLOWED = 1008
    FRAME_TOO_LARGE = 1009
    RESTARTING = 1012
    TRY_LATER = 1013
    TOKEN_EXPIRED = 4401
    NO_RECEIPT = 4408
    REPLACED = 4409
    TOO_MANY_FRAMES = 4429


REASONS: Final[dict[CloseCode, str]] = {
    CloseCode.NORMAL: "",
    CloseCode.NOT_ALLOWED: "not authenticated or not allowed",
    CloseCode.FRAME_TOO_LARGE: "frame too large",
    CloseCode.RESTARTING: "this replica restarts",
    CloseCode.TRY_LATER: "not now",
    CloseCode.TOKEN_EXPIRED: "token expired",
    CloseCode.NO_RECEIPT: "no receipt in time",
    CloseCode.REPLACED: "replaced by a newer connection of this device",
    CloseCode.TOO_MANY_FRAMES: "too many frames",
}
"""The reason text of each code, at most 123 bytes (RFC 6455 §5.5)."""

MEANINGS: Final[dict[CloseCode, str]] = {
    CloseCode.NORMAL: "the client ended the connection, and this is the server's answer",
    CloseCode.NOT_ALLOWED: "no valid token, not the owner, no such diagnosis, no valid id: one text for all",
    CloseCode.FRAME_TOO_LARGE: "a frame over 4 KiB (an `auth` frame: over 16 KiB)",
    CloseCode.RESTARTING: "a deploy or restart of one replica; another one serves already",
    CloseCode.TRY_LATER: "the client reads too slowly, or the broker or the database is away",
    CloseCode.TOKEN_EXPIRED: "the token's `exp` has passed and no `auth` frame renewed it",
    CloseCode.NO_RECEIPT: "no PONG or `ack` proved what was sent: the connection is presumed dead",
    CloseCode.REPLACED: "the same device connected again; two tabs that both came back would fight for ever",
    CloseCode.TOO_MANY_FRAMES: "more frames than a client has use for (proving frames do not count)",
}
"""What happened, for the documents: it is not sent."""

ADVICE: Final[dict[CloseCode, Advice]] = {
    CloseCode.NORMAL: Advice.COME_BACK,
    CloseCode.NOT_ALLOWED: Advice.STAY_AWAY,
    CloseCode.FRAME_TOO_LARGE: Advice.STAY_AWAY,
    CloseCode.RESTARTING: Advice.COME_BACK,
    CloseCode.TRY_LATER: Advice.BACK_OFF,
    CloseCode.TOKEN_EXPIRED: Advice.RENEW_TOKEN,
    CloseCode.NO_RECEIPT: Advice.COME_BACK,
    CloseCode.REPLACED: Advice.STAY_AWAY,
    CloseCode.TOO_MANY_FRAMES: Advice.BACK_OFF,
}
