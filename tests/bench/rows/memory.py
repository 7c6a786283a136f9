"""Memory: what an idle, authenticated client adds to the resident memory of the one process that serves it."""

from collections.abc import Sequence
from typing import Final

from tests.bench.broker import delete_queues, make_queues
from tests.bench.crowd import Protocol, crowd
from tests.bench.measuring import Bench, Cost, Result, Target
from tests.bench.peers.nchan import nchan
from tests.bench.peers.scratch import replaced
from tests.bench.peers.this_service import targets, this_service
from tests.bench.processes import Missing, resident_bytes

DIAGNOSES: Final = 10_000
ROOM: Final = 1000
APART: Final = "KiB per client, a diagnosis each"
TOGETHER: Final = "KiB per client, one diagnosis"
TARGETS: Final = (Target(APART, None, 20, at_least=False), Target(TOGETHER, None, 15, at_least=False))


async def memory(bench: Bench) -> Result:
    """Idle clients, each on a diagnosis of its own, and all on one."""
    clients, room = bench.size.crowd(DIAGNOSES), bench.size.crowd(ROOM)
    found = Result("memory", f"{clients:,} idle clients; {room:,} in one room", targets=TARGETS)
    found.figures["this service"] = {
        APART: await _ours(bench, range(1, clients + 1)),
        TOGETHER: await _ours(bench, [1] * room),
    }
    protocols: dict[str, Protocol] = {"nchan": "plain", "replaced module": "welcome"}
    for name, peer in (("nchan", nchan), ("replaced module", replaced)):
        try:
            with peer() as server:
                paths = [f"/ws/{number}" for number in range(1, clients + 1)]
                found.figures[name] = {
                    APART: await _per_client(server.port, server.pid, paths, protocols[name])
                }
        except Missing as missing:
            found.missing.append(str(missing))
    return found


async def _ours(bench: Bench, diagnoses: Sequence[int]) -> float:
    url, every = bench.node.amqp_url, sorted(set(diagnoses))
    with this_service(url, max(every)) as ours:
        await make_queues(url, every)
        kib = await _per_client(ours.port, ours.pid, targets(diagnoses), "welcome")
    await delete_queues(url, every)
    return kib


async def _per_client(port: int, pid: int, paths: Sequence[str], protocol: Protocol) -> float:
    await Cost(pid).until_quiet()
    before = resident_bytes(pid)
    async with crowd(port, paths, protocol) as them:
        await them.connected()
        await Cost(pid).until_quiet()
        return (resident_bytes(pid) - before) / len(paths) / 1024
