"""The files of `deploy/` that nothing here can run: read by the programs and schemas of those who run them.

No container engine, no Kubernetes and no systemd is needed for that; what they would make of the files is not tested.
"""

import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from realtime_service.settings import Settings, load_settings
from tests.deploy.conftest import ROOT, printed_by

DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = "1.37"
BIN: Final = Path(sys.executable).parent


def objects() -> Iterator[dict[str, Any]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in objects() if each["kind"] == kind)
    return found


def settings_of(variables: Mapping[str, str], directory: Path) -> Settings:
    """The settings, with every file that is named there."""
    urls = {"REALTIME_AMQP_URL_FILE": "amqp://u:p@h/", "REALTIME_MANAGEMENT_URL_FILE": "http://u:p@h"}
    given = dict(variables)
    for name, path in variables.items():
        if name.endswith("_FILE"):
            made = directory / path.replace("/", "_")
            made.write_text(urls.get(name, "x" * 64))
            given[name] = str(made)
    return load_settings(given)


# The container image


async def test_the_containerfile_has_no_lint() -> None:
    code, said = await printed_by(str(BIN / "hadolint"), str(DEPLOY / "Containerfile"))
    assert (code, said) == (0, "")


def test_the_image_holds_what_is_locked_runs_as_nobody_and_is_told_to_end() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert text.count("\nFROM ") == 2
    assert "--require-hashes" in text
    final = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", final, re.M)
    assert "STOPSIGNAL SIGTERM" in final
    assert "/livez" in final
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == ">=3.11"
    assert "python:3.13" in text


def test_the_image_is_given_every_file_that_it_copies() -> None:
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", (DEPLOY / "Containerfile").read_text(), re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored


# Compose


async def test_compose_reads_its_file() -> None:
    code, said = await printed_by(
        str(BIN / "docker-compose"), "-f", str(DEPLOY / "compose.yaml"), "config", "-q"
    )
    assert (code, said) == (0, "")


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_composed_replicas_know_their_settings_and_have_time_to_drain(compose: Any, tmp_path: Path) -> None:
    for name in ("realtime-1", "realtime-2"):
        replica = compose["services"][name]
        settings = settings_of(replica["environment"], tmp_path)
        assert int(replica["stop_grace_period"].removesuffix("s")) > settings.drain_seconds
        assert replica["read_only"] is True
        assert replica["cap_drop"] == ["ALL"]
        for variable, path in replica["environment"].items():
            if variable.endswith("_FILE"):
                assert path.removeprefix("/run/secrets/") in replica["secrets"]


def test_composed_files_are_there(compose: Any) -> None:
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", ())]
    for source in (volume.partition(":")[0] for volume in mounted):
        assert source in compose["volumes"] or (DEPLOY / source).exists(), source


async def test_the_secrets_of_compose_are_made_once(compose: Any, tmp_path: Path) -> None:
    (tmp_path / "compose").mkdir()
    script = str(shutil.copy(DEPLOY / "compose/secrets.sh", tmp_path / "compose"))
    made = []
    for _ in range(2):
        code, said = await printed_by("sh", script)
        assert (code, said) == (0, "")
        made.append({path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()})
    assert made[0] == made[1]
    secrets = made[0]
    wanted = {Path(each["file"]).name for each in compose["secrets"].values()}
    assert wanted <= secrets.keys()
    password = secrets["rabbitmq_service"].strip()
    assert secrets["amqp_url"] == f"amqp://service:{password}@rabbitmq:5672/realtime"
    assert len({secrets[name] for name in wanted}) == len(wanted)


def test_no_secret_of_compose_can_be_committed() -> None:
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


# Kubernetes


OF_KUBERNETES: Final = [each for each in objects() if "rabbitmq.com" not in each["apiVersion"]]


@pytest.mark.parametrize("given", OF_KUBERNETES, ids=[each["kind"] for each in OF_KUBERNETES])
def test_kubernetes_knows_every_field(given: dict[str, Any]) -> None:
    kubernetes_validate.validate(given, KUBERNETES, strict=True)


def test_pods_have_time_to_drain_and_none_is_missed_meanwhile(tmp_path: Path) -> None:
    deployment = of_kind("Deployment")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    settings = settings_of(of_kind("ConfigMap")["data"], tmp_path)
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before + settings.drain_seconds
    readiness = container["readinessProbe"]
    assert readiness["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    # A drain sends nobody away before 30 % of its time: the endpoints are told by then.
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= before + 0.3 * settings.drain_seconds
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_pods_may_do_nothing_but_serve() -> None:
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_pods_are_scaled_by_a_metric_that_exists_and_below_their_limit() -> None:
    (metric,) = of_kind("HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f'"{name}"' in (ROOT / "realtime_service/metrics.py").read_text()
    assert int(metric["pods"]["target"]["averageValue"]) < load_settings({}).max_connections / 2


def test_the_inside_is_not_reachable_through_the_ingress() -> None:
    (rule,) = of_kind("Ingress")["spec"]["rules"]
    paths = [path["path"] for path in rule["http"]["paths"]]
    assert not any(inner.startswith(path) for path in paths for inner in ("/metrics", "/readyz", "/console"))


def test_the_broker_of_the_cluster_operator_reads_the_definitions_by_tls_alone() -> None:
    """Its resource has no published schema at hand."""
    spec = of_kind("RabbitmqCluster")["spec"]
    assert spec["tls"]["disableNonTLSListeners"] is True
    (container,) = spec["override"]["statefulSet"]["spec"]["template"]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    assert f"load_definitions = {mount['mountPath']}/definitions.json" in spec["rabbitmq"]["additionalConfig"]


def test_no_more_than_one_pod_of_a_kind_is_taken_away_at_once() -> None:
    """Replicas by their labels, and the broker by those that its operator gives."""
    budgets = [each["spec"] for each in objects() if each["kind"] == "PodDisruptionBudget"]
    assert all(budget["maxUnavailable"] == 1 for budget in budgets)
    selected = {budget["selector"]["matchLabels"]["app.kubernetes.io/name"] for budget in budgets}
    assert selected == {of_kind(kind)["metadata"]["name"] for kind in ("Deployment", "RabbitmqCluster")}


# systemd


@pytest.fixture
def unit() -> str:
    return (DEPLOY / "systemd/realtime-service.service").read_text()


def test_the_unit_has_time_to_drain_and_reads_secrets_from_files(unit: str) -> None:
    drain = re.search(r"REALTIME_DRAIN_SECONDS=(\d+)", unit)
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert drain
    assert stop
    assert int(stop[1]) > int(drain[1])
    named = set(re.findall(r"REALTIME_\w+_FILE=%d/(\w+)", unit))
    assert named == set(re.findall(r"^LoadCredential=(\w+):", unit, re.M))
    assert named


SYSTEMD_ANALYZE: Final = shutil.which("systemd-analyze")


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="no systemd on this machine")
async def test_systemd_verifies_the_unit_and_finds_it_hardened(unit: str, tmp_path: Path) -> None:
    assert SYSTEMD_ANALYZE is not None
    program = tmp_path / "realtime-service"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "realtime-service.service"
    path.write_text(unit.replace("/opt/realtime-service/bin/realtime-service", str(program)))
    code, said = await printed_by(SYSTEMD_ANALYZE, "verify", "--man=no", str(path))
    assert (code, said) == (0, "")
    code, said = await printed_by(
        SYSTEMD_ANALYZE, "security", "--offline=true", "--threshold=20", "--no-pager", str(path)
    )
    assert code == 0, said
