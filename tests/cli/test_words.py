"""What is common to all commands: help, usage, exit codes, and never a traceback."""

import shlex

import pytest

from realtime_service import logs
from realtime_service.cli import COMMANDS, main
from realtime_service.cli.outcome import Exit
from tests.cli.processes import COMMAND, finished


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """None but those that a test sets; and a usage that is not wrapped in the middle of a name."""
    for name in ("AMQP_URL", "AMQP_URL_FILE", "DATABASE_URL", "JWT_SECRET", "JWT_SECRET_FILE"):
        monkeypatch.delenv(f"REALTIME_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # of the process that runs the other tests, too


Capture = pytest.CaptureFixture[str]


def test_the_help_lists_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == Exit.OK
    text = capsys.readouterr().out
    assert {line.split()[0] for line in text.splitlines() if line.startswith("    ")} >= set(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [[name] for name in COMMANDS]
    + [["publish", kind] for kind in ("recommendation", "effectiveness", "feedback")],
    ids=" ".join,
)
def test_every_command_explains_itself_with_an_example(words: list[str], capsys: Capture) -> None:
    assert main([*words, "--help"]) == Exit.OK
    text = capsys.readouterr().out
    assert f"usage: realtime-service {' '.join(words)}" in text
    assert "example" in text
    assert f"  realtime-service {' '.join(words)}" in text or f"realtime-service {' '.join(words)} --" in text


def test_who_says_nothing_is_shown_the_commands(capsys: Capture) -> None:
    assert main([]) == Exit.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [name for name, summary in COMMANDS.items() if summary not in shown.err] == []


def test_the_version_is_one_line(capsys: Capture) -> None:
    assert main(["--version"]) == Exit.OK
    assert capsys.readouterr().out.startswith("realtime-service ")


FEEDBACK = ["publish", "feedback", "--diagnosis", "123", "--feedback-id", "5", "--rating", "4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["serve", "--loud"], "unrecognized arguments: --loud"),
        (["serve", "--port", "99999"], "--port: must be a number from 0 to 65535"),
        (["serve", "--por", "80"], "unrecognized arguments"),
        (["token"], "required: --user"),
        (["token", "--user", "0"], "--user: must be a whole number, 1 or more"),
        (["token", "--user", "1", "--expires", "nan"], "--expires: must be a number of seconds above 0"),
        (["token", "--user", "1", "--device-id", "a b"], "--device-id: must be 1 to 128 of"),
        (["watch"], "give either a URL or --diagnosis"),
        (["watch", "ws://h/ws/1", "--diagnosis", "1"], "give either a URL or --diagnosis"),
        (["watch", "ws://h/ws/1", "--server", "ws://h"], "--server goes with --diagnosis"),
        (["watch", "ftp://h/ws/1"], "must start with ws://"),
        (["watch", "ws://user:password@h/ws/1"], "must start with ws://"),
        (["watch", "ws://h/ws/1", "--count", "0"], "--count: must be a whole number"),
        (["watch", "ws://h/ws/1", "--token", "a b"], "this is no token"),
        (["status", "--server", "nowhere"], "must start with ws://"),
        (["publish"], "required: KIND"),
        (FEEDBACK, "these are missing: --effectiveness"),
        ([*FEEDBACK, "--json", "{}"], "give either --json or the fields, not both: --diagnosis, --feedback-id"),
        ([*FEEDBACK, "--effectiveness", "much"], "--effectiveness: invalid float value"),
        ([*FEEDBACK, "--effectiveness", "1.5"], "effectiveness: Input should be less than or equal to 1"),
        ([*FEEDBACK, "--effectiveness", "nan"], "effectiveness: Input should be a finite number"),
        ([*FEEDBACK, "--effectiveness", "1", "--amqp-url", "http://h"], "--amqp-url: must look like amqp://"),
        ([*FEEDBACK, "--effectiveness", "1", "--event-id", "a\nb"], "--event-id: must be 1 to 128 printable"),
        (["publish", "feedback", "--json", "{"], "the body is not JSON"),
        (["publish", "feedback", "--json", '{"diagnosis_id":1}'], "feedback_id: Field required"),
        (["publish", "recommendation", "--diagnosis", "1", "--new-data", "[]"], "--new-data: must be a JSON object"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_words_end_with_what_is_wrong_and_exit_code_2(
    words: list[str], said: str, capsys: Capture
) -> None:
    assert main(words) == Exit.USAGE
    captured = capsys.readouterr()
    assert said in captured.err.splitlines()[-1]
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_token_in_the_wrong_place_is_not_quoted(capsys: Capture) -> None:
    assert main(["watch", "eyJhbGciOi.secret.token"]) == Exit.USAGE
    assert "secret" not in capsys.readouterr().err


async def test_the_module_is_the_same_program() -> None:
    done = await finished("--version")
    assert (done.code, done.err) == (Exit.OK, "")
    assert done.out.startswith("realtime-service ")


async def test_output_that_nobody_reads_any_more_ends_the_command_quietly() -> None:
    program = " ".join(map(shlex.quote, COMMAND))
    done = await finished(script=f"{program} publish --help | true; {program} --version")
    assert done.err == ""
    assert done.out.startswith("realtime-service ")
