"""Token buckets: so many at once, so many a second for long. They refuse, and never make anybody wait."""

import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

Caller = TypeVar("Caller", bound=Hashable)

MAX_CALLERS: Final = 10_000
"""Callers remembered, some 200 bytes each. One that is forgotten starts with a full bucket."""


class TokenBucket:
    """Holds up to `burst` tokens, gains `per_second`, is full at first. Times: seconds of any one clock."""

    __slots__ = ("_burst", "_per_second", "_tokens", "_updated")

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._updated = now

    def take(self, now: float) -> float:
        """Take a token: 0. Or take none, and say after how many seconds there will be one."""
        wait = self.wait(now)
        if not wait:
            self._tokens -= 1
        return wait

    def wait(self, now: float) -> float:
        """After how many seconds there will be a token; 0: there is one."""
        gained = max(0.0, now - self._updated) * self._per_second
        self._tokens = min(self._burst, self._tokens + gained)
        self._updated = max(self._updated, now)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._per_second


class CallerLimits(Generic[Caller]):
    """A bucket for each caller. When there are too many, the caller not seen for longest is forgotten."""

    def __init__(
        self,
        per_second: float,
        burst: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._max_callers = max_callers
        self._buckets: dict[Caller, TokenBucket] = {}  # least recently seen first

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: Caller) -> float:
        """See `TokenBucket.take`."""
        now = self._clock()
        bucket = self._buckets.pop(caller, None) or TokenBucket(self._per_second, self._burst, now)
        self._buckets[caller] = bucket
        if len(self._buckets) > self._max_callers:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now)

    def wait(self, caller: Caller) -> float:
        """See `TokenBucket.wait`."""
        bucket = self._buckets.get(caller)
        return bucket.wait(self._clock()) if bucket else 0.0
