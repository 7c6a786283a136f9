"""A replica whose first rule is broken on purpose: bytes written to a socket count as received.

The checker has to find that out, or it proves nothing about the replica that keeps the rule.
"""

import asyncio

from realtime_service import logs, service
from realtime_service.domain.room import Send
from realtime_service.hub import Hub, _Place
from realtime_service.settings import load_settings


class TrustingHub(Hub):
    """Takes everything it wrote as received."""

    def _send(self, place: _Place, send: Send) -> None:
        super()._send(place, send)
        for member in send.members:
            self.perform(place, place.room._proven(member, [send.event.id]))


if __name__ == "__main__":
    service.Hub = TrustingHub  # type: ignore[attr-defined]  # the composition root makes this one instead
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(service.serve(settings))
