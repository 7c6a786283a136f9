"""How many replicas and brokers a load needs: arithmetic from unit costs, and nothing else.

Law: what is not in `Units`, `Load` or `Site` has no part in it. Linear in everything: what does not grow so is said on
the page. A replica is one process, and has one processor.
"""

import math
from dataclasses import dataclass
from typing import Final

from tests.bench.capacity.units import Units

HOUR: Final = 3600.0
MIB, GIB = 1024.0, 1024.0**2
"""In KiB."""
CONNECTIONS_OF_A_REPLICA: Final = 2
"""To RabbitMQ: one that consumes, one that publishes; more where `channel_max` is used up."""
FILES_OF_A_REPLICA: Final = 64
"""Listening sockets, event loop, database pool, log: beside one for each client."""
FILES_OF_A_NODE: Final = 256
"""RabbitMQ's own; 3.10 with empty queues."""
PROCESSES_OF_A_NODE: Final = 600
PROCESS_LIMIT: Final = 1_048_576
"""Erlang's `+P`, as RabbitMQ's start script sets it."""
CHANNEL_LIMIT: Final = 65_535
"""What `channel_max = 0` means."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients do."""

    clients: int
    """Connected at once."""
    per_diagnosis: float = 1.0
    named: float = 0.0
    """Share of them that have a `client_id`."""
    known: float = 2.0
    """Queues for each one that is in use: of diagnoses and devices that are not connected now, and were not pruned."""
    events_per_hour: float = 10.0
    """Events that a client gets in an hour. Its diagnosis is published as many."""
    connects_per_hour: float = 2.0
    """How often a client comes anew."""
    waiting: float = 10.0
    """Events in a queue whose clients are away."""
    peak: float = 3.0
    """Busiest minutes to the average hour."""


