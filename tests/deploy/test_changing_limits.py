"""The runbook's *Changing limits without downtime*: its command, on a real broker, with the service on it."""

import json
import re
import shlex
from contextlib import closing

import pika

from contracts.ids import DiagnosisId
from contracts.topology import shared_queue
from tests.deploy.conftest import ROOT, SetUpBroker, write_definitions
from tests.service.harness.recorder import Recorder
from tests.service.harness.waiting import until
from tests.service.harness.world import World

RUNBOOK = (ROOT / "deploy/docs/runbook.md").read_text()
SHORTER = 30


def _command() -> list[str]:
    """The words behind `rabbitmqctl`."""
    (block,) = re.findall(r"```sh\nrabbitmqctl (.+?)```", RUNBOOK, re.DOTALL)
    return shlex.split(block.replace("\\\n", " "))


async def test_a_backlog_is_shortened_while_the_service_runs_and_clients_are_told(
    world: World, set_up_broker: SetUpBroker
) -> None:
    node, words = set_up_broker.node, _command()
    before = await world.start_replica()
    diagnosis = world.diagnosis()
    visitor = world.local_client("visitor")
    await visitor.connect(world.url(diagnosis, address=before.address))
    await until(lambda: visitor.is_welcome, "its queue is there")
    await visitor.leave()
    after = await world.start_replica(backlog_limit=SHORTER)
    assert await before.stop() == 0

    def waiting() -> int:
        with closing(pika.BlockingConnection(pika.URLParameters(set_up_broker.url("operator")))) as asking:
            declared = asking.channel().queue_declare(shared_queue(DiagnosisId(diagnosis)), passive=True)
            return int(declared.method.message_count)

    async with Recorder(set_up_broker.url("publisher")) as recorder:
        await recorder.publish(diagnosis, 2 * SHORTER)
    await until(lambda: waiting() == 2 * SHORTER, "all of them wait")
    node.ctl(*words)
    try:
        await until(lambda: waiting() == SHORTER, "the queue is shorter")
        client = world.local_client("client")
        await client.connect(world.url(diagnosis, address=after.address))
        await until(lambda: client.is_welcome, "it is welcome")
        welcome = client.connections[-1].welcome
        assert welcome
        assert welcome["gap"] is True
        await until(lambda: len(client.connections[-1].events) == SHORTER, "what is left arrives")
    finally:
        (as_deployed,) = (each for each in write_definitions()["policies"] if each["name"] == "backlogs")
        assert words[-2] == as_deployed["pattern"]
        node.ctl(*words[:-1], json.dumps(as_deployed["definition"]))
