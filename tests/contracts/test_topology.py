"""contracts.topology: names and arguments. The literals stand here again: a changed constant is caught."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import topology
from contracts.events import EventType
from contracts.ids import MAX_ID, ClientId, DiagnosisId, UserId

diagnoses = st.integers(1, MAX_ID).map(DiagnosisId)
keys = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)


def test_tasks_publish_to_one_exchange_for_each_kind_of_event() -> None:
    assert topology.EXCHANGES == {
        EventType.RECOMMENDATION: "diagnosis.recommendation",
        EventType.EFFECTIVENESS: "diagnosis.effectiveness",
        EventType.FEEDBACK: "diagnosis.feedback",
    }


def test_the_exchange_says_the_kind() -> None:
    assert topology.EVENT_TYPES == {
        "diagnosis.recommendation": EventType.RECOMMENDATION,
        "diagnosis.effectiveness": EventType.EFFECTIVENESS,
        "diagnosis.feedback": EventType.FEEDBACK,
    }


def test_the_inner_places_have_the_names_of_the_contract() -> None:
    assert (topology.EVENTS, topology.DEVICES) == ("diagnosis.events", "diagnosis.devices")
    assert (topology.UNROUTED, topology.PARKED) == ("diagnosis.unrouted", "diagnosis.parked")
    assert topology.NODES == "realtime.nodes"
    assert topology.ANY_DIAGNOSIS == "diagnosis.*"


def test_queues_and_keys_have_the_names_of_the_contract() -> None:
    assert topology.routing_key(DiagnosisId(123)) == "diagnosis.123"
    assert topology.shared_queue(DiagnosisId(123)) == "diagnosis.123"
    assert topology.device_queue(DiagnosisId(123), "ab12") == "diagnosis.123.device.ab12"
    assert topology.node_queue("7f3a2b9c") == "realtime.node.7f3a2b9c"


def test_a_wrong_routing_key_ends_in_the_alternate_exchange() -> None:
    assert topology.OUTER_ARGUMENTS == {"alternate-exchange": "diagnosis.unrouted"}
    assert topology.EVENTS_ARGUMENTS == {"alternate-exchange": "diagnosis.unrouted"}


def test_a_shared_backlog_keeps_the_newest_100_events_for_30_days() -> None:
    assert topology.backlog_arguments() == {
        "x-single-active-consumer": True,
        "x-max-length": 100,
        "x-overflow": "drop-head",
        "x-message-ttl": 2_592_000_000,
        "x-dead-letter-exchange": "realtime.nodes",
    }


def test_a_device_backlog_expires_when_unused_for_30_days() -> None:
    assert topology.device_arguments() == topology.backlog_arguments() | {"x-expires": 2_592_000_000}


def test_a_quorum_backlog_may_be_returned_a_million_times() -> None:
    quorum = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
    assert topology.backlog_arguments(queue_type="quorum") == topology.backlog_arguments() | quorum
    assert topology.device_arguments(queue_type="quorum") == topology.device_arguments() | quorum


def test_the_length_of_a_backlog_can_be_set() -> None:
    assert topology.backlog_arguments(limit=7)["x-max-length"] == 7
    assert topology.device_arguments(limit=7)["x-max-length"] == 7


def test_first_contact_parking_and_node_queues_are_bounded() -> None:
    assert topology.UNROUTED_ARGUMENTS == {"x-single-active-consumer": True, "x-max-length": 100_000}
    assert topology.PARKED_ARGUMENTS == {"x-max-length": 10_000, "x-message-ttl": 1_209_600_000}
    assert topology.NODE_ARGUMENTS == {"x-expires": 60_000, "x-max-length": 10_000}


def test_the_headers_that_other_programs_set_or_read_have_the_names_of_the_contract() -> None:
    """Others are between replicas, and free to change."""
    assert {header.value for header in topology.Header} >= {
        "x-origin-exchange",
        "x-origin-routing-key",
        "x-park-reason",
        "timestamp_in_ms",
        "user_id",
        "exclude_connection_id",
        "traceparent",
        "x-death",
    }


@given(diagnoses)
def test_a_routing_key_is_read_as_the_diagnosis_it_was_made_of(diagnosis: DiagnosisId) -> None:
    assert topology.parse_routing_key(topology.routing_key(diagnosis)) == diagnosis


@pytest.mark.parametrize(
    "key",
    ["", "123", "diagnosis", "diagnosis.", "diagnosis.0", "diagnosis.1.2", "diagnosis.x", "Diagnosis.1",
     "diagnosis.1\n", "diagnosis.01", "diagnosis.9223372036854775808", ".1", "#", "diagnosis.*"],
)  # fmt: skip
def test_other_routing_keys_name_no_diagnosis(key: str) -> None:
    assert topology.parse_routing_key(key) is None


@given(diagnoses)
def test_a_shared_queue_is_read_as_its_diagnosis(diagnosis: DiagnosisId) -> None:
    assert topology.parse_queue(topology.shared_queue(diagnosis)) == (diagnosis, None)


@given(diagnoses, keys)
def test_a_device_queue_is_read_as_its_diagnosis_and_device(diagnosis: DiagnosisId, key: str) -> None:
    assert topology.parse_queue(topology.device_queue(diagnosis, key)) == (diagnosis, key)


@given(st.text() | st.from_regex(r"diagnosis\.[0-9]{1,3}(\.device\.[a-f]{0,4})?"))
def test_a_queue_that_is_read_has_the_name_it_was_read_from(name: str) -> None:
    found = topology.parse_queue(name)
    if found is not None:
        diagnosis, key = found
        again = topology.shared_queue(diagnosis) if key is None else topology.device_queue(diagnosis, key)
        assert again == name


@pytest.mark.parametrize(
    "name",
    ["diagnosis.unrouted", "diagnosis.parked", "diagnosis.1.device.", "diagnosis.1.other", "realtime.node.1"],
)
def test_other_queues_belong_to_no_diagnosis(name: str) -> None:
    assert topology.parse_queue(name) is None


def test_a_device_key_never_changes() -> None:
    """It is part of the name of queues that exist."""
    assert topology.device_key(UserId(100), ClientId("phone-1")) == "df064eacb44fab6653ca0dbf8ae124c0"


@given(st.integers(1, MAX_ID), st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True))
def test_a_device_key_is_32_hexadecimal_digits_whatever_the_device_calls_itself(
    user: int, client: str
) -> None:
    key = topology.device_key(UserId(user), ClientId(client))
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")


def test_two_users_with_a_device_of_one_name_have_two_queues() -> None:
    assert topology.device_key(UserId(1), ClientId("11")) != topology.device_key(UserId(11), ClientId("1"))
    assert topology.device_key(UserId(1), ClientId("a")) != topology.device_key(UserId(2), ClientId("a"))


@given(diagnoses, keys)
def test_the_longest_queue_name_fits_an_amqp_short_string(diagnosis: DiagnosisId, key: str) -> None:
    assert len(topology.device_queue(diagnosis, key).encode()) <= 255
