"""What `GET /ws/status` of a replica says."""

from collections.abc import Callable
from typing import Any

import aiohttp

from realtime_service.adapters.tokens import sign_token
from tests.service.harness.replica import Replica
from tests.service.harness.waiting import until_true
from tests.service.harness.world import SECRET


async def status(replica: Replica) -> Any:
    """The report, as an operator gets it."""
    token = sign_token(SECRET, 1, expires_in_seconds=60, scopes=["operator"])
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.get(f"http://{replica.address}/ws/status") as answer,
    ):
        assert answer.status == 200
        return await answer.json()


async def reports(replica: Replica, wanted: Callable[[Any], object], what: str) -> None:
    """Wait until its report is like this."""

    async def is_wanted() -> bool:
        return bool(wanted(await status(replica)))

    await until_true(is_wanted, what)
