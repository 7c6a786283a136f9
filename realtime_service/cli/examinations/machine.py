"""The machine: files that a process may have open."""

import resource
from typing import Final

from realtime_service.cli.examinations import good, wrong
from realtime_service.domain.finding import Finding
from realtime_service.settings import Settings

OTHER_FILES: Final = 100
"""Beside the clients' sockets: broker, database, HTTP requests, logs."""


def examine_machine(settings: Settings) -> list[Finding]:
    """All of it; the limits are those of this shell, which a service manager may set otherwise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + OTHER_FILES
    what = "open files"
    if soft == resource.RLIM_INFINITY or soft >= needed:
        limit = "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}"
        return [good(what, f"{limit}, enough for {settings.max_connections} connections")]
    problem = (
        f"REALTIME_MAX_CONNECTIONS promises {settings.max_connections}: beyond some {max(soft - OTHER_FILES, 0)} nobody"
        " is let in, and broker and database cannot be reached again"
    )
    raising = (
        f"ulimit -n {needed}"
        if hard == resource.RLIM_INFINITY or hard >= needed
        else "the hard limit, as root"
    )
    advice = f"raise it ({raising}; systemd: LimitNOFILE={needed}), or lower REALTIME_MAX_CONNECTIONS"
    return [wrong(what, f"up to {soft}", problem, advice)]
