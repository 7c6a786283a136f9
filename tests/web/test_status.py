"""`GET /ws/status`: the replaced module's report, for operators alone."""

import asyncio

import pytest

from contracts.http import StatusReport
from contracts.ids import DiagnosisId
from tests.fakes import FakeBacklogs
from tests.web.application import OWNER, Service, assert_problem, bearer, serving

OPERATOR = bearer(1, "operator")


async def test_the_report_says_who_is_connected_and_what_waits() -> None:
    async with serving() as service:
        service.census.counts = {123: 2, 9: 1}
        service.backlogs.counts = {7: 40, 123: 1}
        answer, report = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert answer.status == 200
    assert report == {
        "total_diagnoses": 2,
        "total_connections": 3,
        "connections_by_diagnosis": {"9": 1, "123": 2},
        "queued_messages_by_diagnosis": {"7": 40, "123": 1},
    }
    assert StatusReport.model_validate(report).truncated is False


async def test_nobody_connected_and_nothing_waiting_is_a_report_of_zeros() -> None:
    async with serving() as service:
        _, report = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert report == {
        "total_diagnoses": 0,
        "total_connections": 0,
        "connections_by_diagnosis": {},
        "queued_messages_by_diagnosis": {},
    }


async def test_a_report_that_may_miss_waiting_diagnoses_says_so() -> None:
    async with serving() as service:
        service.backlogs.counts, service.backlogs.truncated = {7: 40}, True
        _, report = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert report["queued_messages_by_diagnosis"] == {"7": 40}
    assert report["truncated"] is True


async def test_while_the_broker_is_away_the_report_says_who_is_connected() -> None:
    async with serving() as service:
        service.census.counts = {123: 1}
        service.backlogs.available = False
        answer, report = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert answer.status == 200
    assert report["connections_by_diagnosis"] == {"123": 1}
    assert report["queued_messages_by_diagnosis"] == {}
    assert report["truncated"] is True


async def test_what_is_handed_out_and_not_proven_counts_as_waiting() -> None:
    async with serving() as service:
        service.backlogs.counts, service.census.unsettled = {7: 40, 8: 1}, {7: 2, 9: 3}
        _, report = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert report["queued_messages_by_diagnosis"] == {"7": 42, "8": 1, "9": 3}


async def test_replicas_that_did_not_answer_are_named_and_what_waits_may_be_more() -> None:
    async with serving() as service:
        service.census.counts, service.census.silent = {123: 1}, ["5f0c92ab"]
        _, report = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert report["silent_replicas"] == ["5f0c92ab"]
    assert report["truncated"] is True
    assert report["connections_by_diagnosis"] == {"123": 1}


class Silent(FakeBacklogs):
    """A broker that never answers."""

    async def waiting(self) -> tuple[dict[DiagnosisId, int], bool]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")


async def test_a_broker_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    service = Service()
    service.backlogs, service.backlog_seconds = Silent(), 0.05
    async with serving(service=service):
        answer, report = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert answer.status == 200
    assert report["truncated"] is True


async def test_without_a_token_the_answer_is_401() -> None:
    async with serving() as service:
        answer, body = await service.ask("GET", "/ws/status")
    assert_problem(answer, body, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("scopes", [(), ("publisher",)])
async def test_without_the_scope_operator_the_answer_is_403_and_says_nothing(scopes: tuple[str, ...]) -> None:
    async with serving() as service:
        service.census.counts = {123: 1}
        answer, body = await service.ask("GET", "/ws/status", headers=bearer(OWNER, *scopes))
    assert_problem(answer, body, 403)
    assert "123" not in str(body)


async def test_the_report_is_kept_in_no_cache() -> None:
    async with serving() as service:
        answer, _ = await service.ask("GET", "/ws/status", headers=OPERATOR)
    assert answer.headers["Cache-Control"] == "no-store"
