"""`deploy/grafana`, `deploy/prometheus`, the runbook: metrics and labels that exist, and a paragraph for each alert."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from realtime_service.embedded.loopback import free_ports
from realtime_service.logs import TROUBLES
from realtime_service.metrics import Metrics
from realtime_service.web.access_log import REQUESTS
from tests.deploy.conftest import ROOT, SetUpBroker, printed_by

RULES: Final = ROOT / "deploy/prometheus/alerts.yml"
CASES: Final = ROOT / "tests/deploy/alerts_test.yml"
DASHBOARD: Final = ROOT / "deploy/grafana/realtime.json"
RUNBOOK: Final = (ROOT / "deploy/docs/runbook.md").read_text()
OF_PROMETHEUS: Final = {"up": set[str]()}
OF_RABBITMQ: Final = {
    "rabbitmq_alarms_memory_used_watermark": set[str](),
    "rabbitmq_alarms_free_disk_space_watermark": set[str](),
}
"""A real node shows them: see below."""
EVERYWHERE: Final = {"instance", "job"}


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> Iterator[str]:
    for alert in alerts():
        yield alert["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def shown() -> dict[str, set[str]]:
    """The samples that `/metrics` can show, and their labels."""
    samples = OF_PROMETHEUS | OF_RABBITMQ
    registry = Metrics().registry
    for collector in (*registry._names_to_collectors.values(), TROUBLES, REQUESTS):
        if isinstance(collector, MetricWrapperBase):  # it may have labels of which nothing is shown yet
            for family in collector.describe():
                name = f"{family.name}_total" if family.type == "counter" else family.name
                samples[name] = set(collector._labelnames)
    for family in registry.collect():
        for sample in family.samples:
            samples[sample.name] = samples.get(sample.name, set()) | sample.labels.keys()
    return samples


def named_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:(?:realtime|rabbitmq)_\w+|up)\b", expression))


def labels_in(expression: str) -> set[str]:
    by = [label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(", ")]
    return {*by, *re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression)}


@pytest.mark.parametrize("expression", [*expressions()])
def test_an_expression_speaks_of_metrics_and_labels_that_exist(expression: str) -> None:
    samples, named = shown(), named_in(expression)
    assert named
    assert named <= samples.keys()
    assert labels_in(expression) <= EVERYWHERE.union(*(samples[name] for name in named))


def test_an_expression_that_speaks_of_nothing_would_be_found() -> None:
    assert not named_in("rate(realtime_unheard_of_total[5m])") <= shown().keys()
    assert labels_in('sum by (a, b) (x{c="1", d=~"2"})') == {"a", "b", "c", "d"}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_a_paragraph_in_the_runbook(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert (path, anchor) == ("deploy/docs/runbook.md", alert["alert"].lower())
    (paragraph,) = re.findall(rf"^### {alert['alert']}\n(.+?)(?:\n\n|\Z)", RUNBOOK, re.M | re.S)
    assert len(paragraph) > 100
    assert alert["labels"]["severity"] in ("page", "ticket")


def test_the_runbook_has_no_paragraph_without_alert() -> None:
    assert re.findall(r"^### (\w+)$", RUNBOOK, re.M) == [alert["alert"] for alert in alerts()]


async def test_rabbitmq_shows_what_alerts_ask_it_for(set_up_broker: SetUpBroker) -> None:
    node = set_up_broker.node
    (port,) = free_ports(1)
    plugins = node.directory / "enabled_plugins"
    plugins.write_text("[rabbitmq_management,rabbitmq_prometheus].")
    listener = f'[{{port, {port}}}, {{ip, "127.0.0.1"}}]'
    node.ctl(
        "eval",
        f"application:set_env(rabbitmq_prometheus, tcp_config, {listener}, [{{persistent, true}}]),"
        f'rabbit_plugins:ensure("{plugins}").',
    )
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        shown_by_node = {family.name for family in text_string_to_metric_families(await answer.text())}
    assert OF_RABBITMQ.keys() <= shown_by_node


async def test_prometheus_reads_the_rules(promtool: Path) -> None:
    code, said = await printed_by(str(promtool), "check", "rules", str(RULES))
    assert code == 0, said
    assert f"{len(alerts())} rules found" in said


async def test_every_alert_comes_when_it_should_and_not_on_a_usual_day(
    promtool: Path, tmp_path: Path
) -> None:
    said_of = {alert["alert"]: alert["annotations"] for alert in alerts()}
    cases = yaml.safe_load(CASES.read_text()) | {"rule_files": [str(RULES)]}
    expected = [each for case in cases["tests"] for each in case.get("alert_rule_test", ())]
    assert {each["alertname"] for each in expected if "exp_alerts" in each} == said_of.keys()
    for each in expected:
        for alert in each.get("exp_alerts", ()):
            alert["exp_annotations"] = said_of[each["alertname"]]
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump(cases))
    code, said = await printed_by(str(promtool), "test", "rules", str(path))
    assert code == 0, said
