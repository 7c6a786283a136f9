"""A process that ends what its owner started, however the owner ends.

Law: nothing started through a watchdog outlives the owner, and neither does the directory, not even after `kill -9`.
The watchdog holds the reading end of a pipe whose writing end only the owner has: when the owner is gone, the kernel
closes it. It lives in a session of its own, so that Ctrl-C in a terminal reaches the owner alone, which then stops
gracefully with its servers still there.

One file in two roles: `Watchdog` is the owner's side; run as a script (standard library alone, it starts in some
20 ms), it is the process. They speak JSON, a line each way.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

FAREWELL_SECONDS: Final = 10.0
"""How long a process may take over a polite signal before it is killed."""
GROUP_SECONDS: Final = 2.0
"""How long a killed process' own children may take to vanish; in a container without an init they stay as zombies."""
CLOSE_SECONDS: Final = 30.0


class WatchdogFailure(Exception):
    """The watchdog could not do what it was asked; the text is the system's reason."""


class Watchdog:
    """The owner's side: starts and ends processes that die with this process, and a directory that is removed then."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # else whoever reads our standard error to its end waits for the watchdog
            start_new_session=True,
            cwd="/",
        )
        self.pid = self._process.pid
        assert self._process.stdin
        assert self._process.stdout
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def start(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        user: str | None = None,
        farewell: signal.Signals = signal.SIGKILL,
    ) -> int:
        """Start a process in a process group of its own; its output is appended to `log`. Returns its pid.

        `user` runs it as another user (needs root); `farewell` is the signal that it is ended with.
        """
        words = [str(word) for word in command]
        answer = self._ask(
            do="start", argv=words, env=dict(environment), log=str(log), user=user, farewell=int(farewell)
        )
        return int(answer["pid"])

    def running(self, pid: int) -> bool:
        """Whether a process that was started here still runs."""
        return bool(self._ask(do="poll", pid=pid)["running"])

    def end(self, pid: int, farewell: signal.Signals | None = None) -> None:
        """End a process and its group; return when they are gone."""
        self._ask(do="end", pid=pid, farewell=None if farewell is None else int(farewell))

    def close(self) -> None:
        """End everything and remove the directory; return when that is done."""
        with suppress(BrokenPipeError):
            self._questions.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        finally:
            self._answers.close()

    def _ask(self, **request: object) -> dict[str, Any]:
        try:
            self._questions.write(json.dumps(request).encode() + b"\n")
            self._questions.flush()
            line = self._answers.readline()
        except (BrokenPipeError, ValueError) as error:
            raise WatchdogFailure("the watchdog is gone") from error
        if not line:
            raise WatchdogFailure("the watchdog is gone")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WatchdogFailure(answer["error"])
        return answer


class _Kennel:
    """The process' side: the children, and how each is ended."""

    def __init__(self) -> None:
        self._children: dict[int, tuple[subprocess.Popen[bytes], int]] = {}

    def obey(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one line asks; the answer is the other line."""
        match request.pop("do"):
            case "start":
                return {"pid": self._start(**request)}
            case "poll":
                child = self._children.get(request["pid"])
                return {"running": child is not None and child[0].poll() is None}
            case "end":
                self._end(**request)
                return {}
            case other:
                return {"error": f"no such request: {other}"}

    def end_all(self) -> None:
        for pid in reversed(list(self._children)):
            self._end(pid)

    def _start(self, argv: list[str], env: dict[str, str], log: str, user: str | None, farewell: int) -> int:
        account = pwd.getpwnam(user) if user else None
        with Path(log).open("ab") as output:
            child = subprocess.Popen(
                argv,
                env=env,
                cwd=Path(log).parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        self._children[child.pid] = (child, farewell)
        return child.pid

    def _end(self, pid: int, farewell: int | None = None) -> None:
        if pid not in self._children:
            return
        child, usual = self._children.pop(pid)
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            # A stopped process (SIGSTOP) obeys no signal but SIGKILL before it goes on.
            os.killpg(pid, signal.SIGCONT)
            child.send_signal(usual if farewell is None else farewell)
            child.wait(FAREWELL_SECONDS)
        limit = time.monotonic() + GROUP_SECONDS
        with suppress(ProcessLookupError, PermissionError):  # the system's two words for "nobody is left"
            while time.monotonic() < limit:
                child.poll()
                os.killpg(pid, signal.SIGKILL)
                time.sleep(0.01)
        child.wait()


def main(directory: str) -> None:
    """Obey until the owner closes the pipe or dies; then end every process and remove the directory."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler and not SIG_IGN, which the children would inherit. Whoever signals everybody at once (a service
        # manager, a closing terminal) means the owner; it may still need its servers.
        signal.signal(number, lambda *_: None)
    kennel = _Kennel()
    try:
        for line in sys.stdin.buffer:
            try:
                answer = kennel.obey(json.loads(line))
            except (OSError, KeyError, ValueError) as error:
                answer = {"error": str(error)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # the owner died between question and answer
    finally:
        kennel.end_all()
        limit = time.monotonic() + GROUP_SECONDS
        while Path(directory).exists() and time.monotonic() < limit:
            shutil.rmtree(directory, ignore_errors=True)
            time.sleep(0.01)  # and again, for a file that a dying process just wrote


if __name__ == "__main__":
    main(sys.argv[1])
