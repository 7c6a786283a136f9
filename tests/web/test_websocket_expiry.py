"""A connection ends with its token, and lives on with a newer one that is sent in time."""

import time
from typing import Any

from contracts.close_codes import REASONS, CloseCode
from tests.web.clients import Client
from tests.web.replica import STRANGER, Replica, Visitors, token

EXPIRED = (4401, REASONS[CloseCode.TOKEN_EXPIRED])
SOON = 2
"""Seconds; `exp` counts in whole ones."""


def renewal(of: str) -> dict[str, Any]:
    return {"type": "auth", "token": of}


async def short_lived(replica: Replica, visitors: Visitors, diagnosis: int) -> Client:
    client = await visitors.open(replica.url(diagnosis, token=token(seconds=SOON)))
    await client.welcome()
    return client


async def test_a_connection_ends_with_its_token(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    started = time.monotonic()
    client = await short_lived(replica, visitors, diagnosis)
    await replica.feedback(diagnosis, 1)
    assert await client.numbers(1) == [1]
    await replica.settled(diagnosis)
    assert await client.closed() == EXPIRED
    assert time.monotonic() - started < SOON + 2
    await replica.feedback(diagnosis, 2)
    later = await visitors.welcomed(diagnosis)
    assert await later.numbers(1) == [2], "what was proved before is not sent again"


async def test_a_newer_token_in_time_keeps_the_connection(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    renewed = await short_lived(replica, visitors, diagnosis)
    forgetful = await short_lived(replica, visitors, diagnosis)
    await renewed.send(renewal(token()))
    assert await forgetful.closed() == EXPIRED
    await replica.feedback(diagnosis, 1)
    assert await renewed.numbers(1) == [1], "and the renewal itself was not answered"


async def test_an_older_token_does_not_shorten_the_connection(replica: Replica, visitors: Visitors) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis)
    await client.send(renewal(token(seconds=SOON)))
    short = await short_lived(replica, visitors, diagnosis)
    assert await short.closed() == EXPIRED
    await client.ping()


async def test_a_bad_renewal_is_answered_and_changes_nothing(replica: Replica, visitors: Visitors) -> None:
    client = await short_lived(replica, visitors, replica.diagnoses.add())
    for bad in ("garbage", "", token(STRANGER), token(seconds=-60)):
        await client.send(renewal(bad))
        error = await client.frame()
        assert error["type"] == "error"
        assert error["data"]["code"] == "token_refused"
    await client.ping()
    assert await client.closed() == EXPIRED


async def test_a_renewal_goes_by_the_user_and_not_by_the_diagnosis(
    replica: Replica, visitors: Visitors
) -> None:
    """The owner of a diagnosis does not change while somebody watches it."""
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis, client_id="phone")
    await client.send(renewal(token(seconds=7200, device_id="another")))
    await client.ping()
    await replica.feedback(diagnosis, 1)
    assert await client.numbers(1) == [1]
