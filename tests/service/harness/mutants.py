"""Replicas with one rule broken on purpose: `python mutants.py RULE` serves like `realtime-service serve`, but for it.

The checker has to find each of them out, or it proves nothing about the replica that keeps the rules. Where a fault
needs something to happen within a moment, the mutant makes that moment long.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from contracts.ids import EventId
from realtime_service import cli
from realtime_service.adapters.rabbitmq.amqp.channel import Delivery
from realtime_service.adapters.rabbitmq.link import RPC_TIMEOUT_SECONDS
from realtime_service.adapters.rabbitmq.new_queue import NewQueue, Waiting
from realtime_service.adapters.rabbitmq.session import QueueSession
from realtime_service.domain import room as decided
from realtime_service.domain.receipts import Receipts
from realtime_service.domain.relays import RelayStream, Stamp, Verdict
from realtime_service.domain.room import Send
from realtime_service.domain.window import Record, SessionWindow
from realtime_service.hub import Hub, _Place
from realtime_service.neighbours import Neighbours, Place

MOMENT_SECONDS: Final = 2.0
"""How long a moment lasts in which the service is wrong."""


def _replace(owner: type, method: str, broken: Callable[..., object]) -> None:
    assert hasattr(owner, method), f"{owner.__name__}.{method} is gone: this mutant breaks nothing"
    setattr(owner, method, broken)


def acknowledge_on_write() -> None:
    """Bytes written to a socket count as received."""
    send = Hub._send

    def send_and_believe(hub: Hub, place: _Place, effect: Send) -> None:
        send(hub, place, effect)
        for member in effect.members:
            hub.perform(place, place.room._proven(member, [effect.event.id]))

    _replace(Hub, "_send", send_and_believe)


def release_by_cancel() -> None:
    """`basic.cancel` first: the next consumer is activated while this one still has what came before."""
    close_channel, consume = QueueSession._close_channel, QueueSession._on_message

    newest: dict[QueueSession, Delivery] = {}

    def remember(session: QueueSession, message: Delivery) -> None:
        newest[session] = message
        consume(session, message)

    async def cancel_and_close(session: QueueSession) -> None:
        channel, message = session._channel, newest.pop(session, None)
        if message and channel is message.channel and session._settled < message.delivery_tag:
            await channel.basic_cancel(timeout=RPC_TIMEOUT_SECONDS)
            await asyncio.sleep(MOMENT_SECONDS)
        await close_channel(session)

    _replace(QueueSession, "_on_message", remember)
    _replace(QueueSession, "_close_channel", cancel_and_close)


def hand_out_repetitions() -> None:
    """An event that was delivered again is handed out again, also to who has it."""

    def known(window: SessionWindow, record: Record) -> Record | None:
        return record if record.event is None else None

    def contains(receipts: Receipts, event: EventId) -> bool:
        return False

    _replace(SessionWindow, "_known", known)
    _replace(Receipts, "__contains__", contains)


def settle_before_the_relay() -> None:
    """What a client here proved is settled, whether the other replicas can know of it or not."""
    relay = Neighbours.relay

    def relay_and_believe(neighbours: Neighbours, place: Place, effect: decided.Relay) -> None:
        relay(neighbours, place, effect)
        place.perform(place.room.relay_confirmed(effect.event.id))

    _replace(Neighbours, "relay", relay_and_believe)


def follow_ghosts() -> None:
    """A relay of an old epoch is taken like any other."""
    follow = RelayStream.follow

    def follow_anybody(stream: RelayStream, stamp: Stamp) -> Verdict:
        verdict = follow(stream, stamp)
        return Verdict.NEXT if verdict is Verdict.OLD else verdict

    _replace(RelayStream, "follow", follow_anybody)


def bind_before_forwarding() -> None:
    """A new queue is bound while what came before is still at the door."""
    declare, put = NewQueue.declare, NewQueue.put

    async def declare_and_bind(queue: NewQueue) -> None:
        await declare(queue)
        await queue.bind()

    async def put_later(queue: NewQueue, waiting: Waiting, settle: Callable[[Delivery], None]) -> int:
        if waiting:
            await asyncio.sleep(MOMENT_SECONDS)
        return await put(queue, waiting, settle)

    _replace(NewQueue, "declare", declare_and_bind)
    _replace(NewQueue, "put", put_later)


MUTATIONS: Final[Mapping[str, Callable[[], None]]] = {
    "acknowledges on write": acknowledge_on_write,
    "releases by basic.cancel": release_by_cancel,
    "hands out repetitions": hand_out_repetitions,
    "settles before the relay is confirmed": settle_before_the_relay,
    "accepts an old epoch": follow_ghosts,
    "binds before it forwards": bind_before_forwarding,
}


def program(mutation: str) -> list[str]:
    """The command line of a replica that breaks a rule."""
    return [sys.executable, str(Path(__file__)), mutation]


if __name__ == "__main__":
    MUTATIONS[sys.argv[1]]()
    sys.exit(cli.main(["serve"]))
