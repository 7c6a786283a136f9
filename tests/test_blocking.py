"""The three broadcasts without an event loop: from threads, after a fork, at the end of a process."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import pytest

from contracts import topology
from realtime_service import blocking
from realtime_service.domain.errors import EventInvalid, PublishError, SettingsError
from realtime_service.embedded.rabbitmq import Broker
from tests.support.amqp import nobody_there

QUEUE = "published blocking"
DIAGNOSIS = int(uuid.uuid4().int % 10**12) + 1


class Inbox:
    """A queue with what is published about DIAGNOSIS, read by another library's client."""

    def __init__(self, amqp_url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
        self._channel = self._connection.channel()
        self._channel.queue_declare(QUEUE, exclusive=True)
        for exchange in topology.EXCHANGES.values():
            self._channel.queue_bind(QUEUE, exchange, f"diagnosis.{DIAGNOSIS}")

    def take(self) -> list[str]:
        """The ids of the events in it."""
        ids = []
        while (got := self._channel.basic_get(QUEUE, auto_ack=True))[0] is not None:
            ids.append(got[1].message_id)
        return ids

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(autouse=True)
def environment(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REALTIME_AMQP_URL", broker.amqp_url)
    yield
    blocking.close_publisher()


@pytest.fixture
def inbox(broker: Broker, environment: None) -> Iterator[Inbox]:
    blocking.broadcast_feedback_update(
        DIAGNOSIS, 1, 5, 0.9
    )  # declares the exchanges, if it is the first of all
    inbox = Inbox(broker.amqp_url)
    yield inbox
    inbox.close()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "realtime publisher"]


def test_the_three_broadcasts_return_when_the_event_is_there(inbox: Inbox) -> None:
    ids: list[str] = [
        blocking.broadcast_recommendation_update(DIAGNOSIS, {}, {"dose": 2}, "new data"),
        blocking.broadcast_effectiveness_update(DIAGNOSIS, 789, 0.85, 0.92, 100),
        blocking.broadcast_feedback_update(DIAGNOSIS, 456, rating=5, effectiveness=0.9, event_id="mine"),
    ]
    assert inbox.take() == ids
    assert ids[2] == "mine"


def test_eight_threads_share_one_connection(inbox: Inbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: blocking.broadcast_feedback_update(DIAGNOSIS, n, 5, 0.9), range(200)))
    assert sorted(inbox.take()) == sorted(ids)
    assert len(_threads()) == 1


def test_errors_are_those_of_the_async_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EventInvalid, match="rating: Input should be less than or equal to 5"):
        blocking.broadcast_feedback_update(DIAGNOSIS, 1, 6, 0.9)
    blocking.close_publisher()
    monkeypatch.setenv("REALTIME_AMQP_URL", nobody_there())
    with pytest.raises(PublishError, match="connection refused"):
        blocking.broadcast_feedback_update(DIAGNOSIS, 1, 5, 0.9, timeout_seconds=0.3)
    blocking.close_publisher()
    monkeypatch.setenv("REALTIME_AMQP_URL", "nonsense")
    with pytest.raises(SettingsError, match="REALTIME_AMQP_URL"):
        blocking.broadcast_feedback_update(DIAGNOSIS, 1, 5, 0.9)


async def test_in_an_event_loop_it_names_the_function_to_await() -> None:
    with pytest.raises(
        RuntimeError, match=r"await realtime_service\.publisher\.broadcast_feedback_update instead"
    ):
        blocking.broadcast_feedback_update(DIAGNOSIS, 1, 5, 0.9)
    assert _threads() == []


def test_closing_ends_the_thread_and_the_next_call_starts_another(inbox: Inbox) -> None:
    blocking.close_publisher()
    assert _threads() == []
    event_id = blocking.broadcast_feedback_update(DIAGNOSIS, 1, 5, 0.9)
    assert inbox.take() == [event_id]
    assert len(_threads()) == 1


def test_a_call_that_is_closed_under_its_feet_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALTIME_AMQP_URL", nobody_there())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(blocking.broadcast_feedback_update, DIAGNOSIS, 1, 5, 0.9)
        deadline = time.monotonic() + 10
        while not _threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        blocking.close_publisher()
        with pytest.raises(PublishError, match="closed before"):
            waiting.result(timeout=10)


_FORK = """
import os, sys
from realtime_service import blocking

print(blocking.broadcast_feedback_update({diagnosis}, 1, 5, 0.9), flush=True)
for ends in (sys.exit, os._exit):
    child = os.fork()
    if child == 0:
        print(blocking.broadcast_feedback_update({diagnosis}, 2, 5, 0.9), flush=True)
        ends(0)
    assert os.waitpid(child, 0)[1] == 0
    print(blocking.broadcast_feedback_update({diagnosis}, 3, 5, 0.9), flush=True)
silent = os.fork()
if silent == 0:
    sys.exit(0)
assert os.waitpid(silent, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_has_a_connection_of_its_own(broker: Broker, inbox: Inbox) -> None:
    done = _run(_FORK, broker)
    assert done.returncode == 0, done.stderr
    assert _complaints(done) == []
    assert sorted(done.stdout.split()) == sorted(inbox.take())
    assert len(done.stdout.split()) == 5


_ENDS = """
import os, threading
from realtime_service import blocking

def work():
    for number in range(5):
        os.write(1, (blocking.broadcast_feedback_update({diagnosis}, number, 5, 0.9) + " ").encode())

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
"""


def test_a_process_that_ends_leaves_nothing_behind(broker: Broker, inbox: Inbox) -> None:
    """Its threads are done before it ends, then its connection is closed; nobody has to call anything."""
    started = time.monotonic()
    done = _run(_ENDS, broker)
    assert time.monotonic() - started < 20
    assert done.returncode == 0, done.stderr
    assert _complaints(done) == []
    assert sorted(done.stdout.split()) == sorted(inbox.take())
    assert len(done.stdout.split()) == 40


def _run(program: str, broker: Broker) -> "subprocess.CompletedProcess[Any]":
    """Run it with warnings as errors; what asyncio says about things left behind goes to stderr."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program.format(diagnosis=DIAGNOSIS)],
        env={**os.environ, "REALTIME_AMQP_URL": broker.amqp_url, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def _complaints(done: "subprocess.CompletedProcess[Any]") -> list[str]:
    return [
        line for line in done.stderr.splitlines() if not line.startswith("Executing <")
    ]  # slow, says -X dev
