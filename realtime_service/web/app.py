"""The aiohttp application: every route, given what the routes need."""

from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry

from contracts.ids import UserId
from realtime_service.domain.ports import Ownership, Verifier
from realtime_service.web import broadcasts, files, health, keys, problems, status
from realtime_service.web.ports import Backlogs, Census, EventSink, Readiness
from realtime_service.web.rate import CallerLimits
from realtime_service.web.websocket import WebSocketRoute


@dataclass(frozen=True, slots=True)
class Ports:
    """What the routes need from the rest of the service."""

    verifier: Verifier
    ownership: Ownership
    events: EventSink
    limits: CallerLimits[UserId]
    census: Census
    backlogs: Backlogs
    readiness: Readiness
    registry: CollectorRegistry
    websocket: WebSocketRoute


def create_app(ports: Ports) -> web.Application:
    """Build the application; whoever runs it owns what is in `ports`."""
    app = web.Application()
    app[keys.VERIFIER] = ports.verifier
    app[keys.OWNERSHIP] = ports.ownership
    app[keys.EVENT_SINK] = ports.events
    app[keys.BROADCAST_LIMITS] = ports.limits
    app[keys.CENSUS] = ports.census
    app[keys.BACKLOGS] = ports.backlogs
    app[keys.READINESS] = ports.readiness
    app[keys.REGISTRY] = ports.registry
    problems.install(app)
    app.add_routes([*health.routes(), *status.routes(), *broadcasts.routes(), *files.client_routes()])
    app.router.add_get("/ws/{diagnosis_id}", ports.websocket.handle, allow_head=False)
    return app
