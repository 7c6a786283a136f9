"""Where the programs of an installed RabbitMQ are."""

import os
import shutil
from pathlib import Path
from typing import Final

_PLACES: Final = (
    # Before PATH: Debian's /usr/sbin/rabbitmq-server is a wrapper that refuses everybody but root and rabbitmq.
    Path("/usr/lib/rabbitmq/bin"),
    Path("/opt/homebrew/sbin"),
    Path("/opt/homebrew/opt/rabbitmq/sbin"),
    Path("/usr/local/sbin"),
    Path("/usr/local/opt/rabbitmq/sbin"),
)


def find_rabbitmq_server() -> Path | None:
    """The server's start script, where the usual packages put it, or on PATH."""
    for place in _PLACES:
        if os.access(place / "rabbitmq-server", os.X_OK):
            return place / "rabbitmq-server"
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


def find_port_mapper() -> str | None:
    """Erlang's name server, run as a child of ours: one that the VM starts by itself would stay behind."""
    found = shutil.which("epmd")
    erlang = shutil.which("erl")
    if found is None and erlang:
        inside = sorted(Path(erlang).resolve().parents[1].glob("**/epmd"))
        found = str(inside[0]) if inside else None
    return found
