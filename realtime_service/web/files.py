"""Files of this package that clients load: read once, served with an ETag and no guess at their type."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from aiohttp import ETag, hdrs, web

from realtime_service.web.problems import Handler

CLIENTS: Final = {
    "client.js": "text/javascript",
    "client.d.ts": "text/plain",
    "client.dart": "text/plain",
}
"""The reference clients: public, and for pages of any origin (a module script is fetched with CORS)."""


def client_routes() -> list[web.RouteDef]:
    """`/client.js` and its like."""
    headers: dict[str, str] = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*"}
    return [
        web.get(f"/{name}", serving(static(name), content_type, headers))
        for name, content_type in CLIENTS.items()
    ]


def static(name: str) -> bytes:
    """A file of `realtime_service/web/static`."""
    return files("realtime_service.web").joinpath("static", name).read_bytes()


def serving(body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> Handler:
    """Serves text (UTF-8); a client that has it gets 304 (RFC 9110 §13.1.2)."""
    etag = hashlib.sha256(body).hexdigest()[:32]
    charset = "utf-8" if content_type.startswith("text/") else None
    always = {hdrs.CACHE_CONTROL: "no-cache", "X-Content-Type-Options": "nosniff", **(headers or {})}

    async def serve(request: web.Request) -> web.StreamResponse:
        known = {tag.value for tag in request.if_none_match or ()}
        if known & {etag, "*"}:
            response = web.Response(status=304, headers=always)
        else:
            response = web.Response(body=body, content_type=content_type, charset=charset, headers=always)
        response.etag = ETag(etag)
        return response

    return serve
