"""`promtool`, which reads rules as Prometheus does; installed with the system's package where that is allowed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from realtime_service.embedded.install import SystemPackage, install
from realtime_service.embedded.ways import NotOpen, Say

PACKAGE: Final = SystemPackage(title="Prometheus", apt="prometheus", service="prometheus", brew="prometheus")


class PromtoolUnavailable(Exception):
    """It is not installed, and could not be; `str()` says what helps."""


@contextmanager
def obtain_promtool(say: Say) -> Iterator[Path]:
    """Yield the program. Raises PromtoolUnavailable. Who installs it keeps it."""
    if (found := shutil.which("promtool")) is None:
        try:
            install(PACKAGE, say)
        except NotOpen as error:
            raise PromtoolUnavailable(f"There is no promtool for the tests: {error}") from error
        found = shutil.which("promtool")
    if found is None:
        raise PromtoolUnavailable("Prometheus was installed, and there is no promtool")
    yield Path(found)
