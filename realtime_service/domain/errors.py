"""Every error of this service, and what each of them means for the connection it happens on.

    RealtimeError
    ├── Refused                 one frame or request is answered with an error; the connection lives
    ├── Disconnect              the connection ends, with a close code that carries the advice
    ├── NotAuthenticated        no identity: the token proves nothing
    │   └── TokenExpired        it proved one once: come back with a new token
    ├── NotAllowed              an identity without the right to this; nothing is said about what exists
    ├── Unavailable             not the caller's fault: come back later
    │   ├── DatabaseUnavailable
    │   ├── BrokerUnavailable
    │   └── KeysUnavailable     the identity provider's public keys were never fetched
    ├── PublishError            the broker did not confirm an event, or no queue was there to take it
    ├── EventInvalid            an event that breaks the contract; it is parked
    ├── SettingsError           the service cannot start with these settings
    └── TopologyWrong           it cannot start with this set-up of RabbitMQ

Law: no message quotes a token, a secret, a claim or the text of an outside error: they end in logs and in front of
strangers. Outside errors are translated where they occur, with `raise … from`.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from realtime_service.domain.finding import Finding

PUBLIC_REFUSAL: Final = "not authenticated or not allowed"
"""The one text for everybody who may not: which of the two it is would tell a stranger what exists."""


class TokenFault(StrEnum):
    """Why a token was not believed: for metrics and operators, never for the caller."""

    EXPIRED = "expired"
    SIGNATURE = "signature"
    MALFORMED = "malformed"
    AUDIENCE = "audience"
    ISSUER = "issuer"
    ALGORITHM = "algorithm"
    CLAIMS = "claims"
    MISSING = "missing"


class RealtimeError(Exception):
    """The root: `except RealtimeError` catches what this service says, and no bug."""


class Refused(RealtimeError):
    """One frame or request is answered with an error; the connection lives."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        """A stable word for programs, such as `bad_frame`."""
        self.message = message
        """A sentence for people."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Disconnect(RealtimeError):
    """The connection ends."""

    def __init__(self, close_code: int, reason: str, cause: str = "") -> None:
        super().__init__(close_code, reason)
        self.cause = cause
        """For operators, where the code has several: one of few words."""
        self.close_code = close_code
        """One of `contracts.close_codes.CloseCode`; the number carries the advice."""
        self.reason = reason
        """At most 123 bytes of UTF-8 (RFC 6455 §5.5)."""

    def __str__(self) -> str:
        return f"{self.close_code} {self.reason}"


class NotAuthenticated(RealtimeError):
    """The token proves no identity. Its public text is always the same."""

    def __init__(self, cause_code: TokenFault) -> None:
        super().__init__(cause_code)
        self.cause_code = cause_code

    def __str__(self) -> str:
        return PUBLIC_REFUSAL


class TokenExpired(NotAuthenticated):
    """The token was good until its `exp`: its bearer may come back with a new one."""

    def __init__(self, cause_code: TokenFault = TokenFault.EXPIRED) -> None:
        super().__init__(cause_code)


class NotAllowed(RealtimeError):
    """Somebody known asks for what is not theirs, or does not exist: from outside, the same."""

    def __str__(self) -> str:
        return PUBLIC_REFUSAL


class Unavailable(RealtimeError):
    """Something this service needs is away; the caller did nothing wrong and may come back later."""


class DatabaseUnavailable(Unavailable):
    """The database refused, failed or did not answer in time."""


class BrokerUnavailable(Unavailable):
    """RabbitMQ is not connected."""


class KeysUnavailable(Unavailable):
    """The identity provider's public keys were never fetched, so nobody can be believed or disbelieved."""


class PublishError(RealtimeError):
    """The event was not accepted: it may be published again, under the same event id."""


class EventInvalid(RealtimeError):
    """An event breaks the contract."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """Ends in the header `x-park-reason`; names the rule, not the data."""


class SettingsError(RealtimeError):
    """The service cannot start; one line a problem, each beginning with the variable's name."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class TopologyWrong(RealtimeError):
    """RabbitMQ is set up in a way in which events would be lost, and which waiting does not repair."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(*findings)
        self.findings = findings
        """Those that are merely odd, too."""

    def __str__(self) -> str:
        return "\n".join(["RabbitMQ is not set up as the service needs it:", *map(str, self.findings)])
