"""The publishers of `deploy/publishers`, run as their first lines say, against a service that runs."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from realtime_service.embedded.rabbitmq import Broker
from tests.service.harness.waiting import until
from tests.service.harness.world import World
from tests.support.servers import on_its_own

PUBLISHERS: Final = Path(__file__).parents[2] / "deploy" / "publishers"
ROOT: Final = Path(__file__).parents[2]
JARS: Final = [Path("/usr/share/java") / name for name in ("amqp-client.jar", "slf4j-api.jar")]
GO_LIBRARY: Final = Path("/usr/share/gocode/src/github.com/rabbitmq/amqp091-go")
AMQPLIB: Final = "amqplib@2"
NOBODY: Final = "amqp://guest:guest@127.0.0.1:9/"
"""Where no broker is."""
SECONDS: Final = 100.0

Way = tuple[Sequence[object], dict[str, str], Path]
"""Command, environment, folder."""


async def run(
    *command: object, env: Mapping[str, str], folder: Path = PUBLISHERS
) -> tuple[int | None, str, str]:
    """Run a program to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={**os.environ, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        printed, complaints = await process.communicate()
    return process.returncode, printed.decode().strip(), complaints.decode()


def debian(program: str, *packages: str, wanted: Path) -> None:
    """Have a tool-chain: the installed one, or Debian's; else the test is skipped, and says so."""
    if shutil.which(program) and wanted.exists():
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        pytest.skip(f"not tested here: there is no {program} with {wanted.name}")
    words = ("-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([apt, "update", "-qq"], check=False, env=env, capture_output=True)
    done = subprocess.run([apt, "install", *words, *packages], check=False, env=env, capture_output=True)
    if done.returncode != 0 or not wanted.exists():
        pytest.skip(f"not tested here: {', '.join(packages)} cannot be installed")


def node(folder: Path) -> Way:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("not tested here: there is no npm")
    shutil.copy(PUBLISHERS / "publish.mjs", folder)
    words = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), AMQPLIB]
    subprocess.run(words, check=True, timeout=SECONDS, stdout=sys.stderr)
    return ["node", "publish.mjs"], {}, folder


def java(folder: Path) -> Way:
    debian("javac", "librabbitmq-client-java", "libslf4j-java", "default-jdk-headless", wanted=JARS[0])
    return ["java", "-cp", os.pathsep.join(map(str, JARS)), "Publish.java"], {}, PUBLISHERS


def go(folder: Path) -> Way:
    debian("go", "golang-go", "golang-github-rabbitmq-amqp091-go-dev", wanted=GO_LIBRARY)
    env = {"GOPATH": "/usr/share/gocode", "GO111MODULE": "off", "GOCACHE": str(folder), "GOFLAGS": ""}
    program = folder / "publish"
    words = ["go", "build", "-o", str(program), str(PUBLISHERS / "publish.go")]
    subprocess.run(words, check=True, timeout=SECONDS, env={**os.environ, **env})
    return [program], {}, PUBLISHERS


@pytest.mark.timeout(400)  # tool-chains are installed
@pytest.mark.parametrize("language", [node, java, go])
async def test_what_a_publisher_sends_arrives_and_what_it_cannot_send_it_says(
    world: World, broker: Broker, tmp_path: Path, language: Callable[[Path], Way]
) -> None:
    words, env, folder = await asyncio.get_running_loop().run_in_executor(None, language, tmp_path)
    diagnosis = world.diagnosis()
    client = world.local_client("client")
    connection = await client.connect(world.url(diagnosis))
    await until(lambda: client.is_welcome, "the client is welcome")
    env = {**env, "REALTIME_AMQP_URL": world.amqp_url}

    code, printed, complaints = await run(*words, diagnosis, "the-event", env=env, folder=folder)
    assert (code, printed) == (0, "the-event"), complaints
    await until(lambda: connection.events, "the event arrives")
    (event,) = connection.events
    assert (event.event_id, event.kind, event.redelivered) == ("the-event", "feedback", False)
    await run(*words, diagnosis, "the-event", env=env, folder=folder)
    code, printed, complaints = await run(*words, diagnosis, env=env, folder=folder)
    assert code == 0, complaints
    await until(lambda: len(connection.events) > 1, "the next event arrives")
    assert [each.event_id for each in connection.events] == ["the-event", printed]

    nowhere = [NOBODY]
    if broker.node is not None:  # a virtual host where the service never ran
        nowhere.append(on_its_own(broker, f"publishers-{language.__name__}").amqp_url)
    for url in nowhere:
        env["REALTIME_AMQP_URL"] = url
        code, printed, complaints = await run(*words, diagnosis, "another", env=env, folder=folder)
        assert (code, printed) == (1, "")
        assert "not published, try again as another" in complaints
    code, _, complaints = await run(*words, env=env, folder=folder)
    assert (code, complaints.strip()) == (2, "the first argument is a diagnosis id")


async def test_a_celery_task_publishes_and_a_second_one_of_the_same_change_shows_nothing(
    world: World,
) -> None:
    diagnosis = world.diagnosis()
    client = world.local_client("client")
    connection = await client.connect(world.url(diagnosis))
    await until(lambda: client.is_welcome, "the client is welcome")
    env = {"REALTIME_AMQP_URL": world.amqp_url, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, PUBLISHERS]))}
    words = [sys.executable, "-m", "celery", "--app", "tasks", "worker", "--pool", "solo"]
    words += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--queues", f"celery{diagnosis}"]
    worker = await asyncio.create_subprocess_exec(
        *words,
        cwd=PUBLISHERS,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        for version in (1, 1, 2):
            call = f"({diagnosis}, 456, 4, 0.75, {version}), queue='celery{diagnosis}'"
            ask = f"import tasks; tasks.feedback_changed.apply_async({call})"
            code, _, complaints = await run(sys.executable, "-c", ask, env=env)
            assert code == 0, complaints
        await until(lambda: len(connection.events) == 2, "both changes arrive")
        assert [each.event_id for each in connection.events] == ["feedback-456-v1", "feedback-456-v2"]
    finally:
        worker.terminate()
        await worker.wait()
