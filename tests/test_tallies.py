"""tallies: counted here, read like prometheus_client's own."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from realtime_service.tallies import Spread, Tallies, tally

BOUNDS = (0.001, 0.5, 1.0, 10.0)


def test_what_is_counted_is_read_from_the_registry() -> None:
    registry = CollectorRegistry()
    plain = tally("plain", "Without labels", registry)
    by_kind = Tallies("by_kind", "With labels", ["kind", "stage"], registry)
    plain.inc()
    plain.inc(4)
    by_kind.labels("a", "sent").inc(2)
    by_kind.labels("b", "sent")
    assert registry.get_sample_value("plain_total") == 5
    assert registry.get_sample_value("by_kind_total", {"kind": "a", "stage": "sent"}) == 2
    assert registry.get_sample_value("by_kind_total", {"kind": "b", "stage": "sent"}) == 0
    assert by_kind.labels("a", "sent") is by_kind.labels("a", "sent")


def test_a_spread_says_what_a_histogram_of_the_library_says() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    spread = Spread("seconds", "How long", BOUNDS, ours)
    histogram = Histogram("seconds", "How long", buckets=BOUNDS, registry=theirs)
    for value in (0.0, 0.001, 0.0011, 0.5, 3.0, 10.0, 11.0):
        spread.observe(value)
        histogram.observe(value)

    def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
        text = generate_latest(registry).decode()
        return {
            (sample.name, sample.labels.get("le", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    assert samples(ours) == samples(theirs)
