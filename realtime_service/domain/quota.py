"""How many new devices a user may have in a day: each makes a durable queue, and inventing a name costs nothing."""

from collections import deque
from typing import Final

from contracts.ids import UserId

DAY_SECONDS: Final = 24 * 60 * 60
REMEMBERED_USERS: Final = 100_000


class DeviceQuota:
    """Counts new devices of each user on this replica; seconds are of any one clock."""

    def __init__(self, per_day: int) -> None:
        self._per_day = per_day
        self._made: dict[UserId, deque[float]] = {}

    def take(self, user: UserId, now: float) -> bool:
        """Note a new device. False: the user had too many of late, and this one is not to be made."""
        made = self._made.pop(user, None) or deque()
        while made and made[0] <= now - DAY_SECONDS:
            made.popleft()
        allowed = len(made) < self._per_day
        if allowed:
            made.append(now)
        self._made[user] = made
        if len(self._made) > REMEMBERED_USERS:
            del self._made[next(iter(self._made))]
        return allowed
