"""RabbitMQ: reachable, recent enough, safe to talk to; permissions, topology, policies."""

import ipaddress
import re
from typing import Final

from yarl import URL

from contracts import topology
from contracts.ids import DiagnosisId
from realtime_service.adapters.management import ManagementApi, ManagementUnavailable, virtual_host
from realtime_service.adapters.rabbitmq import connecting
from realtime_service.adapters.rabbitmq.connecting import BrokerConnection, broker_address
from realtime_service.adapters.rabbitmq.permissions import check_permissions, check_publishing
from realtime_service.adapters.rabbitmq.publishing import ConfirmedPublisher
from realtime_service.adapters.rabbitmq.topology import BINDINGS, examine_topology
from realtime_service.cli.examinations import good, odd, wrong
from realtime_service.cli.examinations.policies import harmful
from realtime_service.domain.errors import BrokerUnavailable
from realtime_service.domain.finding import Finding
from realtime_service.settings import Settings

OLDEST: Final = (3, 8)
"""Has single active consumers."""
OLDEST_WITH_QUORUM: Final = (3, 10)
"""Has an age limit for quorum queues."""
MANAGEMENT_SECONDS: Final = 10.0

_BROKER: Final = "broker"
_REMEDIES: Final = {
    "connection refused": "start RabbitMQ, or correct host and port in REALTIME_AMQP_URL",
    "its host name does not resolve": "correct the host in REALTIME_AMQP_URL, or the machine's DNS",
    "it refused the user name or the password": "correct them in REALTIME_AMQP_URL, percent-encoded; `guest` may only"
    " connect from the broker's own machine",
    "the TLS hand-shake failed": "name the CA that signed the broker's certificate (?cafile=…), and the host that the"
    " certificate is for",
    "it refused the virtual host, or takes no more connections": "create it (rabbitmqctl add_vhost), give the user"
    " permissions there, and encode its name in REALTIME_AMQP_URL (/%2F is the default one)",
}


async def examine_broker(settings: Settings) -> list[Finding]:
    """All of it."""
    amqp_url = settings.amqp_url.get_secret_value()
    try:
        connection = await connecting.connect(amqp_url, name="realtime doctor")
    except BrokerUnavailable as error:
        advice = _REMEDIES.get(
            str(error), "look at the network between here and there, and at the broker's log"
        )
        problem = "nothing is delivered, nothing can be published"
        return [wrong(_BROKER, f"{broker_address(amqp_url)} cannot be used: {error}", problem, advice)]
    try:
        return [
            *_version(connection, settings),
            *_privacy(URL(amqp_url)),
            *await _permissions(connection, amqp_url),
            *await _topology(connection),
            *await _management(settings),
        ]
    except BrokerUnavailable as error:
        return [wrong(_BROKER, f"it went away: {error}", "nothing more was looked at", "try again")]
    finally:
        await connecting.close(connection)


def _version(connection: BrokerConnection, settings: Settings) -> list[Finding]:
    version = _text(connection.server.get("version"))
    product = _text(connection.server.get("product")) or "a broker that does not say what it is"
    what = f"{product} {version} at {broker_address(settings.amqp_url.get_secret_value())}"
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if product != "RabbitMQ" or numbers is None:
        return [odd(_BROKER, what, "the service is made for RabbitMQ", "use RabbitMQ 3.10 or later")]
    number = int(numbers[1]), int(numbers[2])
    oldest = OLDEST_WITH_QUORUM if settings.queue_type == "quorum" else OLDEST
    if number < oldest:
        problem = f"{settings.queue_type} queues as the service needs them came with {oldest[0]}.{oldest[1]}"
        return [wrong(_BROKER, what, problem, "upgrade it")]
    return [good(_BROKER, what)]


def _text(value: object) -> str:
    """Of a field the broker sent."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _privacy(url: URL) -> list[Finding]:
    what = "connection to the broker"
    if url.scheme == "amqps":
        if url.query.get("no_verify_ssl", "0") == "0":
            return [good(what, "TLS, and the broker's certificate is checked")]
        problem = "whoever is between can read the password and all events"
        return [
            odd(what, "TLS without a look at the certificate", problem, "name its CA instead (?cafile=…)")
        ]
    if _is_local(url.host or ""):
        return [good(what, "plain, on this machine")]
    problem = "the password and all events can be read on the way"
    return [
        odd(what, "plain, over the network", problem, "use amqps://, unless the network itself is encrypted")
    ]


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _permissions(connection: BrokerConnection, amqp_url: str) -> list[Finding]:
    findings = await check_permissions(connection)
    async with ConfirmedPublisher(amqp_url, name="realtime doctor publishes") as publisher:
        findings += await check_publishing(publisher)
    return findings or [good("permissions", "configure, write and read where they are needed")]


async def _topology(connection: BrokerConnection) -> list[Finding]:
    return await examine_topology(connection) or [
        good("topology", "exchanges and common queues as they should be")
    ]


async def _management(settings: Settings) -> list[Finding]:
    what = "policies"
    if settings.management_url is None:
        problem = "a policy that shortens queues or lets them expire, or a missing binding, is not found out"
        return [odd(what, "not looked at: REALTIME_MANAGEMENT_URL is not set", problem, "set it")]
    url, vhost = (
        settings.management_url.get_secret_value(),
        virtual_host(settings.amqp_url.get_secret_value()),
    )
    async with ManagementApi(url, vhost=vhost, timeout_seconds=MANAGEMENT_SECONDS) as management:
        try:
            found = harmful(await management.policies(), _queues(), settings)
            missing = BINDINGS - set().union(
                *[
                    await management.bindings(source)
                    for source in sorted({source for source, _, _ in BINDINGS})
                ]
            )
        except ManagementUnavailable as error:
            advice = "correct REALTIME_MANAGEMENT_URL; its user needs the tag policymaker to see policies"
            problem = (
                "policies cannot be seen; `status` lists only what the replica has seen, and `prune` fails"
            )
            return [wrong("management API", f"{error}", problem, advice)]
    return [
        good("management API", "it answers"),
        *(found or [good(what, "none that harms")]),
        *(
            odd(
                f"binding of {target!r} to {source!r}",
                "it does not exist",
                "events do not take this way before it does",
                "start the service: it makes it, if its user may (write there, read here)",
            )
            for source, target, _ in sorted(missing)
        ),
    ]


def _queues() -> list[str]:
    """A queue of each kind; of a diagnosis that hardly exists, so that no policy names it alone."""
    nobody = DiagnosisId(987_654_321)
    return [
        topology.shared_queue(nobody),
        topology.device_queue(nobody, "0" * 32),
        topology.UNROUTED,
        topology.PARKED,
        topology.node_queue("00000000-0000-0000-0000-000000000000"),
    ]
