"""Carries events about a diagnosis from the tasks that compute them to the phones and browsers that show them.

Upstream tasks import `realtime_service.publisher` or `realtime_service.blocking`; the rest is the service.
"""

from importlib import metadata

try:
    __version__ = metadata.version("realtime-service")
except metadata.PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
