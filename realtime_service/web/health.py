"""For machines that operate the service: probes, metrics and the documents of the contract.

Law: liveness looks at nothing but this process. A probe that asked the broker would make an orchestrator
restart every replica when the broker is away, and so drop every client.
"""

import hashlib
from importlib.resources import files
from typing import Final

from aiohttp import ETag, hdrs, web
from prometheus_client.aiohttp import make_aiohttp_handler

from contracts.http import Health
from realtime_service.web.keys import READINESS, REGISTRY
from realtime_service.web.problems import Handler

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
        *(web.get(f"/{name}", _document(name)) for name in DOCUMENTS),
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


def _document(name: str) -> Handler:
    """Serves a generated file of `contracts`; a client that has it gets 304 (RFC 9110 §13.1.2)."""
    body = files("contracts").joinpath(name).read_bytes()
    etag = hashlib.sha256(body).hexdigest()[:32]

    async def document(request: web.Request) -> web.StreamResponse:
        known = {tag.value for tag in request.if_none_match or ()}
        response = web.Response(status=304) if known & {etag, "*"} else web.Response(body=body)
        if response.status == 200:
            response.content_type = "application/json"
        response.etag = ETag(etag)
        response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        return response

    return document
