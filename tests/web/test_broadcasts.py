"""The broadcast routes of the replaced module: the same paths, bodies and answers, and no event lost silently."""

import asyncio
import gzip
import json
import uuid
import zlib
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from contracts.events import MAX_BODY_BYTES, EffectivenessUpdate, FeedbackUpdate, RecommendationUpdate
from contracts.http import PROBLEM_JSON, Accepted
from contracts.ids import DiagnosisId
from realtime_service.web.broadcasts import read_body
from tests.web.application import DIAGNOSIS, OWNER, STRANGER, assert_problem, bearer, raw, serving

RECOMMENDATION = {
    "diagnosis_id": DIAGNOSIS,
    "old_data": {"a": 1},
    "new_data": {"a": 2},
    "reason": "new lab values",
}
EFFECTIVENESS = {
    "diagnosis_id": DIAGNOSIS,
    "recommendation_id": 789,
    "effectiveness": 0.85,
    "confidence": 0.92,
    "sample_size": 100,
}
FEEDBACK = {"diagnosis_id": DIAGNOSIS, "feedback_id": 5, "rating": 4, "effectiveness": 0.5}
ROUTES = [
    ("/ws/broadcast-recommendation-update", RECOMMENDATION, RecommendationUpdate),
    ("/ws/broadcast-effectiveness-update", EFFECTIVENESS, EffectivenessUpdate),
    ("/ws/broadcast-feedback-update", FEEDBACK, FeedbackUpdate),
]
FEEDBACK_ROUTE = "/ws/broadcast-feedback-update"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(("path", "body", "kind"), ROUTES)
async def test_the_owner_may_broadcast_each_of_the_three_kinds(
    path: str, body: dict[str, Any], kind: Any
) -> None:
    async with serving() as service:
        answer, accepted = await service.ask("POST", path, json=body, headers=bearer())
    assert answer.status == 200
    assert answer.content_type == "application/json"
    [published] = service.sink.published
    assert published.body == kind(**body)
    assert Accepted(**accepted) == Accepted(event_id=published.event_id, diagnosis_id=DiagnosisId(DIAGNOSIS))
    assert accepted["status"] == "accepted"


async def test_a_publisher_may_broadcast_to_a_diagnosis_that_is_not_theirs() -> None:
    async with serving() as service:
        answer, _ = await service.ask(
            "POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer(STRANGER, "publisher")
        )
    assert answer.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer  "},
        {"Authorization": "Bearer not.a.token"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        bearer(expires_in_seconds=-60),
        [("Authorization", bearer()["Authorization"]), ("Authorization", bearer(STRANGER)["Authorization"])],
    ],
    ids=["none", "empty", "blank", "nonsense", "basic", "expired", "two"],
)
async def test_without_a_valid_token_the_answer_is_401_and_nothing_is_published(headers: Any) -> None:
    async with serving() as service:
        answer, body = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=headers)
    assert_problem(answer, body, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert service.sink.published == []


async def test_the_scheme_bearer_is_known_in_any_case() -> None:
    headers = {"Authorization": bearer()["Authorization"].replace("Bearer", "bEARER")}
    async with serving() as service:
        answer, _ = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=headers)
    assert answer.status == 200


async def test_a_token_in_the_query_is_no_credential() -> None:
    token = bearer()["Authorization"].removeprefix("Bearer ")
    async with serving() as service:
        answer, body = await service.ask("POST", f"{FEEDBACK_ROUTE}?token={token}", json=FEEDBACK)
    assert_problem(answer, body, 401)


