"""web.turnstile: how many go in a turn of the loop, in which order, and who gives up."""

import asyncio

from realtime_service.web.turnstile import AT_ONCE, Turnstile

MANY = 4 * AT_ONCE


async def test_a_crowd_goes_a_few_in_each_turn_in_its_order() -> None:
    turnstile, gone = Turnstile(), list[int]()

    async def go(number: int) -> None:
        await turnstile.pass_through()
        gone.append(number)

    going = [asyncio.create_task(go(number)) for number in range(MANY)]
    turns = []
    while len(gone) < MANY:
        before = len(gone)
        await asyncio.sleep(0)
        turns.append(len(gone) - before)
    assert 0 < max(turns) <= AT_ONCE
    assert gone == list(range(MANY))
    await asyncio.gather(*going)


async def test_one_alone_goes_at_once_also_after_a_crowd() -> None:
    turnstile = Turnstile()
    await asyncio.gather(*(turnstile.pass_through() for _ in range(MANY)))
    await asyncio.sleep(0)
    alone = turnstile.pass_through()
    try:
        alone.send(None)
    except StopIteration:
        return
    raise AssertionError("it had to wait")


async def test_who_gives_up_holds_nobody_up() -> None:
    turnstile = Turnstile()
    going = [asyncio.create_task(turnstile.pass_through()) for _ in range(MANY)]
    await asyncio.sleep(0)
    for task in going[1:-1]:
        task.cancel()
    async with asyncio.timeout(20):
        await going[-1]
