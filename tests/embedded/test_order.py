"""Where a broker comes from: the order of the sources, and what is said when none is left."""

from pathlib import Path

import pytest

from realtime_service.embedded.install import SystemPackage, install
from realtime_service.embedded.rabbitmq import Broker, BrokerUnavailable, find_rabbitmq_server, obtain_broker
from realtime_service.embedded.ways import NotOpen

PACKAGE = SystemPackage(title="Thing", apt="thing-server", service="thing", brew="thing")


@pytest.fixture
def said() -> list[str]:
    """What the person in front of the screen was told."""
    return []


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No programs but those in the folder returned, and no Docker engine."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    return tmp_path


def nothing_is_installed() -> None:
    """Finds no server."""


def put_program(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_named_broker_comes_before_all_others_and_nothing_is_started(said: list[str]) -> None:
    def nobody_looks() -> Path | None:
        raise AssertionError("looked for a server although a broker was named")

    with obtain_broker(
        "amqp://u:p@broker.example/", management=True, say=said.append, find=nobody_looks
    ) as broker:
        assert broker == Broker("amqp://u:p@broker.example/", None, "given")
    assert said == []


def test_an_installed_server_comes_before_containers_and_installing(broker: Broker) -> None:
    if find_rabbitmq_server() is None or broker.source == "given":
        pytest.skip("this run was given its broker, or has it from a container")
    assert broker.source == "private"
    assert broker.node is not None


@pytest.mark.usefixtures("bare_machine")
def test_without_server_engine_and_package_manager_one_message_names_the_ways_out(said: list[str]) -> None:
    with (
        pytest.raises(BrokerUnavailable) as refused,
        obtain_broker(None, management=False, say=said.append, find=nothing_is_installed),
    ):
        pass
    message = str(refused.value)
    advice, tried = message.split("What was tried:")
    for way_out in ("REALTIME_AMQP_URL=amqp://", "apt-get install rabbitmq-server", "Docker engine"):
        assert way_out in advice
    in_order = [
        "REALTIME_AMQP_URL is not set",
        "no rabbitmq-server",
        "no Docker engine",
        "no apt-get or brew",
    ]
    assert [tried.index(reason) for reason in in_order] == sorted(tried.index(reason) for reason in in_order)
    assert said == []


def test_a_server_that_does_not_start_is_reported_in_its_own_words(bare_machine: Path) -> None:
    put_program(bare_machine, "rabbitmq-server", "echo no space left on device; exit 1")
    put_program(bare_machine, "epmd", "exec /bin/sleep 60")
    with (
        pytest.raises(BrokerUnavailable, match="no space left on device"),
        obtain_broker(
            None, management=False, say=print, find=lambda: bare_machine / "rabbitmq-server", setting="X"
        ),
    ):
        pass


def test_installing_is_announced_and_leaves_no_service_running(bare_machine: Path, said: list[str]) -> None:
    policy, log = bare_machine / "policy-rc.d", bare_machine / "log"
    # What apt-get was asked, and what the package would have been told about starting its service.
    put_program(bare_machine, "apt-get", f'echo "apt-get $*" >> {log}; {policy}; echo "policy $?" >> {log}')
    put_program(bare_machine, "update-rc.d", f'echo "update-rc.d $*" >> {log}')

    def say(line: str) -> None:
        assert not log.exists(), "it was said after it was done"
        said.append(line)

    install(PACKAGE, say, root=True, policy=policy)
    assert "thing-server" in said[0]
    assert not policy.exists()
    update, first_policy, installed, second_policy, service = log.read_text().splitlines()
    assert update.startswith("apt-get update")
    assert installed.startswith("apt-get install")
    assert "--no-install-recommends" in installed
    assert installed.endswith(" thing-server")
    assert first_policy == second_policy == "policy 101"
    assert service == "update-rc.d thing disable"


def test_a_policy_that_was_there_before_stays(bare_machine: Path) -> None:
    put_program(bare_machine, "apt-get", "exit 0")
    put_program(bare_machine, "policy-rc.d", "exit 101")
    install(PACKAGE, print, root=True, policy=bare_machine / "policy-rc.d")
    assert (bare_machine / "policy-rc.d").exists()


def test_a_failed_installation_says_what_the_package_manager_said(bare_machine: Path) -> None:
    put_program(bare_machine, "apt-get", "echo E: Unable to locate package; exit 100")
    with pytest.raises(NotOpen, match="Unable to locate package"):
        install(PACKAGE, print, root=True, policy=bare_machine / "policy-rc.d")
    assert not (bare_machine / "policy-rc.d").exists()


@pytest.mark.parametrize(
    ("program", "root", "reason"), [("apt-get", False, "needs root"), ("brew", True, "no apt-get or brew")]
)
def test_installing_is_refused_to_whom_the_system_refuses_it(
    bare_machine: Path, said: list[str], program: str, root: bool, reason: str
) -> None:
    put_program(bare_machine, program, "exit 0")
    with pytest.raises(NotOpen, match=reason):
        install(PACKAGE, said.append, root=root)
    assert said == []