async def test_not_the_owner_and_no_such_diagnosis_are_one_answer() -> None:
    async with serving() as service:
        theirs, body_1 = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer(STRANGER))
        nobodys, body_2 = await service.ask(
            "POST", FEEDBACK_ROUTE, json=FEEDBACK | {"diagnosis_id": 999}, headers=bearer(STRANGER)
        )
        for_publishers, body_3 = await service.ask(
            "POST", FEEDBACK_ROUTE, json=FEEDBACK | {"diagnosis_id": 999}, headers=bearer(1, "publisher")
        )
    assert_problem(theirs, body_1, 403)
    assert body_1 == body_2 == body_3
    assert [nobodys.status, for_publishers.status] == [403, 403]
    varying = {"Date"}
    assert {k: v for k, v in theirs.headers.items() if k not in varying} == {
        k: v for k, v in nobodys.headers.items() if k not in varying
    }
    assert service.sink.published == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rating": 0}, "rating"),
        ({"rating": 6}, "rating"),
        ({"rating": "4"}, "rating"),
        ({"rating": 4.0}, "rating"),
        ({"rating": True}, "rating"),
        ({"effectiveness": 1.01}, "effectiveness"),
        ({"effectiveness": -0.01}, "effectiveness"),
        ({"effectiveness": None}, "effectiveness"),
        ({"diagnosis_id": 0}, "diagnosis_id"),
        ({"diagnosis_id": 2**63}, "diagnosis_id"),
    ],
)
async def test_a_value_out_of_range_or_of_a_wrong_type_is_refused_with_422_that_names_the_field(
    change: dict[str, Any], field: str
) -> None:
    async with serving() as service:
        answer, body = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK | change, headers=bearer())
    assert_problem(answer, body, 422)
    assert [error.partition(":")[0] for error in body["errors"]] == [field]
    assert service.sink.published == []


async def test_every_wrong_field_is_listed() -> None:
    wrong = FEEDBACK | {"rating": 9, "effectiveness": 7}
    async with serving() as service:
        _, body = await service.ask("POST", FEEDBACK_ROUTE, json=wrong, headers=bearer())
    assert [error.partition(":")[0] for error in body["errors"]] == ["rating", "effectiveness"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"rating": NaN}', b"rating=4", b"[" * 60_000],
)
async def test_a_body_that_is_no_json_object_is_refused_with_422(body: bytes) -> None:
    async with serving() as service:
        answer, problem = await service.ask("POST", FEEDBACK_ROUTE, data=body, headers=bearer())
    assert_problem(answer, problem, 422)
    assert len(problem["errors"]) >= 1


async def test_a_refusal_quotes_nothing_that_was_sent() -> None:
    secret = "Mrs Miller, born 1950"
    wrong = RECOMMENDATION | {"old_data": secret, "new_data": {secret: float(1)}, "reason": [secret]}
    async with serving() as service:
        answer, _ = await service.ask("POST", ROUTES[0][0], json=wrong, headers=bearer())
        assert answer.status == 422
        assert secret not in await answer.text()


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None]
)
async def test_json_is_json_whatever_an_old_caller_calls_it(content_type: str | None) -> None:
    headers = bearer() | ({"Content-Type": content_type} if content_type else {})
    async with serving() as service:
        answer, _ = await service.ask(
            "POST",
            FEEDBACK_ROUTE,
            data=json.dumps(FEEDBACK).encode(),
            headers=headers,
            skip_auto_headers=["Content-Type"],
        )
    assert answer.status == 200


def padded(size: int) -> bytes:
    """A valid body of exactly `size` bytes."""
    body = json.dumps(RECOMMENDATION | {"reason": ""}).encode()
    return body[:-2] + b"x" * (size - len(body)) + body[-2:]


async def test_a_body_of_64_kib_is_accepted_and_one_byte_more_is_413() -> None:
    async with serving() as service:
        largest, _ = await service.ask("POST", ROUTES[0][0], data=padded(MAX_BODY_BYTES), headers=bearer())
        larger, body = await service.ask(
            "POST", ROUTES[0][0], data=padded(MAX_BODY_BYTES + 1), headers=bearer()
        )
    assert largest.status == 200
    assert_problem(larger, body, 413)


