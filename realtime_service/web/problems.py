"""Every error of an HTTP route as RFC 9457 problem details.

Law: a problem says which rule was broken, never what was sent, and nothing at all about a failure of our own.
A request that aiohttp cannot read as HTTP never gets here: aiohttp answers it by itself, as plain text.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import hdrs, web

from contracts.http import PROBLEM_JSON, Problem
from realtime_service.domain.errors import (
    EventInvalid,
    NotAllowed,
    NotAuthenticated,
    PublishError,
    TokenExpired,
    Unavailable,
)

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS: Final = 2
"""What a 503 asks for: about as long as a lost broker connection takes to come back."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TITLES: Final = {
    413: "Content Too Large",
    422: "Unprocessable Content",
}  # RFC 9110 §15.5; Python 3.11 has older names
_DETAILS: Final = {
    400: "the request cannot be understood",
    404: "there is no such route",
    405: "the route does not know this method; the header Allow says which it knows",
    413: "the body is too large",
    417: "the header Expect asks for something unknown",
    503: "not now; repeat the request",
}


class HttpProblem(Exception):
    """Ends a request with a problem. `detail` and `errors` are public."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def response(self) -> web.Response:
        """The answer."""
        return web.Response(
            status=self.status,
            body=problem_body(self.status, self.detail, self.errors),
            content_type=PROBLEM_JSON,
            headers={hdrs.CACHE_CONTROL: "no-store"} | dict(self.headers or {}),
        )


def problem_body(status: int, detail: str, errors: Sequence[str] | None = None) -> bytes:
    """The JSON of a problem; its title is the status' name, as RFC 9457 §4.2.1 asks for `about:blank`."""
    problem = Problem(
        title=title(status), status=status, detail=detail, errors=None if errors is None else list(errors)
    )
    return problem.model_dump_json().encode()


def title(status: int) -> str:
    """The status' name (RFC 9110 §15)."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def install(app: web.Application) -> None:
    """Make every error of every route of `app` a problem."""
    app.middlewares.append(_answer_problems)
    app.on_response_prepare.append(_rewrite_aiohttp_error)


@web.middleware
async def _answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what a handler raises. Nothing that was answered, or upgraded, is touched."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        if request.method != hdrs.METH_OPTIONS:
            raise
        allowed = sorted({*error.allowed_methods, hdrs.METH_OPTIONS})
        return web.Response(status=204, headers={hdrs.ALLOW: ", ".join(allowed)})
    except web.HTTPException:
        raise  # `_rewrite_aiohttp_error` sees it
    except Exception as error:
        if request.writer.output_size > 0:
            raise  # headers are out: nothing but the end of the connection can be said
        if problem := _known(error):
            return problem.response()
        log.exception("request_failed", method=request.method, route=_route(request))
        return HttpProblem(500, "the request failed here; it was noted").response()


async def _rewrite_aiohttp_error(request: web.Request, response: web.StreamResponse) -> None:
    """Turn the answers of aiohttp (404, 405, 417, a failed handshake) into problems: they quote requests."""
    if not isinstance(response, web.HTTPException) or response.status < 400:
        return
    detail = _DETAILS.get(response.status, title(response.status))
    response.body = problem_body(response.status, detail)
    response.content_type = PROBLEM_JSON
    response.headers[hdrs.CONTENT_LENGTH] = str(len(response.body))
    response.headers[hdrs.CACHE_CONTROL] = "no-store"


def _known(error: Exception) -> HttpProblem | None:
    """The problem that an error of this service stands for."""
    match error:
        case HttpProblem():
            return error
        case TokenExpired():
            return _unauthorized("the token has expired")
        case NotAuthenticated():
            return _unauthorized("no valid bearer token")
        case NotAllowed():
            return HttpProblem(403, str(error))
        case EventInvalid():  # a body that is good as sent and too large as it would be published
            return HttpProblem(422, "the event breaks the contract", errors=[error.reason])
        case Unavailable():
            return _not_now("something this needs is away; repeat the request")
        case PublishError():
            return _not_now("the event was not confirmed; repeat the request with the same Idempotency-Key")
        case _:
            return None


def _unauthorized(detail: str) -> HttpProblem:
    return HttpProblem(401, detail, headers={hdrs.WWW_AUTHENTICATE: "Bearer"})


def _not_now(detail: str) -> HttpProblem:
    return HttpProblem(503, detail, headers={hdrs.RETRY_AFTER: str(RETRY_AFTER_SECONDS)})


def _route(request: web.Request) -> str:
    """The pattern of the route, not the path: it names no diagnosis."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "(none)"
