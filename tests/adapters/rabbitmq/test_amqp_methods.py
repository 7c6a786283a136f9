"""adapters.rabbitmq.amqp.methods: byte by byte what pamqp writes."""

import string

from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Queue

from realtime_service.adapters.rabbitmq.amqp import methods

NUMBERS = st.integers(1, 2**16 - 1)
NAMES = st.text(string.ascii_letters + string.digits + "-_.:@#,/", max_size=127)
"""What pamqp lets through."""


def written(number: int, method: Frame) -> bytes:
    return frame.marshal(method, number)


@given(NUMBERS, st.integers(0, 2**16 - 1))
def test_a_channel_is_opened_and_bounded(number: int, count: int) -> None:
    assert methods.open_channel(number) == written(number, Channel.Open())
    assert methods.set_prefetch(number, count) == written(number, Basic.Qos(prefetch_count=count))


@given(NUMBERS, NAMES, NAMES)
def test_a_queue_is_looked_up_and_consumed(number: int, queue: str, tag: str) -> None:
    declare = Queue.Declare(queue=queue, passive=True, arguments={})
    consume = Basic.Consume(queue=queue, consumer_tag=tag, nowait=True)
    assert methods.look_up(number, queue) == written(number, declare)
    assert methods.consume_at_once(number, queue, tag) == written(number, consume)
