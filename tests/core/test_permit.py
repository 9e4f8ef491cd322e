"""Permits for the door to the cloud: one call, one body, one use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.classification import Classification, DataClass
from sidecar.core.decision import CACHE, CLOUD, LOCAL, NONE, Decision
from sidecar.core.permit import Permit, PermitError, PermitOffice

PUBLIC = Classification(DataClass.PUBLIC, "default")
TO_CLOUD = Decision(CLOUD, "high_quality_extraction", 0.95)
BODY = b'{"model": "llama3"}'


@pytest.fixture
def office() -> PermitOffice:
    return PermitOffice()


def issued(office: PermitOffice, body: bytes = BODY, generation: int = 1) -> Permit:
    return office.issue(PUBLIC, TO_CLOUD, body, "gpt-oss:120b", generation)


def test_a_permit_is_good_once_for_its_own_body(office: PermitOffice) -> None:
    permit = issued(office)
    office.redeem(permit, BODY, 1)
    with pytest.raises(PermitError, match="used before"):
        office.redeem(permit, BODY, 1)


@pytest.mark.parametrize("data_class", list(DataClass))
@pytest.mark.parametrize("location", [LOCAL, CLOUD, CACHE, NONE])
def test_only_what_is_not_sensitive_and_decided_for_the_cloud_gets_one(
    office: PermitOffice, data_class: DataClass, location: str
) -> None:
    classification = Classification(data_class, "header")
    decision = Decision(location, "any", 1.0)
    if data_class in (DataClass.PUBLIC, DataClass.INTERNAL) and location == CLOUD:
        permit = office.issue(classification, decision, BODY, "m", 1)
        office.redeem(permit, BODY, 1)
    else:
        with pytest.raises(PermitError):
            office.issue(classification, decision, BODY, "m", 1)


@given(body=st.binary(max_size=40), other=st.binary(max_size=40))
def test_a_permit_is_for_one_body_and_a_wrong_try_burns_it(body: bytes, other: bytes) -> None:
    office = PermitOffice()
    permit = issued(office, body)
    if body != other:
        with pytest.raises(PermitError, match="another body"):
            office.redeem(permit, other, 1)
        with pytest.raises(PermitError, match="used before"):
            office.redeem(permit, body, 1)
    else:
        office.redeem(permit, other, 1)


@pytest.mark.parametrize("generation", [0, 2, -1])
def test_a_permit_of_other_settings_is_not_good(office: PermitOffice, generation: int) -> None:
    permit = issued(office, generation=1)
    with pytest.raises(PermitError, match="settings have changed"):
        office.redeem(permit, BODY, generation)
    with pytest.raises(PermitError):
        office.redeem(permit, BODY, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"number": 999},
        {"body": bytes(32)},
        {"model": "another:1b"},
        {"generation": 2},
        {"seal": bytes(32)},
        {"seal": b""},
    ],
)
def test_a_changed_permit_is_not_ours(office: PermitOffice, change: dict[str, int | bytes | str]) -> None:
    first, second = issued(office), issued(office)
    forged = replace(first, **change)  # type: ignore[arg-type]
    with pytest.raises(PermitError, match="not issued here"):
        office.redeem(forged, BODY, forged.generation)
    # And the real ones are still good: a forger cannot use them up either.
    office.redeem(first, BODY, 1)
    office.redeem(second, BODY, 1)


@given(seal=st.binary(min_size=32, max_size=32))
def test_a_guessed_seal_is_not_ours(seal: bytes) -> None:
    office = PermitOffice()
    with pytest.raises(PermitError, match="not issued here"):
        office.redeem(replace(issued(office), seal=seal), BODY, 1)


def test_a_permit_of_another_office_is_not_ours(office: PermitOffice) -> None:
    issued(office)
    with pytest.raises(PermitError, match="not issued here"):
        office.redeem(issued(PermitOffice()), BODY, 1)


def test_parts_of_a_permit_cannot_be_moved_into_each_other(office: PermitOffice) -> None:
    """The seal is over a joined text: a model's name with a separator must not pass for another split of it."""
    permit = office.issue(PUBLIC, TO_CLOUD, BODY, "a\0b", 1)
    moved = replace(permit, body=permit.body + b"\0a", model="b")
    with pytest.raises(PermitError):
        office.redeem(moved, BODY, 1)


def test_a_withdrawn_permit_is_not_good_any_more(office: PermitOffice) -> None:
    permit, other = issued(office), issued(office)
    office.withdraw(permit)
    with pytest.raises(PermitError, match="used before"):
        office.redeem(permit, BODY, 1)
    office.redeem(other, BODY, 1)


def test_a_permit_shows_nothing_of_the_body(office: PermitOffice) -> None:
    assert "marker-text" not in repr(issued(office, b"marker-text"))
