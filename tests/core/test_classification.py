"""How findings combine: the most restrictive wins, and nothing lowers a class."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.classification import BY_LABEL, Classification, DataClass, Finding, combine

findings = st.builds(
    Finding,
    rule=st.sampled_from(["pod-default", "header", "email", "images"]),
    data_class=st.sampled_from(DataClass),
    source=st.sampled_from(["default", "header", "content", "body"]),
)


def test_the_classes_in_their_order() -> None:
    assert list(DataClass) == [DataClass.PUBLIC, DataClass.INTERNAL, DataClass.CONFIDENTIAL, DataClass.PII]
    assert [one.label for one in sorted(DataClass)] == ["public", "internal", "confidential", "pii"]
    assert {one.label: one for one in DataClass} == BY_LABEL


@pytest.mark.parametrize("data_class", list(DataClass))
def test_public_and_internal_may_go_to_the_cloud(data_class: DataClass) -> None:
    sensitive = data_class.label in ("confidential", "pii")
    assert data_class.sensitive == sensitive
    assert Classification(data_class, "header").sensitive == sensitive


@given(st.lists(findings, min_size=1))
def test_the_most_restrictive_finding_decides_and_the_first_of_those_names_the_source(kept: list[Finding]) -> None:
    combined = combine(iter(kept))
    assert combined.data_class == max(one.data_class for one in kept)
    assert combined.source == next(one.source for one in kept if one.data_class == combined.data_class)
    assert combined.findings == tuple(kept)


@given(st.lists(findings, min_size=1), findings, st.integers(0))
def test_one_more_finding_never_lowers_a_class(kept: list[Finding], more: Finding, place: int) -> None:
    longer = list(kept)
    longer.insert(place % (len(kept) + 1), more)
    assert combine(longer).data_class == max(combine(kept).data_class, more.data_class)


def test_no_finding_at_all_is_a_defect() -> None:
    with pytest.raises(ValueError, match="default"):
        combine([])
