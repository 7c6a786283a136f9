"""The console's routes: what is public, what is for operators, what is for this machine alone; and its trace."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import aiohttp
import pytest

from contracts.ids import ConnectionId, DiagnosisId, EventId, UserId
from realtime_service.domain.event import Event
from realtime_service.domain.room import SHARED, Member
from realtime_service.service import running
from realtime_service.settings import Settings
from realtime_service.web.console import FILES, is_loopback
from realtime_service.web.console_trace import MAX_CONNECTIONS, MAX_ENTRIES, WATCHED_SECONDS, Stage, Trace
from realtime_service.web.files import static
from tests.service.harness.waiting import until
from tests.web.conftest import StartReplica
from tests.web.replica import SECRET, Amqp, Diagnoses, Replica, Visitors, device_queue, token

PAGES: Final = ["/console", *(f"/{name}" for name in FILES)]


@pytest.fixture(scope="module")
async def replica(start_replica: StartReplica) -> AsyncIterator[Replica]:
    """With a console."""
    async with start_replica(receipt_timeout_seconds=2, console=True) as replica:
        yield replica


async def ask(
    replica: Replica, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[aiohttp.ClientResponse, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{replica.address}{path}", headers=headers) as answer,
    ):
        return answer, await answer.read()


def operator() -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user=1, scopes=['operator'])}"}


async def flow(replica: Replica, diagnosis: int, after: int | None = None) -> Any:
    """What the console is shown."""
    query = f"diagnosis={diagnosis}" + ("" if after is None else f"&after={after}")
    answer, _ = await ask(replica, f"/console/flow?{query}", headers=operator())
    assert answer.status == 200
    return await answer.json()


class Looking:
    """A page that stays open: the entries it has seen."""

    def __init__(self, replica: Replica, diagnosis: int) -> None:
        self.replica = replica
        self.diagnosis = diagnosis
        self.trace: list[dict[str, Any]] = []
        self.flow: Any = None

    async def until(self, condition: Callable[[], object]) -> None:
        """Look until the condition is true."""
        async with asyncio.timeout(20):
            while self.flow is None or not condition():
                self.flow = await flow(self.replica, self.diagnosis, self.flow and self.flow["last"])
                self.trace += self.flow["trace"]

    def ready(self, queue: str) -> int | None:
        """What waits in a queue, as shown."""
        return next((one["ready"] for one in self.flow["queues"] if one["name"] == queue), None)

    @property
    def stages(self) -> list[tuple[str, str | None]]:
        """Each entry's stage and device."""
        return [(entry["stage"], entry["device"]) for entry in self.trace]


# --- Who gets what ----------------------------------------------------------------------------------------------------


async def test_without_the_setting_there_is_no_console(start_replica: StartReplica) -> None:
    async with start_replica() as plain:
        for path in [*PAGES, "/console/flow?diagnosis=1"]:
            answer, _ = await ask(plain, path, headers=operator())
            assert answer.status == 404, path


@pytest.mark.parametrize("path", PAGES)
async def test_the_page_loads_nothing_from_elsewhere_and_is_framed_by_nobody(
    replica: Replica, path: str
) -> None:
    answer, _ = await ask(replica, path)
    assert answer.status == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_nothing_is_inline_and_every_file_is_served() -> None:
    page = static("console.html").decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", page)
    loaded = set(re.findall(r'(?:src|href)="/([\w.]+\.(?:js|css|svg))"', page))
    for name in FILES:
        loaded |= set(re.findall(r'from "\./([\w.]+)"', static(name).decode()))
    assert loaded == {*FILES, "client.js"}
    for name in ("console.html", *FILES):
        elsewhere = re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"']+", static(name).decode())
        assert elsewhere == [], name


@pytest.mark.parametrize(
    ("bearer", "status"), [(None, 401), ("x.y.z", 401), (token(), 403), (token(scopes=["publisher"]), 403)]
)
async def test_what_it_shows_is_for_operators(replica: Replica, bearer: str | None, status: int) -> None:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    answer, _ = await ask(replica, "/console/flow?diagnosis=1", headers=headers)
    assert answer.status == status


@pytest.mark.parametrize("query", ["", "?diagnosis=x", "?diagnosis=1&after=-1", "?diagnosis=1&after=²"])
async def test_a_question_that_makes_no_sense_is_refused(replica: Replica, query: str) -> None:
    answer, _ = await ask(replica, f"/console/flow{query}", headers=operator())
    assert answer.status == 422


async def test_outside_of_the_demo_nobody_gets_a_token(replica: Replica) -> None:
    answer, _ = await ask(replica, "/console/tokens", method="POST", headers=operator())
    assert answer.status == 404
    _, body = await ask(replica, "/console")
    assert b"data-demo" not in body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"X-Forwarded-For": "192.0.2.1"}, 403),
        ({"Forwarded": "for=192.0.2.1"}, 403),
    ],
    ids=str,
)
async def test_the_demo_gives_tokens_to_browsers_of_this_machine_alone(
    headers: Mapping[str, str], status: int, amqp: Amqp, diagnoses: Diagnoses
) -> None:
    settings = Settings(
        port=0,
        amqp_url=amqp.url,  # type: ignore[arg-type]  # pydantic makes a secret of it
        database_url=diagnoses.url,  # type: ignore[arg-type]
        jwt_secret=SECRET,  # type: ignore[arg-type]
        drain_seconds=0,
        console=True,
    )
    async with (
        running(settings, demo_tokens=lambda: {DiagnosisId(123): "a.b.c"}) as service,
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{service.port}/console/tokens", headers=headers) as answer,
    ):
        assert answer.status == status
        body = await answer.json(content_type=None)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert (body == {"123": "a.b.c"}) is (status == 200)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("192.0.2.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_what_stays_on_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


# --- What is shown ----------------------------------------------------------------------------------------------------


async def test_an_event_is_seen_from_its_queue_to_its_proof_and_its_data_are_not(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.connect(diagnosis)
    welcome = await client.welcome()
    page = Looking(replica, diagnosis)
    await page.until(lambda: page.flow["clients"])
    assert page.flow["clients"] == [
        {"connection_id": welcome["connection_id"], "device": None, "receipts": "pong", "unproven": 0}
    ]
    assert page.flow["replicas"] == {page.flow["replica"]: 1}
    assert page.flow["broker"] is True
    event_id = await replica.events.broadcast_recommendation_update(
        diagnosis, {"note": "confidential"}, {}, "private"
    )
    await client.events(1)
    await page.until(lambda: ("proven", None) in page.stages)
    assert page.stages == [("delivered", None), ("sent", None), ("proven", None)]
    assert {entry["event_id"] for entry in page.trace} == {event_id}
    delivered, sent, proven = page.trace
    assert delivered["type"] == "recommendation_update"
    assert sent["connections"] == proven["connections"] == [welcome["connection_id"]]
    assert delivered["at"] <= sent["at"] <= proven["at"]
    answer, body = await ask(replica, f"/console/flow?diagnosis={diagnosis}", headers=operator())
    assert event_id.encode() in body
    assert b"confidential" not in body
    assert b"private" not in body
    assert answer.headers["Cache-Control"] == "no-store"


async def test_the_queue_of_a_device_that_went_offline_is_still_shown(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    client = await visitors.welcomed(diagnosis, client_id="phone")
    page = Looking(replica, diagnosis)
    queue = device_queue(diagnosis, "phone")
    await page.until(lambda: page.ready(queue) == 0)
    await client.leave()
    await replica.gone(diagnosis)
    await replica.feedback(diagnosis, 1, 2, 3)
    await page.until(lambda: page.ready(queue) == 3)
    assert page.ready(f"diagnosis.{diagnosis}") == 3
    assert page.flow["clients"] == []
    again = await visitors.welcomed(diagnosis, client_id="phone")
    await again.numbers(3)
    await page.until(lambda: page.ready(queue) == 0)
    assert any(stage == "delivered" and device for stage, device in page.stages)


async def test_what_a_frozen_client_does_not_prove_is_seen_to_come_back(
    replica: Replica, visitors: Visitors
) -> None:
    diagnosis = replica.diagnoses.add()
    frozen = await visitors.welcomed(diagnosis, receipts="ack")
    page = Looking(replica, diagnosis)
    await page.until(lambda: page.flow["clients"])
    await replica.feedback(diagnosis, 1)
    await frozen.events(1)
    await page.until(lambda: page.flow["clients"][0]["unproven"] == 1)
    assert await frozen.closed() == (4408, "no receipt in time")
    await page.until(lambda: page.ready(f"diagnosis.{diagnosis}") == 1)
    assert ("left_unproven", None) in page.stages
    again = await visitors.welcomed(diagnosis)
    await again.events(1)
    await page.until(lambda: ("proven", None) in page.stages)
    assert [entry["repeated"] for entry in page.trace if entry["stage"] == "sent"] == [False, True]


async def test_a_broker_that_is_away_is_said(amqp: Amqp, diagnoses: Diagnoses) -> None:
    settings = Settings(
        port=0,
        amqp_url="amqp://127.0.0.1:1/",  # type: ignore[arg-type]
        database_url=diagnoses.url,  # type: ignore[arg-type]
        jwt_secret=SECRET,  # type: ignore[arg-type]
        console=True,
    )
    async with (
        running(settings) as service,
        aiohttp.ClientSession(headers=operator()) as session,
        session.get(f"http://127.0.0.1:{service.port}/console/flow?diagnosis=1") as answer,
    ):
        shown = await answer.json()
    assert shown["broker"] is False
    assert {queue["ready"] for queue in shown["queues"]} == {None}


async def test_who_waits_for_news_does_not_hold_up_the_end(start_replica: StartReplica) -> None:
    async with start_replica(console=True) as replica:
        diagnosis = replica.diagnoses.add()
        asked = asyncio.create_task(flow(replica, diagnosis, 0))
        trace = replica.service.manager._hub.observer
        assert isinstance(trace, Trace)
        await until(lambda: trace.waiting, "it waits")
    assert (await asked)["trace"] == []


# --- The trace --------------------------------------------------------------------------------------------------------

ONE: Final = DiagnosisId(1)


def event(number: int, diagnosis: DiagnosisId = ONE) -> Event:
    head = f'{{"type":"feedback_update","diagnosis_id":{diagnosis},"timestamp":"2026-11-22T10:00:00.000Z"'
    return Event(EventId(str(number)), diagnosis, f'{head},"data":{{}}}}'.encode())


def member(name: str) -> Member:
    return Member.of(ConnectionId(name), UserId(1))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trace(clock: Clock) -> Trace:
    """Of which somebody looks at diagnosis 1."""
    trace = Trace(clock=lambda: 1.5, monotonic=clock)
    trace.since(0, ONE)
    return trace


def test_nothing_is_noted_while_nobody_looks(trace: Trace, clock: Clock) -> None:
    trace.delivered(SHARED, event(1), redelivered=False)
    clock.now += WATCHED_SECONDS + 1
    trace.delivered(SHARED, event(2), redelivered=False)
    assert [entry.event_id for entry in trace.since(0, ONE)] == ["1"]
    trace.delivered(SHARED, event(3), redelivered=False)
    assert [entry.event_id for entry in trace.since(1, ONE)] == ["3"]


def test_old_entries_make_room_for_new_ones(trace: Trace) -> None:
    for number in range(MAX_ENTRIES + 10):
        trace.relayed(event(number))
    entries = trace.since(0, ONE)
    assert (len(entries), entries[0].event_id, trace.last) == (MAX_ENTRIES, "10", MAX_ENTRIES + 10)


def test_a_large_audience_is_counted_and_partly_named(trace: Trace) -> None:
    members = tuple(member(f"c{number}") for number in range(MAX_CONNECTIONS + 5))
    trace.sent(event(1), members, repeated=True)
    (entry,) = trace.since(0, ONE)
    assert (len(entry.connections), entry.count, entry.repeated) == (
        MAX_CONNECTIONS,
        MAX_CONNECTIONS + 5,
        True,
    )


def test_an_entry_says_which_event_when_and_where(trace: Trace) -> None:
    trace.delivered("key", event(1), redelivered=True)
    trace.proven(ONE, member("c"), (EventId("1"), EventId("2")))
    trace.left_unproven(ONE, member("d"), (EventId("3"),))
    trace.delivered(SHARED, event(4, DiagnosisId(2)), redelivered=False)
    first, *others = trace.since(0, ONE)
    assert (first.stage, first.device, first.repeated, first.at) == (Stage.DELIVERED, "key", True, 1500.0)
    assert (first.type, first.published) == ("feedback_update", "2026-11-22T10:00:00.000Z")
    assert [(entry.stage, entry.event_id, entry.connections) for entry in others] == [
        (Stage.PROVEN, "1", ("c",)),
        (Stage.PROVEN, "2", ("c",)),
        (Stage.LEFT_UNPROVEN, "3", ("d",)),
    ]
