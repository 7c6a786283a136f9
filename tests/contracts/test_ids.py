"""contracts.ids: what is an identifier, and what only looks like one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.ids import MAX_ID, parse_client_id, parse_diagnosis_id, parse_event_id

NO_DIAGNOSIS_ID = [
    "",
    "0",
    "-1",
    "+1",
    "01",
    " 1",
    "1 ",
    "1\n",
    "1.0",
    "1e3",
    "1_000",
    "0x10",
    "１",  # FULLWIDTH DIGIT ONE: int() reads it
    "1２",  # and the same further on
    "٣",  # ARABIC-INDIC DIGIT THREE: int() reads it
    "²",
    str(2**63),
    "9" * 19,
    "1" * 5000,
    "abc",
    "1\x00",
]


@given(st.integers(1, MAX_ID))
def test_a_diagnosis_id_in_decimal_is_read_as_itself(number: int) -> None:
    assert parse_diagnosis_id(str(number)) == number


@given(st.text() | st.integers().map(str) | st.from_regex(r"[+-]?[0-9]{1,21}\s?"))
def test_a_diagnosis_id_has_one_spelling(text: str) -> None:
    number = parse_diagnosis_id(text)
    assert number is None or (str(number) == text and 1 <= number <= MAX_ID)


@pytest.mark.parametrize("text", NO_DIAGNOSIS_ID)
def test_other_spellings_of_numbers_are_no_diagnosis_ids(text: str) -> None:
    assert parse_diagnosis_id(text) is None


def test_the_greatest_diagnosis_id_is_that_of_a_bigint() -> None:
    assert parse_diagnosis_id("9223372036854775807") == 2**63 - 1


@given(st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True))
def test_a_client_id_is_kept_as_it_is(text: str) -> None:
    assert parse_client_id(text) == text


@given(st.text())
def test_a_client_id_has_128_characters_of_letters_digits_dot_underscore_and_hyphen(text: str) -> None:
    allowed = re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text) is not None
    assert parse_client_id(text) == (text if allowed else None)


@pytest.mark.parametrize("text", ["", "a" * 129, "a\n", "a b", "ä", "a/b", "a:b", "Ａ"])
def test_other_texts_are_no_client_ids(text: str) -> None:
    assert parse_client_id(text) is None


@given(st.text())
def test_an_event_id_has_up_to_128_printable_characters_and_is_kept_as_it_is(text: str) -> None:
    allowed = 1 <= len(text) <= 128 and all(character.isprintable() for character in text)
    assert parse_event_id(text) == (text if allowed else None)


@pytest.mark.parametrize("text", ["", "a" * 129, "a\n", "\x00", "a\u2028b", "\ud800"])
def test_what_cannot_be_printed_on_one_line_is_no_event_id(text: str) -> None:
    assert parse_event_id(text) is None


def test_an_event_id_may_have_spaces_and_letters_of_any_script() -> None:
    assert parse_event_id("Ereignis № 7 für Łódź") == "Ereignis № 7 für Łódź"
