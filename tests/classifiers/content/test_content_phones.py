"""Telephone numbers: international anywhere, national beside a word, and no other numbers."""

from __future__ import annotations

import pytest
from content_support import DISGUISES, rules, scan

from sidecar.core.classification import DataClass


@pytest.mark.parametrize(
    "text",
    [
        "+49 170 1234567",
        "+491701234567",
        "+1-202-555-0143",
        "+1 (202) 555-0143",
        "+1 555 123 4567",
        "+49 (0)30 901820",
        "0049 30 901820",
        "dial 0044 20 7946 0958",
        "電話：+81 3-1234-5678",
        "+33 6 12 34 56 78, 2 Personen",
        "00 49 170 1234567",
        "tel:+15551234567",
        "+49\u00a0170\u00a01234567",
        "+٤٩ ١٧٠ ١٢٣٤٥٦٧",
        "Call +1-415-555-0132x204",
        "+1-415-555-0132ext204",
        "+49 30 901820Zentrale",
        "Tel+49 30 901820",
        "Tel+4930901820",
        "T+49 30 901820",
        "++49 30 901820",
        "+ 49 30 901820",
        "Tel.: + 4930901820",
    ],
)
def test_the_international_form_counts_anywhere(text: str) -> None:
    assert ("phone", DataClass.PII) in {(hit.rule, hit.data_class) for hit in scan(text)}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_it_is_found_in_every_disguise(disguise: str) -> None:
    assert "phone" in rules(DISGUISES[disguise]("+49 170 1234567"))


@pytest.mark.parametrize(
    "text",
    [
        "Tel.: 030 901820",
        "Telefon 030/90182-0",
        "phone: 202-555-0143",
        "my phone number is (202) 555-0143",
        "Tel. 555-0123",
        "Please call me at 202-555-0143 tomorrow",
        "Please ring 020 7946 0958 after six",
        "téléphone : 01 42 68 53 00",
        "Handy 0170 1234567",
        "teléfono 612 345 678",
        "llámame al 612 345 678",
        "telefono: 333 1234567",
        "telefoon 06-12345678",
        "komórka 601 234 567",
        "fax (030) 901820",
        "030 901820 (Telefon)",
        '{"phone":"030 901820"}',
        "home_phone=2025550143",
        "mobile_no: 9876543210",
        "電話 03-1234-5678",
        "My number is 0171 5551234",
        "meine Nummer: 0151 23456789",
        "Call 555-123-4567",
        "Phone: 415-555-0132x204",
        "phone 415-555-0132ext. 204",
    ],
)
def test_the_national_form_counts_beside_a_word_for_it(text: str) -> None:
    assert "phone" in rules(text)


@pytest.mark.parametrize(
    "text",
    [
        "030 901820",
        "Room 030 901820",
        "202-555-0143",
        "call f(1234567890)",
        "the system call took 612345678 ns",
        "the phone has 128 GB and 4000 mAh",
        "phone launch 2024-01-15 and 15.01.2024",
        "ticket call #12345678",
        "phone weight 0.1234567 kg",
        "phones sold: 1.234567%",
        "1+1234567",
        "+1234567890",
        "x = a +12345678;",
        "x = a + 4930901820",
        "t+4930901820",
        "1 + 49 30 901820",
        "f(x) + 49 30 901820",
        "1+49 30 901820",
        "+4930901820abc",
        "phone 4155550132x20cafe",
        "2024-01-15T10:30:00+02:00",
        "1e+10000000",
        "+0100",
        "00 10 20 30 40 50 60 70 80 90",
        "1001234567890",
        "version 0.0049.30.901820",
        "smartphone",
    ],
)
def test_other_numbers_are_no_telephone_numbers(text: str) -> None:
    assert "phone" not in rules(text)


def test_the_span_is_the_number() -> None:
    text = "Wählen Sie +1-202-555-0143 2 mal"
    (hit,) = scan(text)
    assert text[hit.start : hit.end] == "+1-202-555-0143"
