"""A RabbitMQ to work with, whatever the machine has: what `make run` and the tests ask for.

Law, the order: the broker that is named; else a private node of an installed server; else a container; else the server
is installed, after saying so; else one message with the ways out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from realtime_service.embedded.container import rabbitmq_container
from realtime_service.embedded.install import SystemPackage, install
from realtime_service.embedded.node import BrokerUnavailable, PrivateRabbitMQ, start_private_rabbitmq
from realtime_service.embedded.programs import find_rabbitmq_server
from realtime_service.embedded.ways import AllClosed, NotOpen, Say, first_open

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "PrivateRabbitMQ",
    "find_rabbitmq_server",
    "obtain_broker",
    "start_private_rabbitmq",
]

PACKAGE: Final = SystemPackage(
    title="RabbitMQ", apt="rabbitmq-server", service="rabbitmq-server", brew="rabbitmq"
)

_WAYS_OUT: Final = """\
There is no RabbitMQ to work with. Any one of these helps:
  1. name a broker that runs: {setting}=amqp://user:password@host:5672/
  2. install the server: apt-get install rabbitmq-server (Debian, Ubuntu), brew install rabbitmq (macOS);
     a private node is then started from it, the machine's own is not used
  3. start a Docker engine
What was tried:
{reasons}"""


@dataclass(frozen=True, slots=True)
class Broker:
    """A RabbitMQ, for as long as its context lasts."""

    amqp_url: str = field(repr=False)
    management_url: str | None = field(repr=False)
    """`http://user:password@host:port`; None when it was not asked for, or the broker is somebody else's."""
    source: Literal["given", "private", "container"]
    node: PrivateRabbitMQ | None = None
    """The private node, where it is one."""


@contextmanager
def obtain_broker(
    env_url: str | None,
    *,
    management: bool,
    say: Say,
    find: Callable[[], Path | None] = find_rabbitmq_server,
    setting: str = "REALTIME_AMQP_URL",
) -> Iterator[Broker]:
    """Yield a broker; one that was started for it is gone afterwards. Blocks; raises BrokerUnavailable.

    `say` is told before something is started or installed, `find` looks for an installed server, and `setting` is the
    name of the variable that `env_url` comes from.
    """

    @contextmanager
    def given() -> Iterator[Broker]:
        if not env_url:
            raise NotOpen(f"{setting} is not set")
        yield Broker(env_url, None, "given")

    @contextmanager
    def private() -> Iterator[Broker]:
        server = find()
        if server is None:
            raise NotOpen("no rabbitmq-server is installed")
        say(f"Starting a private RabbitMQ node ({server}) …")
        try:
            node = start_private_rabbitmq(management=management, server=server)
        except BrokerUnavailable as error:
            raise NotOpen(str(error)) from error
        try:
            yield Broker(node.amqp_url, node.management_url, "private", node)
        finally:
            node.stop()

    @contextmanager
    def container() -> Iterator[Broker]:
        with rabbitmq_container(management=management, say=say) as (amqp_url, management_url):
            yield Broker(amqp_url, management_url, "container")

    @contextmanager
    def installed() -> Iterator[Broker]:
        if find() is not None:
            raise NotOpen("a rabbitmq-server is installed already")
        install(PACKAGE, say)
        with private() as broker:
            yield broker

    try:
        with first_open([given, private, container, installed]) as broker:
            yield broker
    except AllClosed as error:
        raise BrokerUnavailable(_WAYS_OUT.format(setting=setting, reasons=error)) from None
