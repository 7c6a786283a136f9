"""RabbitMQ's management API, as far as it is needed: which queues hold messages, which are idle, and policies.

Law: the password in the URL is taken out at once; no error, log line or `repr` holds it, and no redirect
gets it.
"""

from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError
from yarl import URL

from realtime_service.domain.errors import Unavailable

PAGE_SIZE: Final = 500
"""Queues a page: the API's own limit."""


class ManagementUnavailable(Unavailable):
    """The management API refused, failed or did not answer in time."""


UtcTime = Annotated[datetime, AfterValidator(lambda time: time if time.tzinfo else time.replace(tzinfo=UTC))]
"""Where RabbitMQ names no zone it means UTC."""


class _Queue(BaseModel):
    name: str
    messages_ready: int | None = None
    """None: made so recently that there are no numbers yet."""


class _Page(BaseModel):
    items: list[_Queue]
    page_count: int


class QueueState(BaseModel):
    """A queue, as it was up to 5 s ago. None: there are no numbers yet."""

    name: str
    type: str = "classic"
    messages: int | None = None
    """Ready, or handed out and not settled."""
    consumers: int | None = None
    idle_since: UtcTime | None = None
    """None: it is not idle, or it is a quorum queue, of which RabbitMQ (3.10) does not say."""


class _StatePage(BaseModel):
    items: list[QueueState]
    page_count: int


_AnyPage = TypeVar("_AnyPage", _Page, _StatePage)
_Answer = TypeVar("_Answer")


class Policy(BaseModel):
    """What an operator lays over queues or exchanges by their names."""

    name: str
    pattern: str
    """A regular expression."""
    apply_to: str = Field("all", alias="apply-to")
    definition: dict[str, Any]
    priority: int = 0
    by_operator: bool = False
    """An operator policy: it goes beside the other kind, and the lower limit counts."""


class _Binding(BaseModel):
    source: str
    destination: str
    routing_key: str


_POLICIES: Final = TypeAdapter(list[Policy])
_BINDINGS: Final = TypeAdapter(list[_Binding])


def virtual_host(amqp_url: str) -> str:
    """The virtual host an AMQP URL names; `/` when it names none."""
    return URL(amqp_url).path.removeprefix("/") or "/"


class ManagementApi:
    """A client of `http(s)://user:password@host:15672[/prefix]`; `async with` opens and closes it."""

    def __init__(self, url: str, *, vhost: str = "/", timeout_seconds: float = 2.0) -> None:
        secret = URL(url)
        self._headers = {}
        if secret.user is not None:
            credentials = aiohttp.encode_basic_auth(secret.user, secret.password or "", encoding="utf-8")
            self._headers["Authorization"] = credentials
        self._url = secret.with_user(None)
        self._vhost = quote(vhost, safe="")
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"ManagementApi({str(self._url)!r})"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def waiting(self, pattern: str, limit: int) -> tuple[dict[str, int | None], bool]:
        """Queues that match a regular expression and hold ready messages, and whether these are all.

        At most `limit` of them, fullest first. The numbers are up to 5 s old (RabbitMQ's
        `collect_statistics_interval`); None: unknown yet. Raises ManagementUnavailable.
        """
        found: dict[str, int | None] = {}
        number = pages = 1
        while number <= pages:
            page = await self._page(pattern, number)
            for queue in page.items:
                if queue.messages_ready == 0:
                    return found, True
                if len(found) == limit:
                    return found, False
                found[queue.name] = queue.messages_ready
            number, pages = number + 1, page.page_count
        return found, True

    async def states(self, pattern: str) -> list[QueueState]:
        """All queues that match a regular expression. Raises ManagementUnavailable."""
        query = {"sort": "name", "columns": "name,type,messages,consumers,idle_since"}
        found: list[QueueState] = []
        number = pages = 1
        while number <= pages:
            page = await self._get(_StatePage, pattern, number, query)
            found += page.items
            number, pages = number + 1, page.page_count
        return found

    async def policies(self) -> list[Policy]:
        """All policies of the virtual host, both kinds. Raises ManagementUnavailable."""
        found = await self._ask(_POLICIES, self._of("policies"))
        by_operator = await self._ask(_POLICIES, self._of("operator-policies"))
        return found + [each.model_copy(update={"by_operator": True}) for each in by_operator]

    async def bindings(self, source: str) -> set[tuple[str, str, str]]:
        """Source, destination and routing key of an exchange's bindings. Raises ManagementUnavailable."""
        url = self._of("exchanges").joinpath(quote(source, safe=""), "bindings", "source", encoded=True)
        return {(each.source, each.destination, each.routing_key) for each in await self._ask(_BINDINGS, url)}

    def _of(self, what: str) -> URL:
        """Everything of this kind in the virtual host."""
        return self._url.joinpath("api", what, self._vhost, encoded=True)

    async def _ask(
        self, answers: TypeAdapter[_Answer], url: URL, query: dict[str, str] | None = None
    ) -> _Answer:
        if self._session is None:
            raise ManagementUnavailable("not open")
        try:
            async with self._session.get(url, params=query, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ManagementUnavailable(f"the management API answered {answer.status}")
                return answers.validate_json(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
            raise ManagementUnavailable("the management API cannot be asked") from error

    async def _page(self, pattern: str, number: int) -> _Page:
        query = {
            "sort": "messages_ready",  # queues without a number come first
            "sort_reverse": "true",
            "columns": "name,messages_ready",
            "disable_stats": "true",  # numbers of the queues alone: no rates, nothing about consumers
            "enable_queue_totals": "true",
        }
        return await self._get(_Page, pattern, number, query)

    async def _get(self, page: type[_AnyPage], pattern: str, number: int, query: dict[str, str]) -> _AnyPage:
        query = query | {
            "name": pattern,
            "use_regex": "true",
            "page": str(number),
            "page_size": str(PAGE_SIZE),
        }
        return await self._ask(TypeAdapter(page), self._of("queues"), query)
