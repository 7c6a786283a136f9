"""A replica to which two clients of a room are a crowd that rests as long as any: `python crowded.py` serves like
`realtime-service serve`.

So what happens to three or four clients, and is watched from close by, happens to a crowd.
"""

import sys
from pathlib import Path
from typing import Final

from realtime_service import cli, crowd, hub

CROWDED: Final = (sys.executable, str(Path(__file__)))


if __name__ == "__main__":
    hub.CROWD = 1  # type: ignore[attr-defined]
    crowd.REST_PER_CLIENT_SECONDS = crowd.LONGEST_REST_SECONDS  # type: ignore[misc]
    sys.exit(cli.main(["serve"]))
