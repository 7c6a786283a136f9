"""Who sends a request.

Law: a token is taken from the request here, handed to the verifier, and goes nowhere else.
"""

from aiohttp import hdrs, web

from realtime_service.domain.errors import NotAuthenticated, TokenFault
from realtime_service.domain.identity import Identity
from realtime_service.domain.ports import Verifier


def bearer_token(request: web.BaseRequest) -> str | None:
    """The token of `Authorization: Bearer …` (RFC 6750 §2.1; the scheme in any case, RFC 9110 §11.1).

    None without one, and when there are several headers: which of them counts, nobody could say.
    """
    headers = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None


async def authenticate(request: web.BaseRequest, verifier: Verifier) -> Identity:
    """The bearer of the request's token.

    Raises NotAuthenticated, which `problems` answers with 401 and `WWW-Authenticate: Bearer`, or
    KeysUnavailable: 503.
    """
    token = bearer_token(request)
    if token is None:
        raise NotAuthenticated(TokenFault.MISSING)
    return await verifier.verify(token)
