"""nginx and HAProxy with the configurations of `deploy/`: private processes on loopback, with folders of their own.

Installed from the system's packages where they are missing and that is allowed.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from realtime_service.embedded.install import SystemPackage, install
from realtime_service.embedded.loopback import LOOPBACK, answers, free_ports, wait_until
from realtime_service.embedded.watchdog import Watchdog
from realtime_service.embedded.ways import NotOpen, Say
from tests.support.certificates import Authority

Kind = Literal["nginx", "haproxy"]

START_SECONDS: Final = 20.0
PACKAGES: Final[dict[Kind, SystemPackage]] = {
    "nginx": SystemPackage(title="nginx", apt="nginx", service="nginx", brew="nginx"),
    "haproxy": SystemPackage(title="HAProxy", apt="haproxy", service="haproxy", brew="haproxy"),
}
DEPLOY: Final = Path(__file__).parents[2] / "deploy"
SITES: Final = ("realtime-1:8000", "realtime-2:8000")
"""What the configurations call the replicas."""


class BalancerUnavailable(Exception):
    """It is not installed, and could not be; `str()` says what helps."""


@contextmanager
def obtain_balancers(say: Say) -> Iterator[dict[Kind, Path]]:
    """Yield the programs. Raises BalancerUnavailable. Who installs one keeps it."""
    programs = {}
    for kind, package in PACKAGES.items():
        if (found := _find(kind)) is None:
            try:
                install(package, say)
            except NotOpen as error:
                raise BalancerUnavailable(f"There is no {package.title} for the tests: {error}") from error
            found = _find(kind)
        if found is None:
            raise BalancerUnavailable(f"{package.title} was installed, and there is no program of this name")
        programs[kind] = found
    yield programs


def _find(program: str) -> Path | None:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Balancer:
    """One that runs."""

    port: int
    authority: Authority
    directory: Path

    def url(self, path: str) -> str:
        """Where clients go."""
        return f"wss://localhost:{self.port}{path}"

    def said(self) -> str:
        """All that it logged."""
        return (self.directory / "log").read_text(errors="replace")


@contextmanager
def running_balancer(
    kind: Kind, program: Path, replicas: Sequence[str], *, dead: Sequence[str] = ()
) -> Iterator[Balancer]:
    """Start it in front of two replicas (`host:port`), after its own check of the configuration."""
    directory = Path(tempfile.mkdtemp(prefix=f"realtime-{kind}-"))
    watchdog = Watchdog(directory)
    try:
        authority = Authority(directory / "tls")
        (port,) = free_ports(1)
        arguments = _configure(kind, directory, authority, port, [*replicas, *dead])
        checked = subprocess.run(
            [program, *arguments, "-t" if kind == "nginx" else "-c"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        assert checked.returncode == 0, checked.stderr
        assert "[warn]" not in checked.stderr, checked.stderr
        assert "WARNING" not in checked.stderr, checked.stderr
        running = [*arguments, "-g", "daemon off;"] if kind == "nginx" else [*arguments, "-db"]
        process = watchdog.start(
            [program, *running], environment=os.environ, log=directory / "log", farewell=signal.SIGTERM
        )
        up = wait_until(lambda: answers(port) or not watchdog.running(process), START_SECONDS)
        assert up, (directory / "log").read_text()
        assert watchdog.running(process), (directory / "log").read_text()
        yield Balancer(port, authority, directory)
    finally:
        watchdog.close()


def _configure(
    kind: Kind, directory: Path, authority: Authority, port: int, servers: Sequence[str]
) -> list[str]:
    """Write what is deployed, with this machine's ports and folders in it. Returns the arguments that name it."""
    issued = authority.issue("localhost", LOOPBACK)
    own = directory / kind
    own.mkdir()
    if kind == "nginx":
        text = (DEPLOY / "nginx/nginx.conf").read_text()
        changes = {
            "/etc/nginx/tls/tls.crt": str(issued.certificate),
            "/etc/nginx/tls/tls.key": str(issued.key),
            "/tmp/nginx": str(own),  # noqa: S108  # a name in the text
            "listen 443 ssl": f"listen {LOOPBACK}:{port} ssl",
            "server_name realtime.example": "server_name localhost",
            "worker_processes auto": "worker_processes 1",
            "worker_rlimit_nofile 131072": "worker_rlimit_nofile 1024",
            "worker_connections 65536": "worker_connections 512",
        }
        arguments = ["-p", str(directory), "-e", "stderr", "-c", str(own / "configuration")]
    else:
        text = (DEPLOY / "haproxy/haproxy.cfg").read_text()
        bundle = own / "realtime.pem"
        bundle.write_bytes(issued.certificate.read_bytes() + issued.key.read_bytes())
        changes = {
            "/etc/haproxy/tls/realtime.pem": str(bundle),
            "bind :443": f"bind {LOOPBACK}:{port}",
            "maxconn 65536": "maxconn 256",
        }
        arguments = ["-f", str(own / "configuration")]
    for site, server in zip(SITES, servers, strict=True):
        changes[site] = server
    for old, new in changes.items():
        assert old in text, f"{kind}: {old} is configured no more"
        text = text.replace(old, new)
    (own / "configuration").write_text(text)
    if os.geteuid() == 0:  # workers give up root, and write there
        directory.chmod(0o755)
    return arguments


def unused_address() -> str:
    """`host:port` on which nobody listens."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return f"{LOOPBACK}:{probe.getsockname()[1]}"
