"""`realtime-service token`: what it signs, the service believes."""

from realtime_service.adapters.tokens import TokenRules, open_verifier
from realtime_service.cli.outcome import Exit
from realtime_service.domain.identity import Identity
from tests.cli.processes import SECRET, environment, finished


async def verified(token: str, *, audience: str | None = None, issuer: str | None = None) -> Identity:
    """Who the service takes its bearer for."""
    rules = TokenRules(algorithms=("HS256",), audience=audience, issuer=issuer)
    async with open_verifier(rules, secret=SECRET) as verifier:
        return await verifier.verify(token)


async def test_the_token_is_printed_alone_and_carries_what_was_asked_for() -> None:
    done = await finished(
        *("token", "--user", "100", "--scope", "operator", "publisher", "--device-id", "phone-7"),
        env=environment(jwt_secret=SECRET, jwt_audience="apps", jwt_issuer="platform"),
    )
    assert (done.code, done.err) == (Exit.OK, "")
    identity = await verified(done.out, audience="apps", issuer="platform")
    assert (identity.user_id, identity.device_id) == (100, "phone-7")
    assert identity.scopes == {"operator", "publisher"}


async def test_without_a_secret_the_variable_to_set_is_named() -> None:
    done = await finished("token", "--user", "100")
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.complaint.startswith("REALTIME_JWT_SECRET: not set")


async def test_a_short_secret_is_refused_without_being_quoted() -> None:
    done = await finished("token", "--user", "100", env=environment(jwt_secret="hunter2"))
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.complaint.startswith("REALTIME_JWT_SECRET: must hold at least 32 bytes")
    assert "hunter2" not in done.complaint


async def test_an_algorithm_that_the_service_would_not_accept_is_not_signed_with() -> None:
    env = environment(jwt_secret=SECRET * 2, jwt_algorithms="HS512")
    done = await finished("token", "--user", "100", env=env)
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert done.complaint.startswith("REALTIME_JWT_ALGORITHMS: must hold HS256")
