"""Installs a server from the system's own packages, where that is allowed.

Law: it is said before it is done, and no service is left running or enabled: a server that takes its standard port is
not what was asked for.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtime_service.embedded.ways import NotOpen, Say

INSTALL_SECONDS: Final = 900.0
"""For slow mirrors; some 30 s are usual."""
POLICY: Final = Path("/usr/sbin/policy-rc.d")
"""Debian asks this script before a package starts its service; 101 means: no (invoke-rc.d(8))."""

_WAIT_FOR_OTHERS: Final = ("-o", "DPkg::Lock::Timeout=300")


@dataclass(frozen=True, slots=True)
class SystemPackage:
    """What a server is called where."""

    title: str
    apt: str
    """Package of Debian and Ubuntu."""
    service: str
    """The service that the Debian package would start."""
    brew: str
    """Formula of Homebrew."""


def install(package: SystemPackage, say: Say, *, root: bool | None = None, policy: Path = POLICY) -> None:
    """Install it with apt-get (as root) or Homebrew (not as root). Raises NotOpen with the reason."""
    apt, brew = shutil.which("apt-get"), shutil.which("brew")
    root = os.geteuid() == 0 if root is None else root
    if apt and root:
        say(f"{package.title} is not here yet: installing the package {package.apt} with apt-get …")
        with _services_stay_off(package.service, policy):
            _run([apt, "update", "-qq"])
            _run([apt, "install", "-y", "-qq", "--no-install-recommends", *_WAIT_FOR_OTHERS, package.apt])
    elif brew and not root:
        say(f"{package.title} is not here yet: installing {package.brew} with Homebrew …")
        _run([brew, "install", "--quiet", package.brew])
    elif apt:
        raise NotOpen(f"installing {package.apt} needs root")
    else:
        raise NotOpen("there is no apt-get or brew to install it with")


@contextmanager
def _services_stay_off(service: str, policy: Path) -> Iterator[None]:
    """Keep the package from starting its service, now and at the next boot, unless it was there before."""
    known = Path("/etc/init.d", service).exists()
    forbid = not policy.exists()  # container images bring one; it is not ours to remove
    if forbid:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if forbid:
            policy.unlink(missing_ok=True)
    update = shutil.which("update-rc.d")
    if update and not known:
        _run([update, service, "disable"])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "HOMEBREW_NO_AUTO_UPDATE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotOpen(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise NotOpen(f"{' '.join(command)} failed:\n{last}")
