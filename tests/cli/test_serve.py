"""`realtime-service serve`, alone and together with the commands that speak to it."""

import asyncio
import json
import signal
import socket

import pytest

from realtime_service.cli.outcome import Exit, Failed
from realtime_service.cli.watch import Wish, watch
from tests.cli.processes import SECRET, Service, environment, finished, running, signed
from tests.cli.recording import Recording
from tests.service.harness.waiting import until_true

AWAY = "amqp://user:hunter2@127.0.0.1:1/"


# -- Starting ----------------------------------------------------------------------------------------------------------


async def test_every_wrong_setting_has_a_line_that_names_it() -> None:
    done = await finished("serve", env=environment(backlog_limit="none", portt="1", jwt_secret=SECRET))
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert sorted(line.partition(":")[0] for line in done.err.splitlines()) == [
        "REALTIME_BACKLOG_LIMIT",
        "REALTIME_PORTT",
    ]


async def test_without_a_way_to_verify_tokens_it_does_not_start() -> None:
    done = await finished("serve", env=environment(amqp_url=AWAY))
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.complaint.startswith("REALTIME_JWT_SECRET | ")


async def test_a_secret_that_is_too_short_is_not_quoted() -> None:
    done = await finished("serve", env=environment(amqp_url=AWAY, jwt_secret="hunter2"))
    assert done.code == Exit.USAGE
    assert done.complaint.startswith("REALTIME_JWT_SECRET: must hold at least 32 bytes")
    assert "hunter2" not in done.complaint


async def test_a_port_that_is_taken_is_said_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        env = environment(amqp_url=AWAY, jwt_secret=SECRET, log_level="error")
        done = await finished("serve", "--port", str(port), env=env)
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert done.complaint.startswith(f"realtime-service serve: another program listens on 127.0.0.1:{port}")


async def test_an_address_that_is_not_ours_is_said_in_a_line() -> None:
    env = environment(amqp_url=AWAY, jwt_secret=SECRET, log_level="error")
    done = await finished("serve", "--host", "192.0.2.1", env=env)
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert done.complaint.startswith("realtime-service serve: 192.0.2.1 is no address of this machine")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_good_order(number: signal.Signals) -> None:
    env = environment(
        amqp_url=AWAY, jwt_secret=SECRET, drain_seconds="0", database_url="sqlite:///nowhere/no.db"
    )
    async with running("serve", "--port", "0", env=env) as serve:
        await serve.prints('"listening"')
        serve.signal(number)
        done = await serve.ended()
    assert done.code == Exit.OK
    assert "Traceback" not in done.err


# -- Together ----------------------------------------------------------------------------------------------------------


async def test_token_watch_publish_and_status_work_together(service: Service) -> None:
    diagnosis = service.diagnosis()
    token = (await finished("token", "--user", "100", env=service.env)).out
    words = ("watch", f"{service.url}/ws/{diagnosis}?token={token}", "--count", "2", "--timeout", "20")
    publish = ("publish", "feedback", "--diagnosis", str(diagnosis), "--feedback-id", "5", "--rating", "4")
    status = ("status", "--server", service.url, "--json")
    async with running(*words, env=environment()) as client:
        await client.prints(f"connected to diagnosis {diagnosis}: no events were waiting; receipts by pong")
        report = json.loads((await finished(*status, env=service.env)).out)
        assert report["connections_by_diagnosis"][str(diagnosis)] == 1
        ids = [(await finished(*publish, "--effectiveness", "0.7", env=service.env)).out for _ in range(2)]
        done = await client.ended()
    assert (done.code, done.err) == (Exit.OK, "")
    for line, event_id in zip(done.out.splitlines()[1:], ids, strict=True):
        assert (
            f'feedback_update      {event_id[:8]}  {{"feedback_id":5,"rating":4,"effectiveness":0.7}}' in line
        )
    assert token not in done.out


async def test_a_watcher_ends_cleanly_at_ctrl_c(service: Service) -> None:
    words = ("watch", str(service.watched(service.diagnosis())), "--token", signed(100))
    async with running(*words, env=environment()) as client:
        await client.prints("connected to diagnosis")
        client.signal(signal.SIGINT)
        done = await client.ended()
    assert (done.code, done.err) == (Exit.OK, "")


async def test_the_same_device_elsewhere_ends_the_first_one_for_good(service: Service) -> None:
    words = (
        "watch",
        str(service.watched(service.diagnosis())),
        "--token",
        signed(100),
        "--client-id",
        "phone",
    )
    async with running(*words, env=environment()) as first:
        await first.prints("this device is new")
        async with running(*words, env=environment()) as second:
            await second.prints("connected to diagnosis")
            done = await first.ended()
            assert second.code is None
    assert done.complaint.startswith("realtime-service watch: replaced (4409)")
    assert done.code == Exit.FAILED


async def test_a_stranger_is_refused_in_a_line(service: Service) -> None:
    words = ("watch", str(service.watched(service.diagnosis())), "--token", signed(999))
    done = await finished(*words)
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert done.complaint.startswith("realtime-service watch: refused (1008)")


async def test_a_token_that_expires_ends_the_watcher_with_a_line(service: Service) -> None:
    url = service.watched(service.diagnosis())
    wish = Wish(url, signed(100, seconds=2), ack=False, count=None)
    with pytest.raises(Failed, match=r"the token expired \(4401\)"):
        async with asyncio.timeout(30):
            await watch(wish, Recording())


# -- Status ------------------------------------------------------------------------------------------------------------


async def test_the_status_is_a_table_of_what_is_connected_and_waits(service: Service) -> None:
    diagnosis = str(service.diagnosis())
    publish = ("publish", "feedback", "--diagnosis", diagnosis, "--feedback-id", "5", "--rating", "4")
    await finished(*publish, "--effectiveness", "0.7", env=service.env)

    async def listed() -> bool:
        done = await finished("status", "--server", service.url, env=service.env)
        assert (done.code, done.err) == (Exit.OK, "")
        lines = [line.split() for line in done.out.splitlines()]
        assert lines[0] == ["diagnosis", "connections", "waiting"]
        return [diagnosis, "0", "1"] in lines

    await until_true(listed, "the event is listed as waiting")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (signed(100), "the token lacks the scope `operator` (403)"),
        ("no.such.token", "does not believe the token (401)"),
    ],
    ids=["another scope", "no token"],
)
async def test_the_status_says_why_it_is_refused(token: str, said: str, service: Service) -> None:
    done = await finished("status", "--server", service.url, "--token", token)
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert said in done.complaint
    assert token not in done.complaint


async def test_a_status_of_nobody_is_one_line() -> None:
    done = await finished("status", "--server", "http://127.0.0.1:1", "--token", "some.good.token")
    assert (done.code, done.out) == (Exit.FAILED, "")
    assert "127.0.0.1:1 cannot be asked (connection refused)" in done.complaint


async def test_a_status_without_token_and_secret_names_the_variable() -> None:
    done = await finished("status")
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.complaint.startswith("REALTIME_JWT_SECRET: not set")