@dataclass(frozen=True, slots=True)
class Site:
    """What there is to run it on, and how much of that one wants to use."""

    hashed: bool = True
    """Whether the balancer keeps the clients of a diagnosis on one replica."""
    replica_clients: int = 8_000
    """Clients of a replica: the target of the autoscaler. `REALTIME_MAX_CONNECTIONS` is twice that, or more."""
    busy: float = 0.5
    """Share of a processor, or of a node's processors, that may be used at the peak."""
    node_gib: float = 16.0
    node_cores: int = 8
    watermark: float = 0.6
    """`vm_memory_high_watermark.relative`."""
    filled: float = 0.7
    """Share of the watermark that may be used."""
    heartbeat_seconds: float = 25.0
    recheck_seconds: float = 30.0
    drain_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is needed."""

    diagnoses: float
    events_per_second: float
    """At the peak."""
    replicas: int
    replicas_because: str
    replica_clients: float
    replica_mib: float
    replica_cpu: float
    """Processors of one replica at the peak."""
    replica_files: float
    return_seconds: float
    """How long all clients of one replica, that come back at once, keep a replica busy."""
    queues: float
    channels: float
    connections: float
    waiting: float
    broker_gib: float
    broker_disk_gib: float
    broker_cpu: float
    """Processors at the peak."""
    broker_processes: float
    broker_files: float
    restart_seconds: float
    """All queues on one node."""
    nodes: int
    nodes_because: str


def plan(load: Load, site: Site, units: Units) -> Plan:
    """The least that is enough."""
    diagnoses = load.clients / load.per_diagnosis
    events = diagnoses * load.events_per_hour / HOUR * load.peak
    replicas, because = 1, "one is enough"
    for count in range(2, 100_000):  # more replicas have more to tell each other, unless the balancer hashes
        wanted = _replicas_wanted(load, site, units, count)
        if wanted <= count:
            replicas, because = count, _why(load, site, units, count)
            break
    places = places_of(load, site, replicas)
    rooms, devices = diagnoses * places, load.clients * load.named
    queues = (diagnoses + devices) * load.known
    channels = rooms + devices + replicas * 4
    connections = replicas * (CONNECTIONS_OF_A_REPLICA + channels / replicas // CHANNEL_LIMIT)
    waiting = (queues - diagnoses - devices) * load.waiting
    broker_kib = memory_of_broker(units, queues, rooms + devices, waiting)
    broker_cpu = _broker_cpu(load, site, units, replicas)
    processes = queues * units.queue_processes + channels * units.session_processes
    nodes, nodes_because = _nodes(site, broker_kib - units.node_kib, units, broker_cpu, processes)
    return Plan(
        diagnoses=diagnoses,
        events_per_second=events,
        replicas=replicas,
        replicas_because=because,
        replica_clients=load.clients / replicas,
        replica_mib=memory_of_replica(units, load.clients / replicas, rooms / replicas, devices / replicas)
        / MIB,
        replica_cpu=_replicas_cpu(load, site, units, replicas) / replicas,
        replica_files=load.clients / replicas + FILES_OF_A_REPLICA,
        return_seconds=load.clients / replicas * _connect_us(load, units) / 1e6,
        queues=queues,
        channels=channels,
        connections=connections,
        waiting=waiting,
        broker_gib=broker_kib / GIB,
        broker_disk_gib=waiting * units.waiting_disk_kib / GIB,
        broker_cpu=broker_cpu,
        broker_processes=processes + PROCESSES_OF_A_NODE * nodes,
        broker_files=connections + FILES_OF_A_NODE * nodes,
        restart_seconds=queues * units.queue_restart_ms / 1000,
        nodes=nodes,
        nodes_because=nodes_because,
    )


def memory_of_replica(units: Units, clients: float, rooms: float, devices: float) -> float:
    """KiB of one replica."""
    return (
        units.replica_kib + clients * units.client_kib + rooms * units.room_kib + devices * units.device_kib
    )


def memory_of_broker(units: Units, queues: float, sessions: float, waiting: float = 0) -> float:
    """KiB of one node that has them all."""
    return (
        units.node_kib + queues * units.queue_kib + sessions * units.session_kib + waiting * units.waiting_kib
    )


def cost_of_event(units: Units, clients: float, devices: float, places: float) -> tuple[float, float]:
    """µs of all replicas, and of the broker, for an event that so many clients on so many replicas get."""
    replicas = (
        units.event_us
        + (clients - 1) * units.frame_us
        + devices * units.device_event_us
        + (places - 1) * units.relay_us
    )
    broker = (
        units.event_broker_us + devices * units.device_event_broker_us + (places - 1) * units.relay_broker_us
    )
    return replicas, broker


def places_of(load: Load, site: Site, replicas: int) -> float:
    """On how many replicas the clients of a diagnosis are."""
    if site.hashed or replicas == 1:
        return 1.0
    return float(replicas * (1 - (1 - 1 / replicas) ** load.per_diagnosis))


def _connect_us(load: Load, units: Units) -> float:
    return units.connect_us + load.named * units.device_connect_us


def _event(load: Load, site: Site, units: Units, replicas: int) -> tuple[float, float]:
    return cost_of_event(
        units, load.per_diagnosis, load.per_diagnosis * load.named, places_of(load, site, replicas)
    )


def _replicas_cpu(load: Load, site: Site, units: Units, replicas: int) -> float:
    """Processors of all replicas at the peak."""
    diagnoses = load.clients / load.per_diagnosis
    events = diagnoses * load.events_per_hour / HOUR * _event(load, site, units, replicas)[0]
    connects = load.clients * load.connects_per_hour / HOUR * _connect_us(load, units)
    pings = load.clients / site.heartbeat_seconds * units.ping_us
    looks = diagnoses * places_of(load, site, replicas) / site.recheck_seconds * units.look_us
    return ((events + connects) * load.peak + pings + looks) / 1e6


def _broker_cpu(load: Load, site: Site, units: Units, replicas: int) -> float:
    """Processors of the broker at the peak; events of those who are away cost it no more than delivered ones."""
    diagnoses = load.clients / load.per_diagnosis
    events = diagnoses * load.events_per_hour / HOUR * _event(load, site, units, replicas)[1]
    each = units.connect_broker_us + load.named * units.device_connect_broker_us
    connects = load.clients * load.connects_per_hour / HOUR * each
    return (events * load.known + connects) * load.peak / 1e6


def _replicas_wanted(load: Load, site: Site, units: Units, replicas: int) -> int:
    by_clients = math.ceil(load.clients / site.replica_clients)
    by_cpu = math.ceil(_replicas_cpu(load, site, units, replicas) / site.busy)
    return max(by_clients, by_cpu, 2)


def _why(load: Load, site: Site, units: Units, replicas: int) -> str:
    if math.ceil(_replicas_cpu(load, site, units, replicas) / site.busy) > math.ceil(
        load.clients / site.replica_clients
    ):
        return "processor"
    return "clients of a replica" if load.clients > 2 * site.replica_clients else "one may fail"


def _nodes(site: Site, kib: float, units: Units, cpu: float, processes: float) -> tuple[int, str]:
    room = site.node_gib * GIB * site.watermark * site.filled - units.node_kib
    needs = {
        "memory": kib / room,
        "processor": cpu / (site.node_cores * site.busy),
        "Erlang processes": processes / (PROCESS_LIMIT * site.filled),
    }
    most = max(needs, key=lambda name: needs[name])
    count = max(1, math.ceil(needs[most]))
    return count, most if count > 1 else "one is enough"
