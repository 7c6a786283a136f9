"""A Chromium for tests in a real browser: an installed one, else Debian's package, installed where that is allowed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from realtime_service.embedded.ways import Say

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL_SECONDS: Final = 600.0
"""For slow mirrors: some 100 MB."""


class BrowserUnavailable(Exception):
    """There is no Chromium, and none could be installed; `str()` says what helps."""


@contextmanager
def obtain_chromium(say: Say) -> Iterator[Path]:
    """Yield the program. Blocks; raises BrowserUnavailable. Who installs one keeps it."""
    if (found := _find()) is None:
        apt = shutil.which("apt-get")
        if apt is None or os.geteuid() != 0:
            raise BrowserUnavailable(
                "There is no Chromium for the tests in a browser: install it (Debian, Ubuntu: apt-get install chromium)"
            )
        say("Chromium is not here yet: installing the package chromium with apt-get …")
        _run(apt, "update", "-qq")
        _run(
            apt,
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "-o",
            "DPkg::Lock::Timeout=300",
            "chromium",
        )
        found = _find()
    if found is None:
        raise BrowserUnavailable("The package chromium was installed, and there is no program of this name")
    yield found


def _find() -> Path | None:
    return next((Path(program) for name in NAMES if (program := shutil.which(name))), None)


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BrowserUnavailable(f"Chromium could not be installed: {error}") from error
