"""`realtime-service completion`: what real shells make of the scripts."""

import asyncio
import os
import shlex
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from realtime_service.cli import COMMANDS, main
from realtime_service.cli.completion import tree
from realtime_service.cli.completion_scripts import SCRIPTS
from realtime_service.cli.outcome import Exit
from tests.cli.processes import END_SECONDS
from tests.service.harness.waiting import until

PROGRAM = "realtime-service"


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Path]:
    """A shell's script, in a file."""

    def write(shell: str) -> Path:
        assert main(["completion", shell]) == Exit.OK
        path = tmp_path / shell
        path.write_text(capsys.readouterr().out)
        return path

    return write


async def output(*command: str) -> list[str]:
    """What a shell prints; it may not complain."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    out, err = await asyncio.wait_for(process.communicate(), END_SECONDS)
    assert (process.returncode, err) == (0, b"")
    return out.decode().splitlines()


async def in_bash(script: Path, line: str) -> list[str]:
    words = line.split(" ")
    asked = " ".join(map(shlex.quote, words))
    given = f"COMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _realtime_service"
    found = f'source {script}; {given}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return await output("bash", "--norc", "--noprofile", "-u", "-c", found)


async def in_fish(script: Path, line: str) -> list[str]:
    found = await output("fish", "--no-config", "-c", f"source {script}; complete -C {shlex.quote(line)}")
    return [one.partition("\t")[0] for one in found]


async def in_zsh(script: Path, line: str) -> list[str]:
    """What `compadd` is given, which is how zsh's completion is told."""
    words = line.split(" ")
    asked = " ".join(map(shlex.quote, words))
    heard = (
        "compadd() { while [[ $1 == -* && $1 != -- ]]; do shift; done; shift; print -l -- $@ }; "
        "_describe() { while [[ $1 == -o || $1 == -t ]]; do [[ $1 == -t ]] && shift; shift; done; "
        "shift; print -l -- ${(@)${(@P)1}%%:*} }; compdef() { : }"
    )
    asking = f"words=({asked}); CURRENT={len(words)}; PREFIX={shlex.quote(words[-1])}; _realtime_service"
    found = await output("zsh", "-f", "-c", f"{heard}; source {script}; {asking}")
    return [word for word in found if word.startswith(words[-1])]


SHELLS: dict[str, Callable[[Path, str], Awaitable[list[str]]]] = {
    "bash": in_bash,
    "fish": in_fish,
    "zsh": in_zsh,
}
INSTALLED = [
    pytest.param(
        shell, marks=() if shutil.which(shell) else pytest.mark.skip(f"no {shell} is installed here")
    )
    for shell in SHELLS
]
LINES = {
    f"{PROGRAM} sta": {"status"},
    f"{PROGRAM} ": set(COMMANDS),
    f"{PROGRAM} publish f": {"feedback"},
    f"{PROGRAM} status --js": {"--json"},
    f"{PROGRAM} publish feedback --rat": {"--rating"},
    f"{PROGRAM} token --user 1 --scope op": {"operator"},
    f"{PROGRAM} completion z": {"zsh"},
    f"{PROGRAM} serve --host s": set(),
    f"{PROGRAM} watch --diag": {"--diagnosis"},
}


@pytest.mark.parametrize("shell", INSTALLED)
async def test_a_shell_completes_commands_options_and_choices(
    shell: str, script: Callable[[str], Path]
) -> None:
    path = script(shell)
    found = await asyncio.gather(*(SHELLS[shell](path, line) for line in LINES))
    offered = {line: {word for word in words if word} for line, words in zip(LINES, found, strict=True)}
    for line, words in offered.items():
        if line.endswith(" "):
            words -= {"-h", "--help", "--version"}
    assert offered == LINES


KEYS = {  # fish's `complete -C` is what the key runs
    "bash": ("bash --norc --noprofile -i", "source {}"),
    "zsh": ("zsh -f -i", "autoload -Uz compinit; compinit -D -u; source {}"),
}


@pytest.mark.parametrize("shell", [one for one in INSTALLED if one.values[0] in KEYS])
async def test_the_tab_key_completes_at_a_prompt(shell: str, script: Callable[[str], Path]) -> None:
    start, prepare = KEYS[shell]
    ours, theirs = os.openpty()
    seen = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, lambda: seen.extend(os.read(ours, 65536)))
    process = await asyncio.create_subprocess_exec(
        *start.split(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(script(shell).parent)},
    )
    try:
        # The marker is put together by the shell: its echo on the terminal is another text.
        said = f'{PROGRAM}() {{ echo "got: $*"; }}; PS1="rea""dy> "'
        os.write(ours, f"{prepare.format(script(shell))}; {said}\n".encode())
        await until(lambda: b"ready> " in seen, f"{shell} has read the script")
        os.write(ours, f"{PROGRAM} comp\tzs\t\n".encode())
        await until(lambda: b"got: completion zsh" in seen, f"{shell} completes")
    finally:
        process.kill()
        await process.wait()
        loop.remove_reader(ours)
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_holds_every_command_and_option(shell: str, script: Callable[[str], Path]) -> None:
    text = script(shell).read_text()
    for node in tree().all():
        assert all(word in text for word in node.path)
        for option in node.options:
            for name in option.names:
                assert (f"-l {name[2:]} " if shell == "fish" and name.startswith("--") else name[1:]) in text


def test_nothing_that_is_hidden_is_offered() -> None:
    names = {name for node in tree().all() for option in node.options for name in option.names}
    assert "--worker" not in names
    assert {"--workers", "--server", "--effectiveness"} <= names
