"""`python -m realtime_service`: the same as the command `realtime-service`."""

import sys

from realtime_service.cli import main

sys.exit(main())
