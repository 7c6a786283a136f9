"""Where the routes find what they need: each key is set once by whoever builds the application."""

from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from contracts.ids import UserId
from realtime_service.domain.ports import Ownership, Verifier
from realtime_service.web.ports import Backlogs, Census, EventSink, Readiness
from realtime_service.web.rate import CallerLimits

VERIFIER: Final = web.AppKey[Verifier]("verifier")
OWNERSHIP: Final = web.AppKey[Ownership]("ownership")
EVENT_SINK: Final = web.AppKey[EventSink]("event_sink")
BROADCAST_LIMITS: Final = web.AppKey[CallerLimits[UserId]]("broadcast_limits")
CENSUS: Final = web.AppKey[Census]("census")
BACKLOGS: Final = web.AppKey[Backlogs]("backlogs")
READINESS: Final = web.AppKey[Readiness]("readiness")
REGISTRY: Final = web.AppKey[CollectorRegistry]("registry")
