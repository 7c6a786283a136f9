"""The private node against its law: nobody else's, on loopback alone, gone with its owner."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import aiohttp
import psutil
import pytest
from aio_pika.exceptions import AMQPConnectionError

import realtime_service.embedded
from realtime_service.embedded.loopback import answers, wait_until
from realtime_service.embedded.rabbitmq import (
    Broker,
    BrokerUnavailable,
    PrivateRabbitMQ,
    find_rabbitmq_server,
    start_private_rabbitmq,
)

GONE_SECONDS = 15.0
ANSWER_SECONDS = 30.0

OWNER = """
import json, signal
from realtime_service.embedded.loopback import answers
from realtime_service.embedded.node import start_private_rabbitmq

def tell(**facts):
    print(json.dumps(facts), flush=True)

node = start_private_rabbitmq()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
tell(pid=node.pid, directory=str(node.directory), users=node.ctl("list_users"))
while signal.sigwait([signal.SIGINT]):
    tell(answers=answers(node.port, b"AMQP\\0\\0\\x09\\1", b"\\1"))
"""
"""A program that owns a node: says what it has, and at Ctrl-C whether the node still answers."""


@pytest.fixture(scope="module", autouse=True)
def installed_server(broker: Broker) -> Path:
    """Asked for after the tests' broker: that is installed, where it may be."""
    server = find_rabbitmq_server()
    if server is None:
        pytest.skip(f"no rabbitmq-server is installed (the tests' broker is from: {broker.source})")
    return server


@pytest.fixture(scope="module")
def node(installed_server: Path) -> Iterator[PrivateRabbitMQ]:
    started = start_private_rabbitmq(management=True, server=installed_server)
    yield started
    started.stop()


def processes_of_ours() -> list[psutil.Process]:
    """Children that run a program of their own: until it begins, a child has all that this process has open."""
    this = psutil.Process()
    found = []
    for child in this.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if child.cmdline() != this.cmdline():
                found.append(child)
    return found


def listening_addresses(processes: list[psutil.Process]) -> set[str]:
    heard: set[str] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it ends just now
            heard |= {
                connection.laddr.ip
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
    return heard


@contextmanager
def owner(python: str | Path, folder: Path, user: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """The owning program in a session of its own, as a terminal would start it."""
    account = pwd.getpwnam(user) if user else None
    process = subprocess.Popen(
        [python, "-c", OWNER],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def hear(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout
    said: dict[str, object] = json.loads(process.stdout.readline())
    return said


def kill_and_expect_nothing_left(process: subprocess.Popen[str], directory: Path) -> None:
    assert directory.exists()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "watchdog, port mapper and Erlang VM"
    process.kill()
    assert wait_until(lambda: not any(child.is_running() for child in family), GONE_SECONDS)
    assert wait_until(lambda: not directory.exists(), GONE_SECONDS)


def copy_for_everybody() -> Path:
    """The embedded package in a folder that everybody may read; the checkout may lie where nobody else may look."""
    source = Path(realtime_service.embedded.__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="realtime-test-"))
    shutil.copytree(source, folder / "realtime_service" / "embedded")
    (folder / "realtime_service" / "__init__.py").touch()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def python_for_everybody() -> str:
    """An interpreter that user nobody may run; a virtual environment may lie in somebody's home."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with suppress(OSError):
            words = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
            if subprocess.run(words, user="nobody", cwd="/", capture_output=True).returncode == 0:
                return python
    pytest.skip("there is no Python 3.11 that user nobody may run")


async def test_it_accepts_its_own_user_and_not_the_default_one(node: PrivateRabbitMQ) -> None:
    async with await aio_pika.connect(node.amqp_url) as connection:
        assert not connection.is_closed
    with pytest.raises(AMQPConnectionError):
        await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{node.port}/")


async def test_its_management_api_answers_to_the_same_user(node: PrivateRabbitMQ) -> None:
    assert node.management_url
    url = urlsplit(node.management_url)
    login = {"Authorization": aiohttp.encode_basic_auth(url.username or "", url.password or "")}
    async with (
        aiohttp.ClientSession(headers=login) as session,
        session.get(f"http://127.0.0.1:{url.port}/api/overview") as reply,
    ):
        assert reply.status == 200
        assert (await reply.json())["listeners"]


def test_nothing_of_it_listens_outside_loopback(node: PrivateRabbitMQ) -> None:
    assert node.pid in {process.pid for process in processes_of_ours()}
    assert listening_addresses(processes_of_ours()) <= {"127.0.0.1", "::1"}


def test_rabbitmqctl_speaks_to_it_and_listens_on_loopback_alone(node: PrivateRabbitMQ) -> None:
    assert str(urlsplit(node.amqp_url).username) in node.ctl("list_users")
    before = set(processes_of_ours())
    with ThreadPoolExecutor(1) as pool:  # the tool is an Erlang node itself: caught while it works
        slow = pool.submit(node.ctl, "eval", "timer:sleep(2000).")
        heard: dict[str, str] = {}
        while not slow.done():
            for child in set(processes_of_ours()) - before:
                heard |= dict.fromkeys(listening_addresses([child]), str(child))
        slow.result()
    assert set(heard) == {"127.0.0.1"}, heard


async def test_a_killed_node_comes_back_with_its_port_queues_and_messages(node: PrivateRabbitMQ) -> None:
    before, url = node.pid, node.amqp_url
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True)
        for number in range(3):
            message = aio_pika.Message(b"%d" % number, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, "kept")
        node.flush()
        node.kill()
    assert not psutil.pid_exists(before)
    node.restart()
    assert node.pid != before
    assert node.amqp_url == url
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue("kept")
        assert [(await queue.get(no_ack=True)).body for _ in range(3)] == [b"0", b"1", b"2"]


async def test_a_paused_node_answers_nobody_until_it_is_resumed(node: PrivateRabbitMQ) -> None:
    port, hello = node.port, b"AMQP\0\0\x09\1"
    node.pause()
    try:
        assert not answers(port, hello, b"\1")
    finally:
        node.resume()
    assert wait_until(lambda: answers(port, hello, b"\1"), ANSWER_SECONDS)


def test_ctrl_c_leaves_the_node_to_its_owner_and_kill_9_takes_it_along() -> None:
    folder = Path(realtime_service.embedded.__file__).parents[2]
    with owner(sys.executable, folder) as process:
        facts = hear(process)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        assert hear(process) == {"answers": True}
        kill_and_expect_nothing_left(process, Path(str(facts["directory"])))


def test_it_works_for_an_ordinary_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("everything here is run by an ordinary user")
    folder = copy_for_everybody()
    try:
        with owner(python_for_everybody(), folder, user="nobody") as process:
            facts = hear(process)
            assert psutil.Process(int(str(facts["pid"]))).username() == "nobody"
            assert "administrator" in str(facts["users"])
            kill_and_expect_nothing_left(process, Path(str(facts["directory"])))
    finally:
        shutil.rmtree(folder)


def test_a_given_directory_must_be_empty_and_is_removed_with_the_node(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(BrokerUnavailable, match="not empty"):
        start_private_rabbitmq(data_dir=tmp_path)
    assert (tmp_path / "precious").exists()
    node = start_private_rabbitmq(data_dir=tmp_path / "new")
    assert (tmp_path / "new" / "data").exists()
    node.stop()
    assert not (tmp_path / "new").exists()
