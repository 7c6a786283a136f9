"""Whatever the broker takes for AMQP: events arrive or are parked, once, and nobody else notices."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from contracts import topology
from tests.fuzz.messages import DIAGNOSIS, NODE, UNIQUE, WATCHED, Sent, events, requests, words
from tests.fuzz.properties import nested, table, text
from tests.fuzz.subject import TIMEOUT, Subject, a_number, examples
from tests.service.harness.waiting import until_true

pytestmark = pytest.mark.timeout(TIMEOUT)

NOTHING = b"{}"


@given(batch=st.lists(events(), min_size=3, max_size=12))
@example(batch=[Sent(NOTHING, key=b"diagnosis.\xff"), Sent(NOTHING, key=b"\xff\0")])
@example(batch=[Sent(NOTHING, properties={"headers": table({b"large": text(b"y" * 130_950)})})])
@example(batch=[Sent(NOTHING, key=b"wrong", properties={"headers": table({b"large": text(b"y" * 130_950)})})])
@example(batch=[Sent(NOTHING, properties={"headers": table({b"deep": nested(5_000, tables=False)})})])
@example(batch=[Sent(NOTHING, properties={"timestamp": 2**64 - 1, "app_id": b"\xff"})])
@examples(40)
async def test_an_event_arrives_or_is_parked_once(subject: Subject, batch: list[Sent]) -> None:
    async with subject.unharmed():
        before = len(subject.frames)
        published = [body for sent in batch if (body := await publish(subject, sent)) is not None]
        await assert_accounted_for(subject, Counter(published), before)


@given(batch=st.lists(words(), min_size=1, max_size=8))
@example(
    batch=[Sent(b"", b"", NODE, {"type": kind}) for kind in (b"relay", b"provisioned", b"census", b"news")]
)
@examples(40)
async def test_what_other_programs_say_to_replicas_harms_nobody(subject: Subject, batch: list[Sent]) -> None:
    async with subject.unharmed():
        for sent in batch:
            await publish(subject, sent)


@given(batch=st.lists(requests(), min_size=1, max_size=8))
@example(batch=[Sent(str(DIAGNOSIS).encode(), b"", b"diagnosis.unrouted", {
    "type": b"provision", "headers": table({b"x-reply-to": text(b"x" * 300)}),
})])  # fmt: skip
@examples(20)
async def test_requests_to_provision_are_done_or_parked(subject: Subject, batch: list[Sent]) -> None:
    async with subject.unharmed():
        for sent in batch:
            await publish(subject, sent)
    while await (await subject.judge()).get(topology.PARKED) is not None:
        pass


async def publish(subject: Subject, sent: Sent) -> bytes | None:
    """Publish it. Returns the body, or None where the broker did not take it."""
    diagnosis = str(subject.diagnosis).encode()
    key = {WATCHED: b"diagnosis." + diagnosis, NODE: subject.node.encode()}.get(sent.key, sent.key)
    body = sent.body.replace(str(DIAGNOSIS).encode(), diagnosis)
    written = sent.written.replace(UNIQUE, f"{a_number():08}".encode())
    taken = await subject.publish(sent.exchange, key, written, body)
    event("the broker takes it" if taken else "the broker refuses it")
    return body if taken else None


async def assert_accounted_for(subject: Subject, published: Counter[bytes], before: int) -> None:
    """Each of these was parked, or sent to the bystander, and none twice."""
    parked: Counter[bytes] = Counter()

    async def all_there() -> bool:
        judge = await subject.judge()
        while (message := await judge.get(topology.PARKED)) is not None:
            parked[message.body] += 1
        return parked.total() + arrived() >= published.total()

    def arrived() -> int:
        return sum(is_event(frame) for frame in subject.frames[before:])

    await until_true(all_there, f"{published.total()} are parked or arrive")
    event(f"events that arrive: {arrived()}")
    assert parked <= published
    assert parked.total() + arrived() == published.total()


def is_event(frame: Any) -> bool:
    return isinstance(frame, dict) and str(frame.get("type")).endswith("_update")