async def test_a_body_of_unknown_length_is_stopped_at_64_kib() -> None:
    async def chunks() -> Any:
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b" " * 1024

    async with serving() as service:
        answer, body = await service.ask("POST", FEEDBACK_ROUTE, data=chunks(), headers=bearer())
    assert_problem(answer, body, 413)


async def test_a_small_body_that_unpacks_to_a_large_one_is_413() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = bearer() | {"Content-Encoding": "gzip"}
    async with serving() as service:
        answer, body = await service.ask("POST", FEEDBACK_ROUTE, data=bomb[:MAX_BODY_BYTES], headers=headers)
    assert_problem(answer, body, 413)


async def test_a_packed_body_is_read() -> None:
    headers = bearer() | {"Content-Encoding": "deflate"}
    packed = zlib.compress(json.dumps(FEEDBACK).encode())
    async with serving() as service:
        answer, _ = await service.ask("POST", FEEDBACK_ROUTE, data=packed, headers=headers)
    assert answer.status == 200


async def test_a_badly_packed_body_is_400() -> None:
    headers = bearer() | {"Content-Encoding": "gzip"}
    async with serving() as service:
        answer, body = await service.ask("POST", FEEDBACK_ROUTE, data=b"this is not gzip", headers=headers)
    assert_problem(answer, body, 400)


async def test_a_body_that_does_not_arrive_is_not_waited_for_for_ever() -> None:
    async def patient_for_50_ms(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await read_body(request, seconds=0.05))

    async with serving(web.post("/body", patient_for_50_ms)) as service:
        request = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        answer = await raw(service, request, until=b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert PROBLEM_JSON.encode() in answer


async def test_a_caller_who_goes_away_while_sending_is_no_failure_of_the_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reading, ended = asyncio.Event(), asyncio.Event()

    async def body(request: web.Request) -> web.StreamResponse:
        reading.set()
        try:
            return web.Response(body=await read_body(request))
        finally:
            ended.set()

    with capture_logs() as events:
        async with serving(web.post("/body", body)) as service:
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            await reading.wait()
            writer.close()
            await ended.wait()
            await writer.wait_closed()
    assert [event["event"] for event in events if event["event"] != "http_request"] == []
    assert caplog.records == []  # of aiohttp


async def test_checks_are_made_in_order_and_the_first_that_fails_answers() -> None:
    """401, 429, 413, 422, 403, 503: a stranger learns least and costs least."""
    large, wrong = b" " * (MAX_BODY_BYTES + 1), json.dumps(FEEDBACK | {"rating": 9}).encode()
    good = json.dumps(FEEDBACK).encode()
    async with serving() as service:

        async def status_of(body: bytes, headers: dict[str, str]) -> int:
            answer, _ = await service.ask("POST", FEEDBACK_ROUTE, data=body, headers=headers)
            return answer.status

        service.sink.available = False
        assert await status_of(good, bearer()) == 503
        assert await status_of(good, bearer(STRANGER)) == 403
        assert await status_of(wrong, bearer(STRANGER)) == 422
        assert await status_of(large, bearer(STRANGER)) == 413
        while await status_of(wrong, bearer(STRANGER)) != 429:
            pass
        assert await status_of(large, bearer(STRANGER)) == 429
        assert await status_of(large, {}) == 401


async def test_a_caller_who_asks_too_often_is_told_when_to_come_back_and_others_are_served() -> None:
    async with serving() as service:
        for _ in range(10):
            answer, _ = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer())
            assert answer.status == 200
        refused, body = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer())
        other, _ = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer(1, "publisher"))
        service.now += float(refused.headers["Retry-After"])
        later, _ = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer())
    assert_problem(refused, body, 429)
    assert refused.headers["Retry-After"] == "1"
    assert [other.status, later.status] == [200, 200]


