"""Delays between attempts: exponential, with full jitter, so that replicas do not come back in step."""

import random
from collections.abc import Iterator


def delays(first: float, longest: float) -> Iterator[float]:
    """Seconds to wait before each next attempt: random in 0 … min(longest, first * 2**n)."""
    ceiling = first
    while True:
        yield random.uniform(0, ceiling)  # noqa: S311  (spreads load, guards nothing)
        ceiling = min(longest, ceiling * 2)
