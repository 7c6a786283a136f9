"""`realtime-service status`, once and live, and what its colours mean."""

import json
import signal

import pytest

from contracts.http import StatusReport
from realtime_service.cli.outcome import Exit
from realtime_service.cli.status_screen import table
from tests.cli.processes import Service, environment, finished, running, signed
from tests.cli.terminal import on_a_terminal, terminal
from tests.service.harness.waiting import until

NOBODY = ("status", "--server", "http://127.0.0.1:1", "--token", "some.good.token")


def report(connections: dict[str, int], waiting: dict[str, int], **more: object) -> StatusReport:
    return StatusReport.model_validate(
        {
            "total_diagnoses": len(connections),
            "total_connections": sum(connections.values()),
            "connections_by_diagnosis": connections,
            "queued_messages_by_diagnosis": waiting,
            **more,
        }
    )


# -- The table ---------------------------------------------------------------------------------------------------------


def test_the_colours_say_who_is_there_what_waits_for_nobody_and_what_is_full() -> None:
    lines = table(report({"1": 2, "2": 1}, {"2": 5, "3": 5, "4": 100}), colours=True)
    assert lines[1:5] == [
        f"1          \x1b[32m{2:>11}\x1b[0m  {0:>8}",
        f"2          \x1b[32m{1:>11}\x1b[0m  {5:>8}",
        f"3          {0:>11}  \x1b[33m{5:>8}\x1b[0m",
        f"4          {0:>11}  \x1b[31m{100:>8}\x1b[0m",
    ]


def test_without_colours_it_is_the_same_text() -> None:
    given = report({"1": 2}, {"10": 5, "9": 100}, truncated=True, silent_replicas=["a\x1b"])
    plain = table(given, colours=False)
    assert [line.split()[0] for line in plain[:5]] == ["diagnosis", "1", "9", "10", "total"]
    assert "'a\\x1b'" in plain[-1]
    assert all(line.isprintable() for line in plain)
    coloured = "\n".join(table(given, colours=True))
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"):
        coloured = coloured.replace(code, "")
    assert coloured == "\n".join(plain)


def test_where_not_all_fit_those_with_most_waiting_are_shown() -> None:
    waiting = {str(number): number for number in range(1, 50)}
    lines = table(report({"7": 1}, waiting), colours=False, most_rows=2)
    assert [line.split()[0] for line in lines] == ["diagnosis", "49", "48", "…", "total"]
    assert lines[3] == "… and 47 more, with less that waits"
    assert lines[4].split() == ["total", "1", str(sum(waiting.values()))]


# -- Live --------------------------------------------------------------------------------------------------------------


async def test_on_a_terminal_it_is_drawn_in_place_and_the_last_one_stays(service: Service) -> None:
    diagnosis = service.diagnosis()
    async with terminal("status", "--server", service.url, "--watch", "0.1", env=service.env) as shown:
        await shown.shows("diagnosis", times=2)
        watch = ("watch", str(service.watched(diagnosis)), "--token", signed(100))
        async with running(*watch, env=environment()) as client:
            await client.prints("connected to diagnosis")
            await shown.shows(f"{diagnosis}")
        shown.process.send_signal(signal.SIGINT)
        done = await shown.ended()
    assert done.code == Exit.OK
    entered, left = done.out.index("\x1b[?1049h"), done.out.index("\x1b[?1049l")
    assert done.out.count("\x1b[H", entered, left) >= 3
    assert "diagnosis" in done.out[left:]
    assert "Traceback" not in done.out


async def test_elsewhere_it_is_a_line_of_json_each_time(service: Service) -> None:
    words = ("status", "--server", service.url, "--watch", "0.1", "--json")
    async with running(*words, env=service.env) as process:
        await until(lambda: len(process.out) >= 3, "three reports are printed")
        process.signal(signal.SIGINT)
        done = await process.ended()
    assert (done.code, done.err) == (Exit.OK, "")
    assert all("total_connections" in json.loads(line) for line in done.out.splitlines())


async def test_a_server_that_is_away_is_asked_again() -> None:
    async with running(*NOBODY, "--watch", "0.05", env=environment()) as process:
        said = "cannot be asked (connection refused)"
        await until(lambda: sum(said in line for line in process.out) >= 2, "it is asked twice")
        process.signal(signal.SIGTERM)
        done = await process.ended()
    assert (done.code, done.err) == (Exit.OK, "")
    assert "\x1b" not in done.out


async def test_a_refusal_ends_it(service: Service) -> None:
    words = ("status", "--server", service.url, "--watch", "--token", signed(100))
    done = await finished(*words)
    assert done.code == Exit.FAILED
    assert "the token lacks the scope `operator` (403)" in done.complaint


@pytest.mark.parametrize("no_color", ["", "1"])
async def test_a_terminal_has_colours_unless_no_color_is_set(no_color: str, service: Service) -> None:
    words = ("status", "--server", service.url)
    done = await on_a_terminal(*words, env=service.env, no_color=no_color)
    assert done.code == Exit.OK
    assert ("\x1b[1mdiagnosis" in done.out) is not bool(no_color)
