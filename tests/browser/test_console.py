"""The console in a real browser: what one can do with it, by hand, by keyboard and by ear; how it looks."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from contracts.ids import DiagnosisId
from realtime_service.adapters.tokens import sign_token
from realtime_service.embedded.rabbitmq import Broker
from realtime_service.event_publisher import EventPublisher
from realtime_service.service import running
from realtime_service.settings import Settings
from realtime_service.web.console import DemoTokens
from tests.browser.chromium import Chromium, Page
from tests.service.harness.waiting import until_true
from tests.service.harness.world import PATIENT, Database

SECRET: Final = "a secret for tests that is thirty-two bytes long or more"
AUDIT: Final = (Path(__file__).parent / "looking.js").read_text(encoding="utf-8")
DESK: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 375, "height": 740}


def token(*scopes: str, user: int = PATIENT) -> str:
    return sign_token(SECRET, user, expires_in_seconds=3600, scopes=scopes)


class Console:
    """The page, and the service behind it."""

    def __init__(self, page: Page, url: str, diagnosis: int, events: EventPublisher) -> None:
        self.page = page
        self.url = url
        self.diagnosis = diagnosis
        self.events = events

    async def open(self, scheme: str = "light", *, motion: bool = True, phone: bool = False) -> None:
        """Load it, as somebody with these wishes sees it."""
        await self.page.looks(**(PHONE if phone else DESK), scheme=scheme, motion=motion)
        await self.page.go(self.url)
        await self.page.run(AUDIT)
        await until_true(
            lambda: self.page.run('document.querySelector("[aria-busy]") === null'), "it is ready"
        )

    async def shows(self, text: str, where: str = "body") -> None:
        """Wait until a text is there."""

        async def there() -> bool:
            return text in str(await self.page.run(f"document.querySelector({where!r})?.innerText ?? ''"))

        try:
            await until_true(there, f"{text!r} is shown")
        except AssertionError:
            shown = await self.page.run(f"document.querySelector({where!r})?.innerText")
            raise AssertionError(f"{text!r} is not shown in {where}: {shown}") from None

    async def press(self, name: str) -> None:
        """Click the one button of this name."""
        found = await self.page.run(f"""
            const buttons = [...document.querySelectorAll("button")].filter((button) => button.checkVisibility()
                && (button.getAttribute("aria-label") ?? button.textContent).trim() === {name!r});
            buttons.forEach((button) => button.click());
            buttons.length
        """)
        assert found == 1, f"{found} buttons {name!r}"

    async def fill(self, field: str, value: object) -> None:
        """Put a value into a field, by its id."""
        await self.page.run(f"document.getElementById({field!r}).value = {str(value)!r}; 0")

    async def connect(self, name: str, receipts: str = "ack") -> None:
        """A client of the page; returns once it is welcome."""
        await self.fill("name", name)
        await self.fill("receipts", receipts)
        await self.press("Connect")
        await self.shows("connected", "#clients > :last-child .state")

    async def publish(self, times: int = 1) -> None:
        """Publish what the form holds; returns once the broker has confirmed."""
        await self.fill("times", times)
        await self.press("Publish")
        await self.shows(f"{times} event", "#published")

    def node(self, key: str) -> str:
        """The selector of a node of the picture."""
        return f'#stages [data-key="{key}"]'

    async def device_queue(self) -> str:
        """The selector of the only device queue."""
        await until_true(
            lambda: self.page.run('document.querySelector("#queues [data-kind=device]") !== null'),
            "there is a device queue",
        )
        return "#queues [data-kind=device]"


@asynccontextmanager
async def opened(
    chromium: Chromium,
    broker: Broker,
    database: Database,
    diagnosis: int,
    demo_tokens: DemoTokens | None = None,
) -> AsyncIterator[Console]:
    """A console in a tab on which nothing goes wrong; the tab is gone before the service is."""
    database.add(diagnosis)
    async with (
        running(settings(broker, database), demo_tokens=demo_tokens) as service,
        EventPublisher(broker.amqp_url) as events,
    ):
        page = await chromium.page()
        yield Console(page, f"http://127.0.0.1:{service.port}/console", diagnosis, events)
        await page.close()
    assert page.exceptions == []
    assert [text for text in page.complaints if "WebSocket" not in text] == []


@pytest.fixture
async def console(
    chromium: Chromium, broker: Broker, database: Database, new_id: Callable[[], int]
) -> AsyncIterator[Console]:
    """As in the demo: open to browsers on this machine."""
    diagnosis = new_id()

    def tokens() -> dict[DiagnosisId, str]:
        return {DiagnosisId(diagnosis): token("operator", "publisher")}

    async with opened(chromium, broker, database, diagnosis, tokens) as console:
        yield console


def settings(broker: Broker, database: Database) -> Settings:
    given: dict[str, Any] = {
        "port": 0,
        "amqp_url": broker.amqp_url,
        "database_url": database.url,
        "jwt_secret": SECRET,
        "receipt_timeout_seconds": 1.5,
        "drain_seconds": 0,
        "console": True,
    }
    return Settings(**given)


# --- What one can do --------------------------------------------------------------------------------------------------


async def test_an_event_is_published_and_followed_to_its_proof(console: Console) -> None:
    await console.open()
    await console.shows("broker up", "#health")
    await console.connect("phone")
    await console.connect("", receipts="pong")
    for kind in ("recommendation", "effectiveness", "feedback"):
        await console.page.run(f"""
            const kinds = document.getElementById("kind");
            kinds.value = "{kind}_update";
            kinds.dispatchEvent(new Event("change"));
        """)
        await console.publish()
        await console.shows("1", console.node(kind))
    await console.shows("3 events handled", "#clients > :first-child")
    await console.shows("3 events handled", "#clients > :last-child")
    await console.shows("proven by phone", "#log > :first-child")
    await console.shows("proven by unnamed 2", "#log > :last-child")
    await console.shows("confirmed in", "#log > :last-child")
    assert await console.page.run('document.querySelectorAll("#log > li").length') == 3


async def test_what_others_publish_is_shown_too(console: Console) -> None:
    await console.open()
    await console.connect("")
    await console.events.broadcast_feedback_update(console.diagnosis, 1, 5, 0.5)
    await console.shows("1 seen", console.node("others"))
    await console.shows("proven by unnamed 1", "#log")


async def test_a_backlog_grows_while_a_device_is_offline_and_arrives_when_it_is_back(
    console: Console,
) -> None:
    await console.open()
    await console.connect("phone")
    await console.press("Go offline: phone")
    await console.shows("offline", "#clients")
    await console.publish(5)
    queue = await console.device_queue()
    await console.shows("5 waiting", queue)
    await console.shows("5 waiting", console.node(f"diagnosis.{console.diagnosis}"))
    await console.press("Come back: phone")
    await console.shows("5 events handled", "#clients")
    await console.shows("0 waiting", queue)
    await console.shows("phone’s queue → replica", "#log > :first-child")


async def test_a_frozen_client_fails_to_prove_and_the_event_returns_to_it(console: Console) -> None:
    await console.open()
    await console.connect("tablet")
    await console.press("Freeze: tablet")
    await console.publish()
    await console.shows("not proven by tablet", "#log")
    await console.shows("sent to tablet, marked redelivered", "#log")
    await console.shows("0 events handled", "#clients")
    await console.press("Thaw: tablet")
    await console.shows("1 event handled", "#clients")
    await console.shows("proven by tablet", "#log .good:last-child")
    log = await console.page.run('document.getElementById("log").innerText')
    assert "other replicas" not in log, "there are none"


async def test_a_client_that_pongs_cannot_freeze(console: Console) -> None:
    await console.open()
    await console.connect("", receipts="pong")
    assert await console.page.run('document.querySelector("#clients button[aria-pressed]").disabled') is True


async def test_more_than_a_queue_keeps_is_a_gap(console: Console) -> None:
    await console.open()
    await console.connect("phone")
    await console.press("Go offline: phone")
    await console.publish(105)
    await console.shows("100 waiting", await console.device_queue())
    await console.press("Come back: phone")
    await console.shows("100 events handled", "#clients")
    await console.shows("1 gap", "#clients")


async def test_a_bad_event_is_refused_with_the_field_that_is_wrong(console: Console) -> None:
    await console.open()
    await console.page.run('document.getElementById("kind").value = "feedback_update"')
    await console.page.run('document.getElementById("kind").dispatchEvent(new Event("change"))')
    await console.fill("field-rating", 9)
    await console.press("Publish")
    assert await console.page.run('document.getElementById("field-rating").validity.rangeOverflow') is True
    await console.page.run('document.getElementById("publish").noValidate = true')
    await console.press("Publish")
    await console.shows("rating", "#publish-problem")
    console.page.complaints.clear()  # the browser notes that answer, 422


async def test_an_id_that_is_markup_is_text(console: Console) -> None:
    await console.open()
    await console.connect("")
    evil = "<img src=x>"
    await console.events.broadcast_feedback_update(console.diagnosis, 1, 5, 0.5, event_id=evil)
    await console.shows("<img src", "#log")
    assert await console.page.run('document.querySelectorAll("#log img").length') == 0


# --- Who may look -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded(
    chromium: Chromium, broker: Broker, database: Database, new_id: Callable[[], int]
) -> AsyncIterator[Console]:
    """As outside of the demo."""
    async with opened(chromium, broker, database, new_id()) as console:
        yield console


async def test_outside_of_the_demo_it_asks_for_a_token_and_keeps_it_to_itself(
    guarded: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    await guarded.open()
    await guarded.shows("Not signed in", "#health")
    await guarded.fill("diagnosis", guarded.diagnosis)
    await guarded.fill("operator-token", token())
    await guarded.press("Show")
    await guarded.shows("`operator`", "#access-problem")
    guarded.page.complaints.clear()  # the browser notes that answer, 403
    operator, owner = token("operator", user=1), token()
    await guarded.fill("operator-token", operator)
    await guarded.fill("client-token", owner)
    await guarded.press("Show")
    await guarded.shows("broker up", "#health")
    await guarded.connect("phone")
    await guarded.publish()
    await guarded.shows("1 event handled", "#clients")
    kept = await guarded.page.run(
        "JSON.stringify([location.href, document.cookie, localStorage, sessionStorage])"
    )
    resources = await guarded.page.run(
        'performance.getEntriesByType("resource").map(({ name }) => name).join(" ")'
    )
    logged = capsys.readouterr()
    for secret in (operator, owner):
        assert secret not in kept + resources + logged.out + logged.err


# --- By keyboard and by ear -------------------------------------------------------------------------------------------


async def test_everything_can_be_done_by_keyboard_and_the_focus_is_seen(console: Console) -> None:
    await console.open()
    await console.shows("broker up", "#health")
    seen: list[str] = []
    while "Publish" not in seen:
        await console.page.key("Tab")
        name, visible = await console.page.run("audit.focus()")
        assert visible, name
        seen.append(name)
        assert len(seen) < 40, seen
    wanted = ["Skip to the content", "Diagnosis", "Look", "Try it in five minutes"]
    wanted += ["Name of the device", "Receipts", "Connect"]
    assert seen[: len(wanted)] == wanted
    assert seen[len(wanted) :][0] == "Kind of event"
    await console.page.key("Enter")
    await console.shows("1 event confirmed", "#published")
    await console.page.run('document.getElementById("name").focus()')
    await console.page.key("Enter")
    await console.shows("connected", "#clients")
    while (await console.page.run("audit.focus()"))[0] != "Go offline: phone":
        await console.page.key("Tab")
    await console.page.key(" ")
    await console.shows("offline", "#clients")
    assert (await console.page.run("audit.focus()"))[0] == "Come back: phone", "the focus stays where it was"


async def test_the_first_link_skips_to_the_content(console: Console) -> None:
    await console.open()
    await console.page.key("Tab")
    await console.page.key("Enter")
    assert await console.page.run("document.activeElement.id") == "main"


async def test_a_screen_reader_finds_names_landmarks_and_news(console: Console) -> None:
    await console.open()
    await console.connect("phone")
    await console.publish()
    await console.shows("proven by phone", "#log")
    await console.page.ask("Accessibility.enable")
    nodes = (await console.page.ask("Accessibility.getFullAXTree"))["nodes"]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            name = node.get("name", {}).get("value", "")
            roles.setdefault(node["role"]["value"], []).append(name)
    for role in ("button", "textbox", "combobox", "spinbutton", "link", "region"):
        assert roles.get(role), role
        assert all(roles[role]), (role, roles[role])
    for landmark in ("banner", "main", "contentinfo"):
        assert len(roles[landmark]) == 1, landmark
    assert set(roles["region"]) == {"Flow", "Clients in this page", "Publish", "Events"}
    assert len(set(roles["button"])) == len(roles["button"]), "each button's name says what it acts on"
    assert await console.page.run('document.querySelectorAll("h1").length') == 1
    levels = await console.page.run(
        '[...document.querySelectorAll("h1, h2, h3")].filter((one) => one.checkVisibility()).map((one) => one.tagName)'
    )
    assert all(int(after[1]) - int(before[1]) <= 1 for before, after in pairwise(levels)), levels
    await console.shows("1 client connected, 0 events waiting", "#news")
    assert await console.page.run('document.getElementById("news").ariaLive') == "polite"


# --- How it looks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_read_on_any_screen_by_day_and_by_night(
    console: Console, scheme: str, phone: bool
) -> None:
    await console.open(scheme, phone=phone)
    await console.connect("phone")
    await console.connect("tablet")
    await console.press("Freeze: tablet")
    await console.press("Go offline: phone")
    await console.publish(3)
    await console.shows("not proven by tablet", "#log")
    found = await console.page.run("[audit.faint(), audit.edgeless(), audit.outside(), audit.small()]")
    assert found == [[], [], [], []]
    assert await console.page.run("document.documentElement.scrollWidth <= innerWidth") is True


async def test_a_newcomer_is_told_what_it_is_and_the_counts_stay_in_sight(console: Console) -> None:
    await console.open(phone=True)
    await console.shows("takes an event out of a queue only when a client has proved", "#about")
    assert "Freeze" in await console.page.run('document.getElementById("tour").textContent')
    await console.publish(2)
    await console.shows("0 clients · 2 waiting · 0 not proven", "#summary")
    for field in ("diagnosis", "times", "clear"):
        box = await console.page.run(f"""
            document.getElementById({field!r}).focus();
            const [field, summary] = [document.activeElement, document.getElementById("summary")]
                .map((element) => element.getBoundingClientRect());
            [summary.bottom <= innerHeight, field.bottom <= summary.top]
        """)
        assert box == [True, True], field


async def test_the_audit_finds_what_is_wrong(console: Console) -> None:
    await console.open(phone=True)
    await console.page.run("""
        const bad = document.createElement("div");
        bad.id = "bad";
        bad.textContent = "faint";
        bad.attributeStyleMap.set("color", "#999");
        bad.attributeStyleMap.set("width", "400px");
        const button = document.createElement("button");
        const small = { "min-height": "0", padding: "0", height: "20px", "border-color": "#ccc" };
        for (const [name, value] of Object.entries(small)) button.attributeStyleMap.set(name, value);
        document.getElementById("main").append(bad, button);
    """)
    found = await console.page.run("[audit.faint(), audit.edgeless(), audit.outside(), audit.small()]")
    assert ["#bad" in found[0][0], *map(len, found)] == [True, 1, 1, 1, 1]


async def test_nothing_moves_for_those_who_want_it_still(console: Console) -> None:
    await console.open(motion=False)
    await console.page.run("""
        globalThis.dots = 0;
        new MutationObserver(() => (dots += 1)).observe(document.getElementById("dots"), { childList: true });
        0
    """)
    await console.connect("phone")
    await console.publish()
    await console.shows("proven by phone", "#log")
    assert await console.page.run("[dots, document.getAnimations().length]") == [0, 0]


async def test_dots_follow_an_event_through_the_picture(console: Console) -> None:
    await console.open()
    await console.page.run("""
        globalThis.dots = 0;
        const count = (changes) => (dots += changes.flatMap(({ addedNodes }) => [...addedNodes]).length);
        new MutationObserver(count).observe(document.getElementById("dots"), { childList: true });
        0
    """)
    await console.connect("")
    await console.publish()
    await until_true(
        lambda: console.page.run("dots >= 5"), "it goes from the publisher to the client and back"
    )
    await until_true(
        lambda: console.page.run('document.getElementById("dots").childElementCount === 0'), "they end"
    )


async def test_a_service_that_is_away_is_said(console: Console) -> None:
    await console.open()
    await console.shows("broker up", "#health")
    await console.page.ask("Network.enable")
    await console.page.ask(
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
    )
    await console.shows("does not answer", "#health")
    await console.page.ask(
        "Network.emulateNetworkConditions",
        offline=False,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
    await console.shows("broker up", "#health")
    console.page.complaints.clear()
