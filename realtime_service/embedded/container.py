"""Servers in containers, through testcontainers, where a Docker engine answers.

Law: what an engine on this machine publishes for us, it publishes on loopback alone. testcontainers is imported where
it is used: it is an extra (`demo`), and its absence is only one way closed.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

from realtime_service.embedded.loopback import LOOPBACK
from realtime_service.embedded.ways import NotOpen, Say

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

Container = TypeVar("Container", bound="DockerContainer")

RABBITMQ_IMAGE: Final = "rabbitmq:4"
DEFAULT_ENGINE: Final = "unix:///var/run/docker.sock"
ENGINE_SECONDS: Final = 5
"""An engine that takes longer to answer a ping is taken as absent."""


def require_docker_engine() -> None:
    """Raises NotOpen when testcontainers is not installed or no engine answers."""
    with _closed_by("no Docker engine answers"):
        from testcontainers.core.docker_client import DockerClient, get_docker_host

        scheme, _, path = (get_docker_host() or DEFAULT_ENGINE).partition("://")
        if scheme == "unix" and not Path(path).is_socket():
            raise FileNotFoundError(f"there is no {path}")  # the client would leave a socket open over it
        docker = DockerClient(timeout=ENGINE_SECONDS).client
        try:
            docker.ping()
        finally:
            docker.close()


@contextmanager
def started(container: Container, say: Say) -> Iterator[Container]:
    """Run a container that publishes ports. Raises NotOpen when it does not start, e.g. without its image."""
    say(f"Starting the container {container.image} …")
    with _closed_by(f"the container {container.image} did not start"):
        _publish_on_loopback(container)
        container.__enter__()
    try:
        yield container
    finally:
        container.stop()


@contextmanager
def rabbitmq_container(*, management: bool, say: Say) -> Iterator[tuple[str, str | None]]:
    """A RabbitMQ in a container: its AMQP URL and, if asked for, its management URL. Raises NotOpen."""
    require_docker_engine()
    from testcontainers.community.rabbitmq import RabbitMqContainer

    image = RABBITMQ_IMAGE + ("-management" if management else "")
    user, password = "realtime", secrets.token_hex(16)
    made = RabbitMqContainer(image, port=5672, username=user, password=password, vhost="/")
    if management:
        made.with_exposed_ports(15672)
    with started(made, say) as container:
        at = f"{user}:{password}@{container.get_container_host_ip()}"
        http = f"http://{at}:{container.get_exposed_port(15672)}" if management else None
        yield f"amqp://{at}:{container.get_exposed_port(5672)}/%2F", http


def _publish_on_loopback(container: "DockerContainer") -> None:
    """Where the engine is on this machine and so are we; from inside a container, its loopback is not ours."""
    engine = container.get_docker_client()
    if engine.get_connection_mode().name == "docker_host" and engine.host() in ("localhost", LOOPBACK):
        # The engine's API takes (address, port) too; testcontainers hands it on and only its annotation says int.
        container.ports = cast("dict[str, int | None]", dict.fromkeys(container.ports, (LOOPBACK, None)))


@contextmanager
def _closed_by(what: str) -> Iterator[None]:
    """Whatever goes wrong inside closes this way: the libraries raise errors of many families."""
    try:
        yield
    except ImportError as error:
        raise NotOpen("testcontainers is not installed (pip install 'realtime-service[demo]')") from error
    except Exception as error:
        raise NotOpen(f"{what}: {type(error).__name__}: {error}") from error
