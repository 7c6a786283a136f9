"""What makes a private node nobody else's: its files and its environment.

Law: everything that a default would take from the machine (files under /etc, the cookie in a home directory, standard
ports, all interfaces) is named here.
"""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from realtime_service.embedded.loopback import LOOPBACK, free_ports

_BROKER: Final = """\
listeners.tcp.local = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
default_user_tags.administrator = true
# The same everywhere, so that what blocks publishers does not depend on the machine.
vm_memory_high_watermark.absolute = 768MB
disk_free_limit.absolute = 50MB
# A session has a channel of its own, and the default of 2047 on a connection is soon reached. 0: 65535.
channel_max = 0
log.console = false
"""
_MANAGEMENT: Final = """\
management.tcp.ip = 127.0.0.1
management.tcp.port = {management_port}
# Milliseconds; the default of 5 s shows a queue's length too late to be watched.
collect_statistics_interval = 1000
"""
_ON_LOOPBACK: Final = "-kernel inet_dist_use_interface {127,0,0,1}"
_WITHOUT_SPINNING: Final = "+sbwt none +sbwtdcpu none +sbwtdio none"
"""Schedulers that wait asleep: the cores belong to the service and to its tests."""


def _random(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class NodeConfiguration:
    """One node's names, ports and places."""

    directory: Path
    management: bool
    more: str = ""
    """Lines of its `rabbitmq.conf` beside our own."""
    node: str = field(default_factory=lambda: _random("realtime") + "@localhost")
    user: str = field(default_factory=lambda: _random("realtime"))
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    ports: list[int] = field(default_factory=lambda: free_ports(4))

    @property
    def port(self) -> int:
        """Of AMQP."""
        return self.ports[0]

    @property
    def management_port(self) -> int:
        """Of the management plugin."""
        return self.ports[1]

    @property
    def mapper_port(self) -> int:
        """Of epmd, which tells Erlang nodes each other's ports."""
        return self.ports[2]

    @property
    def console(self) -> Path:
        """What the programs print."""
        return self.directory / "console.log"

    @property
    def log(self) -> Path:
        """What the broker logs."""
        return self.directory / "log" / f"{self.node}.log"

    @property
    def pid_file(self) -> Path:
        """Written by the Erlang VM."""
        return self.directory / "pid"

    def write(self) -> None:
        """Write the files that the node reads."""
        for name in ("log", "conf.d"):
            (self.directory / name).mkdir()
        broker = _BROKER.format(port=self.port, user=self.user, password=self.password)
        management = _MANAGEMENT.format(management_port=self.management_port) if self.management else ""
        files = {
            ".erlang.cookie": secrets.token_hex(16),
            "rabbitmq.conf": broker + management + self.more,
            "enabled_plugins": "[rabbitmq_management]." if self.management else "[].",
            "rabbitmq-env.conf": "",
        }
        for name, text in files.items():
            path = self.directory / name
            path.touch(mode=0o600)  # Erlang refuses a cookie that others may read
            path.write_text(text)

    def environment(self) -> dict[str, str]:
        """The environment of the server, of epmd and of rabbitmqctl."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "ELIXIR_")) and name != "NOTIFY_SOCKET"
        }
        at = self.directory
        return inherited | {
            "HOME": str(at),  # where Erlang looks for the cookie
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.ports[3]),
            "RABBITMQ_MNESIA_BASE": str(at / "data"),
            "RABBITMQ_LOG_BASE": str(at / "log"),
            "RABBITMQ_PID_FILE": str(self.pid_file),
            "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq.conf"),
            # Named although empty: the defaults are the machine's files under /etc.
            "RABBITMQ_CONFIG_FILES": str(at / "conf.d" / "*.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(at / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_ON_LOOPBACK} {_WITHOUT_SPINNING}",
            # rabbitmqctl is an Erlang node too, and listens while it runs.
            "RABBITMQ_CTL_ERL_ARGS": _ON_LOOPBACK,
            # The start script then becomes the VM, as under a service manager, instead of standing before it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
