"""Settings: read once, checked at once, secrets unprintable."""

import re
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError
from yarl import URL

from realtime_service.domain.errors import SettingsError
from realtime_service.settings import Settings, load_settings, require_token_settings, settings_table

SECRET = "hunter2-" * 8
SECRET_SETTINGS = ["AMQP_URL", "MANAGEMENT_URL", "DATABASE_URL", "JWT_SECRET", "JWT_PUBLIC_KEY"]


def problems(**variables: str) -> list[str]:
    """The lines with which these variables (without prefix) are refused."""
    with pytest.raises(SettingsError) as refusal:
        load_settings({f"REALTIME_{name}": text for name, text in variables.items()})
    return str(refusal.value).splitlines()


def test_without_variables_the_service_listens_on_this_machine_and_uses_an_embedded_database() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.database_url.get_secret_value() == "sqlite+aiosqlite:///realtime.db"


def test_the_promised_defaults_are_the_defaults() -> None:
    settings = load_settings({})
    assert settings.backlog_limit == 100
    assert settings.heartbeat_seconds == 25
    assert settings.receipt_timeout_seconds == 5
    assert settings.auth_timeout_seconds == 5
    assert settings.new_devices_per_day == 20
    assert settings.require_receipts is True


def test_variables_are_converted() -> None:
    settings = load_settings(
        {"REALTIME_PORT": "9000", "REALTIME_REQUIRE_RECEIPTS": "false", "REALTIME_LOG_LEVEL": "DEBUG"}
    )
    assert (settings.port, settings.require_receipts, settings.log_level) == (9000, False, "debug")


def test_the_process_environment_is_read_when_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALTIME_PORT", "9001")
    assert load_settings().port == 9001


def test_a_given_environment_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALTIME_PORT", "9001")
    assert load_settings({}).port == 8000


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({"REALTIME_PORT": "", "REALTIME_JWT_SECRET": ""}) == load_settings({})


def test_an_override_wins_unless_it_is_none() -> None:
    env = {"REALTIME_PORT": "9000", "REALTIME_HOST": "::1"}
    settings = load_settings(env, port=9002, host=None)
    assert (settings.port, settings.host) == (9002, "::1")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings({}).port = 1  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "abc"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("HEARTBEAT_SECONDS", "nan"),
        ("HEARTBEAT_SECONDS", "inf"),
        ("HEARTBEAT_SECONDS", "0"),
        ("RECEIPT_TIMEOUT_SECONDS", "1800"),
        ("BACKLOG_LIMIT", "0"),
        ("QUEUE_TYPE", "stream"),
        ("REQUIRE_RECEIPTS", "perhaps"),
        ("LOG_FORMAT", "xml"),
        ("AMQP_URL", "http://127.0.0.1"),
        ("AMQP_URL", "amqp:///vhost"),
        ("AMQP_URL", "amqp://host:99999/"),
        ("MANAGEMENT_URL", "amqp://127.0.0.1"),
        ("JWT_JWKS_URL", "file:///etc/passwd"),
        ("JWT_JWKS_URL", "https://user:password@issuer.example/keys"),
    ],
)
def test_a_wrong_value_is_refused_with_one_line_that_names_its_variable(name: str, text: str) -> None:
    (line,) = problems(**{name: text})
    assert line.startswith(f"REALTIME_{name}: ")


def test_every_problem_is_told_at_once() -> None:
    lines = problems(PORT="abc", LOG_LEVEL="loud", PROT="1")
    assert [line.partition(":")[0] for line in lines] == [
        "REALTIME_PROT",
        "REALTIME_PORT",
        "REALTIME_LOG_LEVEL",
    ]


