"""What a replica's log says of a run with faults: one event a line, and no token, payload, user or diagnosis."""

import json
import re
from urllib.parse import parse_qs, urlsplit

from tests.service.harness.checker import Audience
from tests.service.harness.waiting import until
from tests.service.harness.world import SECRET, World, verdict

MARK = "do-not-tell"


async def test_no_line_of_a_run_with_faults_tells_a_secret(world: World) -> None:
    replica = await world.start_replica(log_level="debug")
    diagnosis = world.diagnosis()
    recorder = await world.recorder()
    url = world.url(diagnosis, address=replica.address)
    stays = world.local_client("stays")
    await stays.connect(url)
    dies = await world.client("dies", url)
    await until(lambda: stays.is_welcome and dies.is_welcome, "both are welcome")
    await recorder.publish_raw(
        "diagnosis.feedback", f"diagnosis.{diagnosis}", f'{{"feedback_id":"{MARK}"}}'.encode()
    )
    await recorder.publish(diagnosis, 50)
    await dies.kill()
    await until(lambda: replica.said("event_parked"), "the bad event is parked")
    world.delete(f"diagnosis.{diagnosis}")
    await until(lambda: replica.said("queue_lost"), "the deleted queue is noticed")
    assert not (await verdict(recorder, diagnosis, [Audience("who stayed", [stays])])).repeated

    assert not replica.complaints
    (token,) = parse_qs(urlsplit(url).query)["token"]
    for line in replica.logs:
        said = json.dumps(line)
        assert not [secret for secret in (token, token.split(".")[2], SECRET, MARK) if secret in said], said
        assert not re.search(rf"(?<![\w.:]){diagnosis}(?![\w.])", said), said
    (parked,) = replica.said("event_parked")
    assert parked.keys() >= {"event_id", "diagnosis", "code", "reason"}
    assert all(line.keys() >= {"connection", "diagnosis"} for line in replica.said("connection_opened"))
