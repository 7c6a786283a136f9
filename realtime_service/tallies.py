"""What is counted for every event: counters and a histogram that one thread counts.

prometheus_client takes a lock for each step, which costs more than much of what is counted. These are for the event
loop's thread alone; the registry reads them like its own.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Count."""
        self.value += amount


class Tallies(Collector):
    """A counter with labels: a tally for each combination that was asked for."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._tallies: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """The tally of these values."""
        return self._tallies.setdefault(values, Tally())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, tally in self._tallies.items():
            family.add_metric(values, tally.value)
        yield family


def tally(name: str, text: str, registry: CollectorRegistry) -> Tally:
    """A counter without labels."""
    return Tallies(name, text, (), registry).labels()


class Spread(Collector):
    """A histogram; `buckets` are upper bounds, the last one is infinity whether it is named or not."""

    def __init__(self, name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._text, self._bounds = name, text, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._text)
        below = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            below += count
            buckets.append((str(bound), below))
        family.add_metric((), buckets, self._sum)
        yield family
