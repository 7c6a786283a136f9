"""`realtime-service publish`: an id after the broker's confirm, or one line that says what to do."""

import asyncio
import json
import socket
import time

import pytest

from realtime_service.cli.outcome import Exit
from realtime_service.cli.watch import Wish, watch
from tests.cli.processes import Finished, Service, environment, finished, signed
from tests.cli.recording import Recording
from tests.cli.terminal import on_a_terminal

NOBODY = "amqp://user:hunter2@127.0.0.1:1/"
FEEDBACK = ("--feedback-id", "5", "--rating", "4", "--effectiveness", "0.7")


async def seen(service: Service, diagnosis: int) -> dict[str, object]:
    """The first event that a client of user 100 gets."""
    screen = Recording()
    async with asyncio.timeout(30):
        await watch(Wish(service.watched(diagnosis), signed(100), ack=False, count=1), screen)
    (event,) = screen.events
    return event


KINDS = [
    (
        ("recommendation", "--new-data", '{"dose": 5, "name": "ß"}', "--reason", "lower dose"),
        "recommendation_update",
        {"old_data": {}, "new_data": {"dose": 5, "name": "ß"}, "reason": "lower dose"},
    ),
    (
        (
            *("effectiveness", "--recommendation-id", "789", "--effectiveness", "0.85"),
            *("--confidence", "1", "--sample-size", "100"),
        ),
        "effectiveness_update",
        {"recommendation_id": 789, "effectiveness": 0.85, "confidence": 1.0, "sample_size": 100},
    ),
    (("feedback", *FEEDBACK), "feedback_update", {"feedback_id": 5, "rating": 4, "effectiveness": 0.7}),
]


@pytest.mark.parametrize(("words", "type_", "data"), KINDS, ids=[kind for _, kind, _ in KINDS])
async def test_the_options_become_the_event_and_its_id_is_printed(
    words: tuple[str, ...], type_: str, data: dict[str, object], service: Service
) -> None:
    diagnosis = service.diagnosis()
    done = await finished("publish", *words, "--diagnosis", str(diagnosis), env=service.env)
    assert (done.code, done.err) == (Exit.OK, "")
    event = await seen(service, diagnosis)
    assert (event["type"], event["data"], event["event_id"]) == (type_, data, done.out)


async def test_a_whole_body_may_come_from_standard_input_with_an_id_of_its_own(service: Service) -> None:
    diagnosis = service.diagnosis()
    body = {"diagnosis_id": diagnosis, "feedback_id": 5, "rating": 4, "effectiveness": 0.7}
    words = ("publish", "feedback", "--amqp-url", service.amqp_url, "--event-id", "feedback 5, version 2")
    done = await finished(*words, "--json", "-", given=json.dumps(body).encode())
    assert done == Finished(Exit.OK, "feedback 5, version 2", "")
    event = await seen(service, diagnosis)
    assert event["event_id"] == "feedback 5, version 2"


async def test_a_personal_event_reaches_its_user(service: Service) -> None:
    diagnosis = service.diagnosis()
    words = ("publish", "feedback", *FEEDBACK, "--diagnosis", str(diagnosis))
    stranger = await finished(*words, "--user", "101", env=service.env)
    owner = await finished(*words, "--user", "100", env=service.env)
    assert (stranger.code, owner.code) == (Exit.OK, Exit.OK)
    event = await seen(service, diagnosis)
    assert event["event_id"] == owner.out


async def test_a_broker_that_is_away_fails_in_bounded_time_with_one_line() -> None:
    began = time.monotonic()
    words = ("publish", "feedback", *FEEDBACK, "--diagnosis", "123", "--amqp-url", NOBODY, "--timeout", "1")
    done = await finished(*words)
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert "no connection to the broker at 127.0.0.1:1 within 1 s, connection refused" in done.complaint
    assert "hunter2" not in done.complaint
    assert time.monotonic() - began < 15


async def test_a_user_that_the_broker_does_not_know_is_said(service: Service) -> None:
    wrong = service.amqp_url.replace("://", "://nobody-")
    words = ("publish", "feedback", *FEEDBACK, "--diagnosis", "123", "--amqp-url", wrong, "--timeout", "3")
    done = await finished(*words)
    assert done.code == Exit.FAILED
    assert "it refused the user name or the password" in done.complaint


async def test_an_event_that_breaks_the_contract_is_not_sent() -> None:
    done = await finished(
        *("publish", "feedback", "--amqp-url", NOBODY),
        *("--json", '{"diagnosis_id": 123, "feedback_id": 5, "rating": 9, "effectiveness": 0.7}'),
    )
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert "rating: Input should be less than or equal to 5; nothing was sent" in done.complaint


async def test_a_body_that_is_too_large_is_refused_and_not_cut() -> None:
    body = {"diagnosis_id": 1, "old_data": {}, "new_data": {"text": "x" * 70_000}, "reason": ""}
    words = ("publish", "recommendation", "--amqp-url", NOBODY, "--json", "-")
    done = await finished(*words, given=json.dumps(body).encode())
    assert done.code == Exit.USAGE
    assert "larger than 65536 bytes" in done.complaint


async def test_a_broker_setting_that_is_no_url_is_named_and_not_quoted() -> None:
    words = ("publish", "feedback", *FEEDBACK, "--diagnosis", "123")
    done = await finished(*words, env=environment(amqp_url="hunter2"))
    assert done.code == Exit.USAGE
    assert done.complaint.startswith("REALTIME_AMQP_URL: ")
    assert "hunter2" not in done.complaint


async def test_on_a_terminal_a_broker_that_takes_its_time_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/"
        words = ("publish", "feedback", "--diagnosis", "1", *FEEDBACK, "--timeout", "2")
        done = await on_a_terminal(*words, env=environment(amqp_url=url))
    assert done.code == Exit.FAILED
    assert "waiting for the broker's confirm … 1 s" in done.out
    assert done.out.rpartition("\r\x1b[K")[2].startswith("realtime-service publish: ")