@pytest.mark.parametrize("unsent", [1024, 1024 * 1024])
def test_less_than_a_full_window_may_not_close_a_client(unsent: int) -> None:
    (line,) = problems(MAX_UNSENT_BYTES=str(unsent))
    assert line.startswith("REALTIME_MAX_UNSENT_BYTES: ")


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("REALTIME_PROT", "REALTIME_PORT"),
        ("REALTIME_AMPQ_URL", "REALTIME_AMQP_URL"),
        ("REALTIME_JWT_SECRETFILE", "REALTIME_JWT_SECRET_FILE"),
        ("REALTIME_HEARTBEAT", "REALTIME_HEARTBEAT_SECONDS"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_one_named(misspelt: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{misspelt}: unknown; did you mean {meant}\?$"):
        load_settings({misspelt: "1"})


def test_variables_of_tests_and_of_other_programs_are_ignored() -> None:
    assert load_settings({"REALTIME_TEST_DATABASE_URL": "x", "PATH": "/bin", "PORT": "x"}) == load_settings(
        {}
    )


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_ignored() -> None:
    links = {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "REALTIME_SERVICE_HOST": "10.0.0.2",
        "REALTIME_SERVICE_PORT": "80",
        "REALTIME_SERVICE_PORT_HTTP": "80",
        "REALTIME_PORT": "tcp://10.0.0.2:80",
        "REALTIME_PORT_80_TCP": "tcp://10.0.0.2:80",
        "REALTIME_PORT_80_TCP_ADDR": "10.0.0.2",
        "REALTIME_SERVICE_PORT_8000_TCP_PROTO": "tcp",
    }
    assert load_settings(links) == load_settings({})
    assert load_settings(links | {"REALTIME_PORT": "9000"}).port == 9000


@pytest.mark.parametrize("name", SECRET_SETTINGS)
def test_a_secret_is_in_no_representation(name: str) -> None:
    text = {"AMQP_URL": f"amqp://u:{SECRET}@h/", "MANAGEMENT_URL": f"http://u:{SECRET}@h/"}.get(name, SECRET)
    settings = load_settings({f"REALTIME_{name}": text})
    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert "hunter2" not in shown
    assert getattr(settings, name.lower()).get_secret_value() == text


@pytest.mark.parametrize("name", ["AMQP_URL", "MANAGEMENT_URL", "JWT_JWKS_URL", "PORT", "JWT_ALGORITHMS"])
@pytest.mark.parametrize(
    "text", [f"//u:{SECRET}@[h", f'["{SECRET}"', SECRET, f"amqp://h:{SECRET}", f"x\udc80{SECRET}"]
)
def test_a_refusal_never_quotes_what_was_given(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings({f"REALTIME_{name}": text})
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize("name", SECRET_SETTINGS)
def test_a_secret_can_be_read_from_a_file(name: str, tmp_path: Path) -> None:
    text = {"AMQP_URL": "amqps://u:p@h/", "MANAGEMENT_URL": "http://u:p@h/"}.get(name, SECRET)
    (tmp_path / "secret").write_text(f"{text}\r\n")
    settings = load_settings({f"REALTIME_{name}_FILE": str(tmp_path / "secret")})
    assert getattr(settings, name.lower()).get_secret_value() == text


def test_what_is_no_secret_is_not_read_from_a_file(tmp_path: Path) -> None:
    (line,) = problems(PORT_FILE=str(tmp_path))
    assert line.startswith("REALTIME_PORT_FILE: unknown")


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (line,) = problems(JWT_SECRET=SECRET, JWT_SECRET_FILE=str(tmp_path / "secret"))
    assert (
        line
        == "REALTIME_JWT_SECRET_FILE: set either REALTIME_JWT_SECRET or REALTIME_JWT_SECRET_FILE, not both"
    )


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_secret_file_that_cannot_be_used_is_refused_without_quoting_its_path(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "hunter2"  # somebody may have written the secret where the path belongs
    if content is not None:
        path.write_bytes(content)
    (line,) = problems(JWT_SECRET_FILE=str(path))
    assert line.startswith("REALTIME_JWT_SECRET_FILE: ")
    assert "hunter2" not in line


def test_a_public_key_may_be_written_in_one_line() -> None:
    key = load_settings({"REALTIME_JWT_PUBLIC_KEY": "-----BEGIN\\nabc\\nEND-----"}).jwt_public_key
    assert key is not None
    assert key.get_secret_value() == "-----BEGIN\nabc\nEND-----"


@pytest.mark.parametrize("text", ["RS256,ES256", " RS256 , ES256 ", '["RS256", "ES256"]'])
def test_algorithms_are_a_comma_separated_or_a_json_list(text: str) -> None:
    assert load_settings({"REALTIME_JWT_ALGORITHMS": text}).jwt_algorithms == ("RS256", "ES256")


@pytest.mark.parametrize(
    ("variables", "algorithms"),
    [
        ({}, ("HS256",)),
        ({"REALTIME_JWT_SECRET": SECRET}, ("HS256",)),
        ({"REALTIME_JWT_PUBLIC_KEY": "pem"}, ("RS256", "ES256")),
        ({"REALTIME_JWT_JWKS_URL": "https://issuer.example/keys"}, ("RS256", "ES256")),
    ],
)
def test_the_default_algorithms_follow_the_kind_of_key(
    variables: dict[str, str], algorithms: tuple[str, ...]
) -> None:
    assert load_settings(variables).jwt_algorithms == algorithms


@pytest.mark.parametrize("text", ["none", "None", "HS256,none", ",", "[]", "[1]", "HS1", "[", "{}"])
def test_no_signature_is_no_algorithm(text: str) -> None:
    (line,) = problems(JWT_ALGORITHMS=text)
    assert line.startswith("REALTIME_JWT_ALGORITHMS: ")


@pytest.mark.parametrize(
    "variables",
    [
        {"JWT_ALGORITHMS": "HS256,RS256"},
        {"JWT_ALGORITHMS": "HS256", "JWT_PUBLIC_KEY": "pem"},
        {"JWT_ALGORITHMS": "HS512", "JWT_JWKS_URL": "https://issuer.example/keys"},
        {"JWT_ALGORITHMS": "RS256", "JWT_SECRET": SECRET},
    ],
)
def test_a_key_that_is_public_is_never_a_shared_secret(variables: dict[str, str]) -> None:
    (line,) = problems(**variables)
    assert line.startswith("REALTIME_JWT_ALGORITHMS: must ")


@pytest.mark.parametrize(
    "text",
    [
        "https://app.example.org, http://localhost:3000",
        '["https://App.example.org/", "http://localhost:3000"]',
    ],
)
def test_origins_are_kept_as_browsers_write_them(text: str) -> None:
    settings = load_settings({"REALTIME_ALLOWED_ORIGINS": text})
    assert settings.allowed_origins == ("https://app.example.org", "http://localhost:3000")


@pytest.mark.parametrize(
    "text", ["app.example.org", "https://", "https://app.example.org/path", "*", "https://[::1"]
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    assert problems(ALLOWED_ORIGINS=text) == [
        "REALTIME_ALLOWED_ORIGINS: must hold origins such as https://app.example.org"
    ]


def test_proxies_are_addresses_or_networks() -> None:
    settings = load_settings({"REALTIME_TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1, fd00::/8"})
    assert [str(network) for network in settings.trusted_proxies] == [
        "10.0.0.0/8",
        "192.0.2.1/32",
        "fd00::/8",
    ]
    assert problems(TRUSTED_PROXIES="10.0.0.1/8") == [
        "REALTIME_TRUSTED_PROXIES: must hold networks such as 10.0.0.0/8 or 10.1.2.3"
    ]


def test_the_file_of_authorities_goes_with_the_urls_that_use_tls(tmp_path: Path) -> None:
    (tmp_path / "ca & co.pem").write_text("")
    settings = load_settings(
        {
            "REALTIME_CA_FILE": str(tmp_path / "ca & co.pem"),
            "REALTIME_AMQP_URL": "amqps://u:p@broker/realtime?heartbeat=9",
            "REALTIME_DATABASE_URL": "postgresql://u:p@database/platform?sslmode=verify-full",
        }
    )
    assert URL(settings.amqp_url.get_secret_value()).query["cafile"] == str(tmp_path / "ca & co.pem")
    assert URL(settings.amqp_url.get_secret_value()).query["heartbeat"] == "9"
    database = URL(settings.database_url.get_secret_value())
    assert database.query["sslrootcert"] == str(tmp_path / "ca & co.pem")


def test_a_file_of_authorities_changes_no_url_without_tls_or_with_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    given = {
        "REALTIME_CA_FILE": str(tmp_path / "ca.pem"),
        "REALTIME_AMQP_URL": "amqp://u:p@broker/",
        "REALTIME_DATABASE_URL": "sqlite:///realtime.db",
    }
    settings = load_settings(given)
    assert settings.amqp_url.get_secret_value() == given["REALTIME_AMQP_URL"]
    assert settings.database_url.get_secret_value() == given["REALTIME_DATABASE_URL"]
    own = "amqps://u:p@broker/?cafile=/other.pem"
    assert load_settings(given | {"REALTIME_AMQP_URL": own}).amqp_url.get_secret_value() == own


def test_a_file_of_authorities_that_is_missing_is_refused() -> None:
    assert problems(CA_FILE="/nowhere/ca.pem") == ["REALTIME_CA_FILE: Path does not point to a file"]


def test_the_service_refuses_to_serve_without_a_way_to_verify_tokens() -> None:
    with pytest.raises(SettingsError, match=r"REALTIME_JWT_SECRET .* none is set"):
        require_token_settings(load_settings({}))


def test_two_ways_to_verify_tokens_are_one_too_many() -> None:
    env = {"REALTIME_JWT_SECRET": SECRET, "REALTIME_JWT_JWKS_URL": "https://issuer.example/keys"}
    with pytest.raises(SettingsError, match="REALTIME_JWT_SECRET and REALTIME_JWT_JWKS_URL are set"):
        require_token_settings(load_settings(env))


@pytest.mark.parametrize(
    ("algorithm", "length", "accepted"),
    [
        ("HS256", 31, False),
        ("HS256", 32, True),
        ("HS384", 47, False),
        ("HS384", 48, True),
        ("HS256,HS512", 63, False),
        ("HS512", 64, True),
    ],
)
def test_a_secret_is_at_least_as_long_as_the_hash(algorithm: str, length: int, accepted: bool) -> None:
    env = {"REALTIME_JWT_SECRET": "x" * length, "REALTIME_JWT_ALGORITHMS": algorithm}
    settings = load_settings(env)
    if accepted:
        require_token_settings(settings)
    else:
        with pytest.raises(SettingsError, match=f"^REALTIME_JWT_SECRET: must hold .* it holds {length}$"):
            require_token_settings(settings)


@pytest.mark.parametrize(
    "env", [{"REALTIME_JWT_PUBLIC_KEY": "pem"}, {"REALTIME_JWT_JWKS_URL": "https://issuer.example/keys"}]
)
def test_one_way_to_verify_tokens_is_enough(env: dict[str, str]) -> None:
    require_token_settings(load_settings(env))


def test_the_table_explains_every_setting_in_one_row() -> None:
    rows = settings_table().splitlines()[2:]
    assert [re.findall(r"`REALTIME_(\w+)`", row)[0].lower() for row in rows] == list(Settings.model_fields)
    for row in rows:
        cells = row.strip("|").split(" | ")
        assert len(cells) == 4, row
        assert all(cell.strip() for cell in cells), row


def test_the_table_says_which_settings_are_read_from_files() -> None:
    rows = [row for row in settings_table().splitlines() if "`…_FILE`" in row]
    assert sorted(re.findall(r"`REALTIME_(\w+)`", row)[0] for row in rows) == sorted(SECRET_SETTINGS)


def test_every_duration_says_its_unit() -> None:
    for name, field in Settings.model_fields.items():
        if name.endswith("_seconds"):
            assert (field.description or "").startswith("Seconds "), name
