"""US social security numbers: as the SSA writes them anywhere, in other forms beside a word for them."""

from __future__ import annotations

import random

import pytest
from content_support import DISGUISES, rules, scan, ssn
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.classification import DataClass

SAMPLE = "536-90-4399"


@pytest.mark.parametrize(
    "text",
    [
        SAMPLE,
        f"({SAMPLE})",
        "SSN 536904399",
        "ssn: 536 90 4399",
        "social security number is 536904399",
        '{"ssn":"536904399"}',
        f"番号{SAMPLE}",
        "536\u201190\u20114399",
    ],
)
def test_a_social_security_number_is_pii(text: str) -> None:
    assert ("us-ssn", DataClass.PII) in {(hit.rule, hit.data_class) for hit in scan(text)}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_it_is_found_in_every_disguise(disguise: str) -> None:
    assert "us-ssn" in rules(DISGUISES[disguise](SAMPLE))


@given(st.integers(0, 10**9))
def test_any_number_that_could_be_assigned_is_found(seed: int) -> None:
    assert "us-ssn" in rules(f"id {ssn(random.Random(seed))}.")


@pytest.mark.parametrize(
    "text",
    [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "078-05-1120",  # printed on a specimen card
        "1536-90-4399",
        "536-90-43991",
        "536-90-4399-1",
        "12-536-90-4399",
        "x536-90-4399",
        "536904399",
        "part 536904399 of the session",
        "2024-01-2024",
    ],
)
def test_what_is_no_social_security_number(text: str) -> None:
    assert "us-ssn" not in rules(text)
