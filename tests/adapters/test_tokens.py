"""Tokens: what is believed, what is refused, and that refusing tells nothing."""

import asyncio
import base64
import json
import math
import time
import traceback
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.ids import MAX_ID, ClientId, UserId
from realtime_service.adapters.tokens import FixedKey, TokenRules, TokenVerifier, open_verifier, sign_token
from realtime_service.domain.errors import NotAuthenticated, SettingsError, TokenExpired, TokenFault
from realtime_service.domain.identity import Identity, Scope
from realtime_service.domain.ports import Verifier

SECRET = "a shared secret of 32 bytes, or more"
RULES = TokenRules(("HS256",))
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  (to be refused)
EC_KEY = ec.generate_private_key(ec.SECP256R1())

DEEP = base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.e30"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


any_load = settings(deadline=None)  # a busy machine is no failure


def pem(key: PrivateKey) -> str:
    """The public half."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()


def private_pem(key: PrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def signed(claims: Mapping[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    """A token with a good signature; `exp` is in a minute unless the claims say otherwise; None removes a claim."""
    everything = {"exp": int(time.time()) + 60, **claims}
    kept = {name: value for name, value in everything.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def verify(token: str, rules: TokenRules = RULES, key: str = SECRET) -> Identity:
    verifier: Verifier = TokenVerifier(FixedKey(key, rules.algorithms), rules)
    return asyncio.run(verifier.verify(token))


def fault(token: str, rules: TokenRules = RULES, key: str = SECRET) -> TokenFault:
    """Why the token is refused."""
    with pytest.raises(NotAuthenticated) as refusal:
        verify(token, rules, key)
    return refusal.value.cause_code


def test_a_signed_token_proves_who_bears_it() -> None:
    expires = int(time.time()) + 60
    claims = {"user_id": 7, "exp": expires, "scope": "operator publisher", "device_id": "phone-1"}
    identity = verify(signed(claims))
    assert identity == Identity(UserId(7), expires, frozenset(Scope), ClientId("phone-1"))


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"user_id": 7}, 7),
        ({"user_id": "7"}, 7),
        ({"sub": "7"}, 7),
        ({"sub": 7}, 7),
        ({"user_id": 7, "sub": "8"}, 7),
        ({"user_id": 7, "sub": "auth0|abc"}, 7),
        ({"user_id": MAX_ID}, MAX_ID),
        ({"sub": str(MAX_ID)}, MAX_ID),
    ],
)
def test_the_user_id_is_the_claim_user_id_or_else_sub(claims: dict[str, Any], user: int) -> None:
    assert verify(signed(claims)).user_id == user


@pytest.mark.parametrize(
    "value",
    [0, -1, MAX_ID + 1, 7.0, 7.5, math.nan, math.inf, True, False, [7], {"id": 7}],
    ids=repr,
)
@pytest.mark.parametrize("claim", ["user_id", "sub"])
def test_what_is_no_positive_integer_is_no_user(claim: str, value: object) -> None:
    assert fault(signed({claim: value})) is TokenFault.CLAIMS


@pytest.mark.parametrize(
    "digits",
    [
        "",
        "0",
        "07",
        "+7",
        "-7",
        " 7",
        "7 ",
        "7\n",
        "٧",
        "7.0",
        "1e3",
        "0x7",
        "abc",
        str(MAX_ID + 1),
        "9" * 5000,
    ],
    ids=lambda digits: repr(digits[:25]),
)
@pytest.mark.parametrize("claim", ["user_id", "sub"])
def test_a_user_id_in_a_string_is_decimal_digits_and_nothing_else(claim: str, digits: str) -> None:
    assert fault(signed({claim: digits})) is TokenFault.CLAIMS


def test_a_token_without_a_user_proves_nobody() -> None:
    assert fault(signed({})) is TokenFault.CLAIMS


def test_a_user_id_that_cannot_be_read_is_not_replaced_by_sub() -> None:
    payload = json.dumps({"user_id": None, "sub": "7", "exp": int(time.time()) + 60}).encode()
    token = jwt.api_jws.encode(payload, SECRET, algorithm="HS256")
    assert fault(token) is TokenFault.CLAIMS


def test_an_expired_token_is_told_from_a_wrong_one() -> None:
    with pytest.raises(TokenExpired) as refusal:
        verify(signed({"sub": "7", "exp": int(time.time()) - 1}))
    assert refusal.value.cause_code is TokenFault.EXPIRED


def test_an_expired_token_with_a_wrong_signature_is_a_wrong_one() -> None:
    token = signed({"sub": "7", "exp": int(time.time()) - 1}, key="x" * 32)
    assert fault(token) is TokenFault.SIGNATURE


def test_clocks_may_differ_by_the_leeway() -> None:
    rules = TokenRules(("HS256",), leeway_seconds=30)
    expired = int(time.time()) - 10
    assert verify(signed({"sub": "7", "exp": expired}), rules).expires_at == expired + 30
    early = int(time.time()) + 10
    assert verify(signed({"sub": "7", "nbf": early, "iat": early}), rules).user_id == 7
    with pytest.raises(TokenExpired):
        verify(signed({"sub": "7", "exp": int(time.time()) - 31}), rules)


def test_a_token_that_never_expires_is_refused() -> None:
    assert fault(signed({"sub": "7", "exp": None})) is TokenFault.CLAIMS


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e308, 10**400, 2**63, 1_900_000_000_000], ids=repr)
def test_an_expiry_that_is_no_moment_before_the_year_10000_is_refused(seconds: float) -> None:
    assert fault(signed({"sub": "7", "exp": seconds})) in {TokenFault.CLAIMS, TokenFault.MALFORMED}


@pytest.mark.parametrize("value", ["9999999999", [1], {}, "tomorrow"], ids=repr)
def test_an_expiry_that_is_no_number_is_refused(value: object) -> None:
    assert fault(signed({"sub": "7", "exp": value})) in {TokenFault.CLAIMS, TokenFault.MALFORMED}


def test_a_boolean_is_no_expiry() -> None:
    with pytest.raises(NotAuthenticated):
        verify(signed({"sub": "7", "exp": True}))


def test_an_expiry_may_have_a_fraction() -> None:
    expires = time.time() + 60.5
    assert verify(signed({"sub": "7", "exp": expires})).expires_at == expires


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(claim: str) -> None:
    assert fault(signed({"sub": "7", claim: int(time.time()) + 60})) is TokenFault.CLAIMS


def test_scopes_may_be_a_list_and_unknown_ones_are_dropped() -> None:
    identity = verify(signed({"sub": "7", "scope": ["publisher", "email", "openid"]}))
    assert identity.scopes == {Scope.PUBLISHER}
    assert identity.has(Scope.PUBLISHER)
    assert not identity.has(Scope.OPERATOR)


@pytest.mark.parametrize("scope", ["operators", "operator,publisher", "OPERATOR", "", []], ids=repr)
def test_a_scope_is_granted_by_its_exact_name_only(scope: object) -> None:
    assert verify(signed({"sub": "7", "scope": scope})).scopes == frozenset()


@pytest.mark.parametrize("scope", [7, True, ["operator", 7], {"operator": True}], ids=repr)
def test_scopes_that_cannot_be_read_are_refused(scope: object) -> None:
    assert fault(signed({"sub": "7", "scope": scope})) is TokenFault.CLAIMS


@pytest.mark.parametrize("device", ["", "a" * 129, "a b", "a/b", "ä", "a\n", 7, ["a"]], ids=repr)
def test_a_device_id_is_1_to_128_characters_of_a_small_alphabet(device: object) -> None:
    assert verify(signed({"sub": "7", "device_id": "A.z_0-" + "x" * 122})).device_id is not None
    assert fault(signed({"sub": "7", "device_id": device})) is TokenFault.CLAIMS


@pytest.mark.parametrize("jti", [7, None, ["a"]], ids=repr)
def test_what_is_not_used_is_not_checked(jti: object) -> None:
    assert verify(signed({"sub": "7", "jti": jti})).user_id == 7


def test_without_a_configured_audience_and_issuer_neither_is_looked_at() -> None:
    token = signed({"sub": "7", "aud": ["another-service"], "iss": "https://issuer.example"})
    assert verify(token).user_id == 7


@pytest.mark.parametrize("audience", ["realtime", ["other", "realtime"]], ids=repr)
def test_a_configured_audience_and_issuer_are_accepted(audience: object) -> None:
    rules = TokenRules(("HS256",), audience="realtime", issuer="https://issuer.example")
    assert verify(signed({"sub": "7", "aud": audience, "iss": "https://issuer.example"}), rules).user_id == 7


@pytest.mark.parametrize("audience", [None, "", "other", ["other"], [], 7, ["realtime", 7]], ids=repr)
def test_a_configured_audience_is_required(audience: object) -> None:
    rules = TokenRules(("HS256",), audience="realtime")
    assert fault(signed({"sub": "7", "aud": audience}), rules) is TokenFault.AUDIENCE


@pytest.mark.parametrize("issuer", [None, "", "https://issuer.example/", "https://evil.example"], ids=repr)
def test_a_configured_issuer_is_required(issuer: object) -> None:
    rules = TokenRules(("HS256",), issuer="https://issuer.example")
    assert fault(signed({"sub": "7", "iss": issuer}), rules) is TokenFault.ISSUER


def test_a_token_signed_with_another_secret_is_refused() -> None:
    assert fault(signed({"sub": "7"}, key="x" * 32)) is TokenFault.SIGNATURE


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", "HS512", "RS256"])
def test_a_token_cannot_choose_its_algorithm(name: str) -> None:
    header, payload, signature = signed({"sub": "7"}).split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": name, "typ": "JWT"}).encode()).rstrip(b"=").decode()
    assert fault(f"{header}.{payload}.") is TokenFault.ALGORITHM
    assert fault(f"{header}.{payload}.{signature}") is TokenFault.ALGORITHM


@pytest.mark.parametrize("algorithm", [None, 7, ["HS256"], {"a": 1}], ids=repr)
def test_an_algorithm_that_is_no_name_is_refused(algorithm: object) -> None:
    header, payload, signature = signed({"sub": "7"}).split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=").decode()
    assert fault(f"{header}.{payload}.{signature}") is TokenFault.ALGORITHM


@pytest.mark.parametrize(
    "headers",
    [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": "b64"}, {"b64": False}, {"kid": 7}],
    ids=repr,
)
def test_a_header_that_must_be_understood_and_is_not_is_refused(headers: dict[str, Any]) -> None:
    header, payload, _ = signed({"sub": "7"}).split(".")
    raw = json.dumps({"alg": "HS256", **headers}).encode()
    header = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = algorithm.sign(f"{header}.{payload}".encode(), algorithm.prepare_key(SECRET))
    token = f"{header}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert fault(token) is TokenFault.MALFORMED


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE"])
def test_a_token_made_for_something_else_is_refused(kind: str) -> None:
    assert fault(signed({"sub": "7"}, typ=kind)) is TokenFault.MALFORMED


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_an_access_token_may_say_that_it_is_one(kind: str) -> None:
    assert verify(signed({"sub": "7"}, typ=kind)).user_id == 7


def test_a_token_over_16_kib_is_refused_unread() -> None:
    token = signed({"sub": "7", "padding": "x" * 16 * 1024})
    assert fault(token) is TokenFault.MALFORMED
    assert verify(signed({"sub": "7", "padding": "x" * 8 * 1024})).user_id == 7


def test_no_token_is_missing() -> None:
    assert fault("") is TokenFault.MISSING


@pytest.mark.parametrize(
    "text",
    [
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "\ud800",
        "é.é.é",
        " ",
        "\0",
        "Bearer x.y.z",
        "[]",
        "e30.e30.",
        DEEP,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_token_is_refused(text: str) -> None:
    assert fault(text) in {TokenFault.MALFORMED, TokenFault.ALGORITHM}


@any_load
@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    with pytest.raises(NotAuthenticated):
        verify(text)


@any_load
@given(st.data())
def test_no_change_of_a_token_is_believed_or_raises_anything_else(data: st.DataObject) -> None:
    token = signed({"user_id": 7, "scope": "operator"})
    at = data.draw(st.integers(0, len(token) - 1))
    length = data.draw(st.integers(0, 3))
    instead = data.draw(st.text(st.characters(exclude_categories=()), max_size=3))
    changed = token[:at] + instead + token[at + length :]
    if changed.rstrip("=") != token:  # padding is tolerated (RFC 7515 leaves it out; some issuers do not)
        with pytest.raises(NotAuthenticated):
            verify(changed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
CLAIM_NAMES = ["exp", "iat", "nbf", "sub", "user_id", "scope", "device_id", "aud", "iss", "jti"]


@any_load
@given(st.dictionaries(st.sampled_from(CLAIM_NAMES), JSON), st.booleans())
def test_no_signed_claims_raise_anything_but_a_refusal(claims: dict[str, Any], valid: bool) -> None:
    base = {"exp": int(time.time()) + 60, "user_id": 7} if valid else {}
    token = jwt.api_jws.encode(json.dumps(base | claims).encode(), SECRET, algorithm="HS256")
    try:
        identity = verify(token)
    except NotAuthenticated:
        return
    assert 1 <= identity.user_id <= MAX_ID
    assert math.isfinite(identity.expires_at)
    assert identity.scopes <= set(Scope)


@any_load
@given(JSON)
def test_no_signed_document_raises_anything_but_a_refusal(document: Any) -> None:
    token = jwt.api_jws.encode(json.dumps(document).encode(), SECRET, algorithm="HS256")
    with pytest.raises(NotAuthenticated):
        verify(token)


@pytest.mark.parametrize(
    "token",
    [
        signed({"sub": "7"}, key="x" * 32),
        signed({"sub": "7", "exp": 1}),
        signed({"sub": "hunter2"}),
        signed({"sub": "7", "aud": "hunter2"}),
        signed({"sub": "7"}, typ="hunter2"),
        signed({"sub": "7"}, crit=["hunter2"], hunter2=1),
        "hunter2",
        "",
    ],
    ids=range(8),
)
def test_every_refusal_has_the_same_text_and_quotes_nothing(token: str) -> None:
    rules = TokenRules(("HS256",), audience="realtime")
    with pytest.raises(NotAuthenticated) as refusal:
        verify(token, rules)
    assert str(refusal.value) == "not authenticated or not allowed"
    told = "".join(traceback.format_exception(refusal.value)) + repr(refusal.value)
    assert "hunter2" not in told
    assert not token or token not in told


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256")])
def test_a_public_key_verifies_what_its_private_key_signed(key: PrivateKey, algorithm: str) -> None:
    rules = TokenRules(("RS256", "ES256"))
    assert verify(signed({"sub": "7"}, key, algorithm, kid="any"), rules, pem(key)).user_id == 7


def test_a_key_of_another_kind_is_refused_as_an_algorithm_or_signature() -> None:
    rules = TokenRules(("RS256", "ES256"))
    assert fault(signed({"sub": "7"}, EC_KEY, "ES256"), rules, pem(RSA_KEY)) is TokenFault.SIGNATURE
    assert fault(signed({"sub": "7"}, RSA_KEY, "RS256"), rules, pem(EC_KEY)) is TokenFault.SIGNATURE
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert fault(signed({"sub": "7"}, other, "RS256"), rules, pem(RSA_KEY)) is TokenFault.SIGNATURE


def test_a_public_key_cannot_be_used_as_a_shared_secret() -> None:
    public = pem(RSA_KEY)
    algorithm = jwt.get_algorithm_by_name("HS256")
    header, payload, _ = signed({"sub": "7"}).split(".")
    signature = algorithm.sign(f"{header}.{payload}".encode(), public.encode())
    token = f"{header}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert fault(token, TokenRules(("RS256", "ES256")), public) is TokenFault.ALGORITHM
    with pytest.raises(SettingsError):
        FixedKey(public, ["HS256"])


@pytest.mark.parametrize(
    ("material", "algorithms"),
    [
        ("x" * 31, ["HS256"]),
        ("x" * 63, ["HS512"]),
        (pem(RSA_KEY), ["ES256"]),
        (pem(EC_KEY), ["ES384"]),
        (pem(SHORT_RSA_KEY), ["RS256"]),
        (private_pem(RSA_KEY), ["RS256"]),
        (private_pem(EC_KEY), ["ES256"]),
        ("hunter2" * 8, ["RS256"]),
        ("-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----", ["RS256", "ES256", "EdDSA"]),
        ("x" * 32, ["none"]),
        ("x" * 32, []),
    ],
    ids=range(11),
)
def test_a_key_that_cannot_verify_stops_the_start_without_being_quoted(
    material: str, algorithms: list[str]
) -> None:
    with pytest.raises(SettingsError) as refusal:
        FixedKey(material, algorithms)
    assert str(refusal.value).startswith("REALTIME_JWT_")
    assert "hunter2" not in str(refusal.value)


async def test_a_verifier_is_opened_for_exactly_one_key() -> None:
    async with open_verifier(RULES, secret=SECRET) as verifier:
        assert (await verifier.verify(signed({"sub": "7"}))).user_id == 7
    async with open_verifier(TokenRules(("RS256",)), public_key=pem(RSA_KEY)) as verifier:
        assert (await verifier.verify(signed({"sub": "7"}, RSA_KEY, "RS256"))).user_id == 7
    for wrong in ({}, {"secret": SECRET, "public_key": pem(RSA_KEY)}):
        with pytest.raises(SettingsError):
            async with open_verifier(RULES, **wrong):
                pytest.fail("opened")


def test_a_token_signed_for_the_demonstration_is_believed() -> None:
    rules = TokenRules(("HS256",), audience="realtime", issuer="demo")
    token = sign_token(
        SECRET,
        7,
        expires_in_seconds=60,
        scopes=[Scope.OPERATOR, Scope.PUBLISHER],
        device_id="phone",
        audience="realtime",
        issuer="demo",
    )
    identity = verify(token, rules)
    assert (identity.user_id, identity.device_id, identity.scopes) == (7, "phone", frozenset(Scope))
    assert time.time() + 50 < identity.expires_at < time.time() + 70


def test_a_token_signed_without_more_has_no_rights_beyond_its_user() -> None:
    identity = verify(sign_token(SECRET, 7, expires_in_seconds=60))
    assert (identity.scopes, identity.device_id) == (frozenset(), None)


def test_a_token_is_not_signed_with_a_secret_that_can_be_guessed() -> None:
    with pytest.raises(SettingsError, match="32 bytes") as refusal:
        sign_token("hunter2", 7, expires_in_seconds=60)
    assert "hunter2" not in str(refusal.value)
