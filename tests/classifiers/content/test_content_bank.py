"""IBANs and payment cards: valid ones in any writing, nothing else that is long and made of digits."""

from __future__ import annotations

import random

import pytest
import re2
from content_support import CARD_SHAPES, DISGUISES, arabic_digits, card, grouped, iban, luhn_digit, rules, scan
from hypothesis import given
from hypothesis import strategies as st
from stdnum import numdb

from sidecar.classifiers.content.rules import bank
from sidecar.core.classification import DataClass

VISA = "4111111111111111"
SAMPLE_IBAN = "DE89370400440532013000"


@pytest.mark.parametrize(
    "text",
    [
        VISA,
        grouped(VISA),
        grouped(VISA, "-"),
        " ".join(VISA),
        "3782 822463 10005",
        "378282246310005",
        "5555555555554444",
        "6011111111111117",
        "30569309025904",
        "2223003122003222",
        "4222222222222",
        f"番号{VISA}です",
        f"card:{VISA},exp 12/26",
        f"{{'pan':'{VISA}'}}",
        f"2024-01-15 {grouped(VISA)} ok",
        f"No.{VISA}",
        arabic_digits(VISA),
        "4111\u00a01111\u00a01111\u00a01111",
        "4111\u20131111\u20131111\u20131111",
        "④①①①①①①①①①①①①①①①",
        "㊶11 1111 1111 1111",
        f"{VISA}CVV123",
        f"{VISA}_cvv",
        f"VISA{VISA}",
        f"card_{VISA}",
        f"{grouped(VISA)} 12a",
    ],
)
def test_a_card_is_pii(text: str) -> None:
    assert ("payment-card", DataClass.PII) in {(hit.rule, hit.data_class) for hit in scan(text)}


def test_two_cards_in_one_row_are_two_hits() -> None:
    text = f"{grouped(VISA)} 5555 5555 5555 4444"
    assert [text[hit.start : hit.end] for hit in scan(text)] == [grouped(VISA), "5555 5555 5555 4444"]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_card_and_iban_are_found_in_every_disguise(disguise: str) -> None:
    assert "payment-card" in rules(DISGUISES[disguise](VISA))
    assert "iban" in rules(DISGUISES[disguise](SAMPLE_IBAN))


@given(st.integers(0, 10**9), st.sampled_from(["", " ", "-"]))
def test_any_valid_card_is_found(seed: int, separator: str) -> None:
    number = card(random.Random(seed))
    assert "payment-card" in rules(grouped(number, separator) if separator else number)


@given(st.sampled_from(CARD_SHAPES), st.integers(0, 10**9), st.integers(1, 9))
def test_a_wrong_check_digit_is_no_card(shape: tuple[str, int], seed: int, off: int) -> None:
    prefix, length = shape
    payload = prefix + f"{seed:018d}"[-(length - len(prefix) - 1) :]
    wrong = str((int(luhn_digit(payload)) + off) % 10)
    assert "payment-card" not in rules(f"order {payload}{wrong} shipped")


@pytest.mark.parametrize(
    "text",
    [
        "1700000000000 1700000000000000",  # time stamps in ms and µs
        "20240115123045",
        "550e8400-e29b-41d4-a716-446655440000",
        "12345678-1234-4111-8111-411111111111",
        f"0.{VISA}",
        f"{VISA}.5",
        f"a{VISA}",
        f"{VISA}b",
        f"{VISA}cafe",
        f"cafe{VISA}",
        f"{VISA}x1",
        f"1{VISA}{VISA}",
        "9999 8888 7777 6666",
        "41 11 11 11 11 11 11 11",
        "4111\n1111\n1111\n1111",
        "1 0 1 1 0 0 1 0 1 0 1 1 0 0 1 0",
        "2001 2002 2003 2004",
        "0000000000000000",
    ],
)
def test_other_long_numbers_are_no_cards(text: str) -> None:
    assert "payment-card" not in rules(text)


@pytest.mark.parametrize(
    "text",
    [
        SAMPLE_IBAN,
        SAMPLE_IBAN.lower(),
        grouped(SAMPLE_IBAN),
        grouped(SAMPLE_IBAN, "-"),
        "IBAN DE 89 370400440532013000 BIC COBADEFFXXX",
        "GB29 NWBK 6016 1331 9268 19",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
        f"口座{SAMPLE_IBAN}です",
        f"IBAN{SAMPLE_IBAN}",
        f"iban_{SAMPLE_IBAN}",
        f"{SAMPLE_IBAN}BIC",
        f"AB-12 {SAMPLE_IBAN}",
    ],
)
def test_an_iban_is_pii(text: str) -> None:
    assert ("iban", DataClass.PII) in {(hit.rule, hit.data_class) for hit in scan(text)}


@given(st.integers(0, 10**9))
def test_any_valid_iban_is_found_and_none_with_a_digit_changed(seed: int) -> None:
    number = iban(random.Random(seed))
    assert "iban" in rules(f"to {number}.")
    changed = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert "iban" not in rules(f"to {changed}.")


@pytest.mark.parametrize(
    "text",
    [
        "DE00370400440532013000",
        f"{SAMPLE_IBAN}9",
        f"x{SAMPLE_IBAN}",
        f"cafe{SAMPLE_IBAN}",
        f"{SAMPLE_IBAN}x",
        "ZZ89370400440532013000",
        "sha1 de89a3704004405320130001de89a37040044053",
        "in 20 minutes or at 12 noon",
    ],
)
def test_what_is_no_iban(text: str) -> None:
    assert "iban" not in rules(text)


def test_the_span_of_a_number_leaves_out_what_is_glued_to_it() -> None:
    for number in (VISA, SAMPLE_IBAN):
        text = f"Größe: Nummer{number}Ende"
        (hit,) = scan(text)
        assert text[hit.start : hit.end] == number


def test_the_span_of_an_iban_ends_with_it() -> None:
    text = f"{grouped(SAMPLE_IBAN)} BIC COBADEFFXXX"
    (hit,) = scan(text)
    assert text[hit.start : hit.end] == grouped(SAMPLE_IBAN)


def test_every_country_of_the_registry_is_looked_for() -> None:
    countries = [country for _, country, *_ in numdb.get("iban").prefixes]
    assert len(countries) > 80
    (rule,) = (rule for rule in bank.RULES if rule.id == "iban")
    missing = [country for country in countries if re2.search(rule.pattern, f"{country}12") is None]
    assert missing == []