@pytest.mark.parametrize("away", ["sink", "ownership"])
async def test_while_broker_or_database_is_away_the_answer_is_503_and_a_retry_succeeds(away: str) -> None:
    async with serving() as service:
        getattr(service, away).available = False
        refused, body = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer())
        getattr(service, away).available = True
        retried, _ = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer())
    assert_problem(refused, body, 503)
    assert int(refused.headers["Retry-After"]) >= 1
    assert retried.status == 200


async def test_the_same_idempotency_key_makes_the_same_event_id() -> None:
    headers = bearer() | {"Idempotency-Key": "a key, of 2026"}
    async with serving() as service:
        for _ in range(2):
            await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=headers)
    first, second = service.sink.published
    assert first.event_id == second.event_id
    assert uuid.UUID(first.event_id).version == 5


async def test_another_caller_route_diagnosis_or_key_makes_another_event_id() -> None:
    async with serving() as service:
        service.ownership.owners[124] = OWNER

        async def event_id(path: str, body: dict[str, Any], user: int, key: str) -> str:
            headers = bearer(user, "publisher") | {"Idempotency-Key": key}
            _, accepted = await service.ask("POST", path, json=body, headers=headers)
            return str(accepted["event_id"])

        ids = {
            await event_id(FEEDBACK_ROUTE, FEEDBACK, OWNER, "1"),
            await event_id(FEEDBACK_ROUTE, FEEDBACK, OWNER, "2"),
            await event_id(FEEDBACK_ROUTE, FEEDBACK, STRANGER, "1"),
            await event_id(FEEDBACK_ROUTE, FEEDBACK | {"diagnosis_id": 124}, OWNER, "1"),
            await event_id(ROUTES[1][0], EFFECTIVENESS, OWNER, "1"),
        }
    assert len(ids) == 5


async def test_the_event_ids_of_keys_never_change() -> None:
    """They are part of the contract: a retry may meet a newer release."""
    headers = bearer() | {"Idempotency-Key": "k"}
    async with serving() as service:
        _, accepted = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=headers)
    assert accepted["event_id"] == "f45f5cee-ee36-594e-834a-13ed41968977"


async def test_without_a_key_every_request_is_an_event_of_its_own() -> None:
    async with serving() as service:
        for _ in range(2):
            await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer())
    first, second = service.sink.published
    assert first.event_id != second.event_id


@pytest.mark.parametrize(
    "keys", [[""], ["x" * 256], ["tab\there"], ["a", "b"]], ids=["empty", "long", "tab", "two"]
)
async def test_an_idempotency_key_that_is_not_1_to_255_printable_characters_is_422(keys: list[str]) -> None:
    headers = [*bearer().items(), *(("Idempotency-Key", key) for key in keys)]
    async with serving() as service:
        answer, body = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=headers)
    assert_problem(answer, body, 422)
    assert body["errors"][0].startswith("Idempotency-Key: ")
    assert service.sink.published == []


async def test_an_idempotency_key_of_255_characters_is_good() -> None:
    headers = bearer() | {"Idempotency-Key": "x" * 255}
    async with serving() as service:
        answer, _ = await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=headers)
    assert answer.status == 200


async def test_the_callers_trace_goes_on_in_the_event() -> None:
    async with serving() as service:
        await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer() | {"traceparent": TRACE})
    assert service.sink.published[0].traceparent == TRACE


@pytest.mark.parametrize(
    "trace",
    [
        "nonsense",
        TRACE.upper(),
        TRACE + "-00",
        "ff" + TRACE[2:],
        "00-" + "0" * 32 + TRACE[35:],
        TRACE[:36] + "0" * 16 + "-01",
        TRACE[:-1],
    ],
)
async def test_what_is_no_w3c_trace_is_dropped_and_the_event_published(trace: str) -> None:
    async with serving() as service:
        await service.ask("POST", FEEDBACK_ROUTE, json=FEEDBACK, headers=bearer() | {"traceparent": trace})
    assert [published.traceparent for published in service.sink.published] == [None]
