"""How findings are shown to a person."""

from realtime_service.cli.findings_screen import table
from realtime_service.domain.finding import Finding, Severity

MISSING = Finding(Severity.WARNING, "exchange 'a'", "it does not exist", "nothing takes this way", "start it")
LOST = Finding(
    Severity.ERROR, "exchange 'c'", "type is direct", "events are lost", "delete it, " * 20 + "start it"
)
GOOD = Finding(Severity.OK, "database", "SQLite")


def test_errors_come_last_and_what_is_good_is_one_line() -> None:
    lines = table([LOST, MISSING, GOOD], colours=False, width=60).splitlines()
    assert lines[:4] == [
        "ok       database: SQLite",
        "warning  exchange 'a': it does not exist",
        "         note:  nothing takes this way",
        "         do:    start it",
    ]
    assert lines[4:7] == [
        "error    exchange 'c': type is direct",
        "         wrong: events are lost",
        "         do:    delete it, delete it, delete it, delete it,",
    ]
    assert all(len(line) <= 60 and line.startswith(" " * 16) for line in lines[7:])


def test_what_is_the_same_of_several_objects_is_said_once() -> None:
    other = Finding(Severity.WARNING, "queue 'b'", MISSING.found, MISSING.problem, MISSING.advice)
    lines = table([MISSING, LOST, other], colours=False, width=80).splitlines()
    assert lines[0] == "warning  exchange 'a', queue 'b': it does not exist"
    assert sum("it does not exist" in line for line in lines) == 1


def test_colours_stand_for_the_severity_and_nothing_can_steer_the_terminal() -> None:
    loud = Finding(Severity.ERROR, "queue '\x1b[2J'", "x\nerror    made up", "p", "a")
    plain = table([loud, GOOD, MISSING], colours=False, width=80)
    assert all(line.isprintable() for line in plain.splitlines())
    assert not any(line.startswith("error    made up") for line in plain.splitlines())
    coloured = table([loud, GOOD, MISSING], colours=True, width=80)
    assert [coloured.count(code) for code in ("\x1b[32m", "\x1b[33m", "\x1b[1;31m", "\x1b[0m")] == [
        1,
        1,
        1,
        3,
    ]
