"""Probes, metrics, documents."""

import gzip
import json
from importlib.resources import files

import pytest
from aiohttp import ClientSession
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from contracts.http import Health
from tests.web.application import serving


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
async def test_the_process_is_alive_whatever_is_away(path: str) -> None:
    async with serving() as service:
        service.readiness.checks = {"broker": "unavailable", "database": "unavailable"}
        answer, body = await service.ask("GET", path)
    assert answer.status == 200
    assert body == {"status": "ok", "checks": {}}


async def test_ready_is_200_when_every_part_is_ok() -> None:
    async with serving() as service:
        answer, body = await service.ask("GET", "/readyz")
    assert answer.status == 200
    assert Health(**body) == Health(status="ok", checks={"broker": "ok", "database": "ok"})


@pytest.mark.parametrize("part", ["broker", "database"])
async def test_not_ready_is_503_and_names_the_part(part: str) -> None:
    async with serving() as service:
        service.readiness.checks[part] = "unavailable"
        answer, body = await service.ask("GET", "/readyz")
    assert answer.status == 503
    assert body["status"] == "unavailable"
    assert body["checks"][part] == "unavailable"


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
async def test_probes_are_kept_in_no_cache_and_need_no_token(path: str) -> None:
    async with serving() as service:
        answer, _ = await service.ask("GET", path)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json"])
async def test_head_answers_like_get_without_a_body(path: str) -> None:
    async with serving() as service:
        answer, body = await service.ask("HEAD", path)
    assert answer.status == 200
    assert body is None


async def test_metrics_are_those_of_the_registry_it_was_given() -> None:
    async with serving() as service:
        Counter("realtime_things", "Things that happened", registry=service.registry).inc(3)
        async with service.session.get(service.url("/metrics")) as answer:
            text = await answer.text()
    assert answer.status == 200
    assert answer.content_type == "text/plain"
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.name: sample.value for sample in samples}["realtime_things_total"] == 3


async def test_metrics_are_packed_for_scrapers_that_can_unpack() -> None:
    async with serving() as service, ClientSession(auto_decompress=False) as session:
        Counter("realtime_things", "Things that happened", registry=service.registry)
        url = service.url("/metrics")
        async with session.get(url, headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert b"realtime_things_total" in gzip.decompress(await answer.read())


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
async def test_the_documents_of_the_contract_are_served_as_they_stand(name: str) -> None:
    async with serving() as service:
        answer, document = await service.ask("GET", f"/{name}")
    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert document == json.loads(files("contracts").joinpath(name).read_text(encoding="utf-8"))


async def test_a_document_that_the_client_has_is_not_sent_again() -> None:
    async with serving() as service:
        first, _ = await service.ask("GET", "/openapi.json")
        again, body = await service.ask(
            "GET", "/openapi.json", headers={"If-None-Match": first.headers["ETag"]}
        )
        other, _ = await service.ask("GET", "/openapi.json", headers={"If-None-Match": '"another"'})
    assert (again.status, body) == (304, None)
    assert again.headers["ETag"] == first.headers["ETag"]
    assert other.status == 200
