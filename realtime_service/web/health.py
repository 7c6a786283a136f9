"""For machines that operate the service: probes, metrics and the documents of the contract.

Law: liveness looks at nothing but this process. A probe that asked the broker would make an orchestrator
restart every replica when the broker is away, and so drop every client.
"""

from importlib.resources import files
from typing import Final

from aiohttp import hdrs, web
from prometheus_client.aiohttp import make_aiohttp_handler

from contracts.http import Health
from realtime_service.web.files import serving
from realtime_service.web.keys import READINESS, REGISTRY

OK: Final = "ok"
"""What `Readiness.check` says of a part that works."""
DOCUMENTS: Final = ("openapi.json", "asyncapi.json")


def routes() -> list[web.RouteDef]:
    """The routes; the documents are read here, once. They need READINESS and REGISTRY."""
    return [
        web.get("/livez", _livez),
        web.get("/healthz", _livez),
        web.get("/readyz", _readyz),
        web.get("/metrics", _metrics),
        *(web.get(f"/{name}", serving(_document(name), "application/json")) for name in DOCUMENTS),
    ]


async def _livez(request: web.Request) -> web.StreamResponse:
    return _health(Health(status="ok"))


async def _readyz(request: web.Request) -> web.StreamResponse:
    checks = await request.app[READINESS].check()
    ready = all(found == OK for found in checks.values())
    return _health(Health(status="ok" if ready else "unavailable", checks=checks))


async def _metrics(request: web.Request) -> web.StreamResponse:
    return await make_aiohttp_handler(request.app[REGISTRY])(request)


def _health(health: Health) -> web.Response:
    return web.Response(
        status=200 if health.status == "ok" else 503,
        body=health.model_dump_json().encode(),
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )


def _document(name: str) -> bytes:
    """A generated file of `contracts`."""
    return files("contracts").joinpath(name).read_bytes()
