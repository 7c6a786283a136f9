"""`realtime-service token`: a signed token, for trying things out and for operators."""

import argparse
from typing import Final

from realtime_service.adapters.tokens import sign_token
from realtime_service.cli import arguments
from realtime_service.cli.outcome import Exit
from realtime_service.domain.errors import SettingsError
from realtime_service.domain.identity import Scope
from realtime_service.settings import Settings, load_settings

EXPIRES_SECONDS: Final = 3600.0

_EPILOG: Final = """\
Prints the token and nothing else. It carries REALTIME_JWT_AUDIENCE and REALTIME_JWT_ISSUER where they are set.

examples:
  realtime-service token --user 100
  realtime-service token --user 1 --scope operator --expires 86400
  realtime-service token --user 100 | realtime-service watch --diagnosis 123 --token -
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Sign an HS256 token with REALTIME_JWT_SECRET, as the running service has it."
    parser.epilog = _EPILOG
    parser.add_argument("--user", type=arguments.number, required=True, metavar="ID", help="who bears it")
    parser.add_argument(
        "--scope",
        action="extend",
        nargs="+",
        choices=[scope.value for scope in Scope],
        default=[],
        help="rights beyond one's own diagnoses: operator reads the status, publisher may broadcast to all",
    )
    parser.add_argument(
        "--expires",
        type=arguments.seconds,
        default=EXPIRES_SECONDS,
        metavar="SECONDS",
        help="how long it is good for (default: %(default)g)",
    )
    parser.add_argument(
        "--device-id", type=arguments.client_id, metavar="NAME", help="names the device for apps that cannot"
    )


def run(args: argparse.Namespace) -> int:
    """Print it."""
    token = signed(
        load_settings(),
        args.user,
        expires_in_seconds=args.expires,
        scopes=args.scope,
        device_id=args.device_id,
    )
    print(token, flush=True)
    return Exit.OK


def signed(
    settings: Settings,
    user_id: int,
    *,
    expires_in_seconds: float,
    scopes: list[str] | None = None,
    device_id: str | None = None,
) -> str:
    """A token that a service with these settings believes. Raises SettingsError when they hold no secret."""
    if settings.jwt_secret is None:
        raise SettingsError(
            "REALTIME_JWT_SECRET: not set; give the secret of the running service (the demo prints its tokens itself)"
        )
    if "HS256" not in settings.jwt_algorithms:
        raise SettingsError("REALTIME_JWT_ALGORITHMS: must hold HS256, the one algorithm that is signed here")
    return sign_token(
        settings.jwt_secret.get_secret_value(),
        user_id,
        expires_in_seconds=expires_in_seconds,
        scopes=scopes or [],
        device_id=device_id,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )
