"""contracts.close_codes: each number, its text, its advice."""

import pytest

from contracts.close_codes import ADVICE, MEANINGS, REASONS, Advice, CloseCode


def test_the_close_codes_are_those_of_the_contract() -> None:
    assert {code.value: ADVICE[code] for code in CloseCode} == {
        1000: Advice.COME_BACK,
        1008: Advice.STAY_AWAY,
        1009: Advice.STAY_AWAY,
        1012: Advice.COME_BACK,
        1013: Advice.BACK_OFF,
        4401: Advice.RENEW_TOKEN,
        4408: Advice.COME_BACK,
        4409: Advice.STAY_AWAY,
        4429: Advice.BACK_OFF,
    }


@pytest.mark.parametrize("code", CloseCode)
def test_every_code_has_a_reason_that_fits_a_close_frame(code: CloseCode) -> None:
    assert len(REASONS[code].encode()) <= 123


@pytest.mark.parametrize("code", set(CloseCode) - {CloseCode.NORMAL})
def test_every_code_but_the_normal_one_says_why(code: CloseCode) -> None:
    assert REASONS[code]


@pytest.mark.parametrize("code", CloseCode)
def test_every_code_has_an_advice_and_a_meaning(code: CloseCode) -> None:
    assert ADVICE[code]
    assert MEANINGS[code]


def test_a_stranger_reads_one_and_the_same_text_whatever_was_wrong() -> None:
    assert REASONS[CloseCode.NOT_ALLOWED] == "not authenticated or not allowed"


def test_no_two_codes_have_the_same_text() -> None:
    assert len(set(REASONS.values())) == len(CloseCode) == len(REASONS)


@pytest.mark.parametrize("code", CloseCode)
def test_every_code_may_be_sent_by_an_endpoint(code: CloseCode) -> None:
    """RFC 6455 §7.4: not 1004–1006 and 1015, which never travel; 4000–4999 are private use."""
    assert code in {1000, 1008, 1009, 1012, 1013} or 4000 <= code <= 4999
