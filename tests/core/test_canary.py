"""Canary membership, recomputed from its definition."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.canary import BUCKETS, Canary, bucket, conversation_key

texts = st.text(st.characters(codec=None), max_size=40)


@given(salt=st.text(max_size=20), key=st.text(max_size=80))
def test_a_bucket_is_the_first_eight_bytes_of_sha256_of_salt_and_key(salt: str, key: str) -> None:
    digest = hashlib.sha256(salt.encode() + key.encode()).digest()
    assert bucket(salt, key) == int.from_bytes(digest[:8], "big") % 10_000


def test_a_bucket_by_hand() -> None:
    # printf 's1conversation-7' | sha256sum → first sixteen digits
    assert hashlib.sha256(b"s1conversation-7").hexdigest()[:16] == f"{_first('s1conversation-7'):016x}"
    assert bucket("s1", "conversation-7") == _first("s1conversation-7") % 10_000


def _first(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


@given(salt=texts, key=texts)
def test_text_that_is_no_unicode_has_a_bucket_too(salt: str, key: str) -> None:
    assert 0 <= bucket(salt, key) < BUCKETS


@given(number=st.integers(0, BUCKETS - 1), task_type=st.text(max_size=5))
def test_nothing_and_everything_are_exact(number: int, task_type: str) -> None:
    assert not Canary(share=0).admits(number, task_type)
    assert Canary(share=BUCKETS).admits(number, task_type)


@given(number=st.integers(0, BUCKETS - 1), shares=st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)))
def test_raising_the_share_only_adds_members(number: int, shares: tuple[int, int]) -> None:
    low, high = sorted(shares)
    assert Canary(share=low).admits(number, "generation") <= Canary(share=high).admits(number, "generation")


@pytest.mark.parametrize("share", [1, 1000, 5000, 9999])
def test_a_share_admits_exactly_its_buckets(share: int) -> None:
    assert sum(Canary(share=share).admits(number, "vlm") for number in range(BUCKETS)) == share


def test_a_task_types_own_share_wins() -> None:
    canary = Canary(share=10, by_task_type={"vlm": 0, "extraction": BUCKETS})
    assert [canary.share_of(name) for name in ("vlm", "extraction", "generation")] == [0, BUCKETS, 10]
    assert not canary.admits(0, "vlm")
    assert canary.admits(BUCKETS - 1, "extraction")


def test_shares_are_about_right_for_real_keys() -> None:
    """10,000 conversations at 10 %: four standard deviations are 1.2 points."""
    inside = sum(Canary(share=1000).admits(bucket("salt", f"key-{number}"), "generation") for number in range(10_000))
    assert 880 <= inside <= 1120


@given(system=texts, first=texts)
def test_a_conversation_has_one_key_that_shows_none_of_its_text(system: str, first: str) -> None:
    key = conversation_key(system, first)
    assert key == conversation_key(system, first)
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")
    if "\0" not in system + first:
        assert key != conversation_key(system + "x", first)
        assert key != conversation_key(system, first + "x")
        assert (key == conversation_key(first, system)) == (system == first)
