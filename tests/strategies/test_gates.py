"""The gates before the money: their order, what each objects to, and who passes."""

from __future__ import annotations

from itertools import product

import pytest

from sidecar.core.call import Facts
from sidecar.core.decision import Answer
from sidecar.core.pricing import CloudModel, Price
from sidecar.core.task import Shape
from sidecar.strategies.gates import BEFORE_MONEY, Candidate, beyond, first_objection

ORDER = [
    "local_only_operation",
    "cloud_disabled",
    "sensitive_data",
    "no_cloud_model",
    "unpriced_model",
    "canary_holdback",
]
MODEL = CloudModel("gpt-oss:120b", Price(1, 1))


def candidate(
    *,
    blocked: bool = False,
    off: bool = False,
    sensitive: bool = False,
    requested: bool = False,
    mapped: bool = True,
    known: bool = True,
    priced: bool = True,
    in_canary: bool = True,
    facts: Facts | None = None,
    model: CloudModel | None = None,
) -> Candidate:
    found = model or CloudModel("gpt-oss:120b", Price(1, 1) if priced else None)
    return Candidate(
        facts=facts or Facts(),
        blocked="the cloud has no such route" if blocked else "",
        off="there is no api_key" if off else "",
        sensitive=sensitive,
        sensitive_source="header",
        requested=requested,
        wanted="gpt-oss:120b" if mapped else "",
        model=found if known and mapped else None,
        bucket=7,
        in_canary=in_canary,
    )


def first_reason(one: Candidate) -> str | None:
    answer = first_objection(one)
    return None if answer is None else answer.name


def test_the_gates_stand_in_the_contracts_order() -> None:
    assert [gate.reason for gate in BEFORE_MONEY] == ORDER


def test_every_combination_is_answered_by_the_first_gate_that_objects() -> None:
    for blocked, off, sensitive, requested, mapped, known, priced, in_canary in product((False, True), repeat=8):
        one = candidate(
            blocked=blocked,
            off=off,
            sensitive=sensitive,
            requested=requested,
            mapped=mapped,
            known=known,
            priced=priced,
            in_canary=in_canary,
        )
        # A model that the app named itself needs no mapping: not being in the catalogue, it has no price.
        no_model = not mapped or (not known and not requested)
        objecting = [
            blocked,
            off,
            sensitive,
            no_model,
            not (mapped and known and priced),
            not in_canary and not requested,
        ]
        expected = next((reason for reason, objects in zip(ORDER, objecting, strict=True) if objects), None)
        assert first_reason(one) == expected
        asked: list[Answer] = []
        assert first_objection(one, asked) == first_objection(one)
        count = len(ORDER) if expected is None else ORDER.index(expected) + 1
        assert [answer.name for answer in asked] == ORDER[:count]
        assert [answer.answer for answer in asked] == ["passes"] * (count - 1) + [
            "passes" if expected is None else "objects"
        ]
        assert all(answer.detail for answer in asked if answer.answer == "objects")


def facts(
    *, images: int = 0, tools: int = 0, thinks: bool = False, text: int = 0, context: int | None = None
) -> Facts:
    found = Facts()
    found.shape = Shape(images=images, text_bytes=text, tools=tools)
    found.tools, found.thinks, found.context_tokens = tools, thinks, context
    return found


@pytest.mark.parametrize("has", list(product((False, True), repeat=3)))
@pytest.mark.parametrize("needs", list(product((False, True), repeat=3)))
def test_a_call_may_not_ask_for_an_ability_that_the_catalogue_denies(
    has: tuple[bool, bool, bool], needs: tuple[bool, bool, bool]
) -> None:
    names = ("vision", "tools", "thinking")
    abilities = frozenset(name for name, there in zip(names, has, strict=True) if there)
    model = CloudModel("m", Price(1, 1), capabilities=abilities | {"completion"})
    call = facts(images=int(needs[0]), tools=int(needs[1]), thinks=needs[2])
    missing = any(need and not there for need, there in zip(needs, has, strict=True))
    assert bool(beyond(model, call)) == missing
    assert (first_reason(candidate(model=model, facts=call)) == "no_cloud_model") == missing
    assert (first_reason(candidate(model=model, facts=call, requested=True)) == "no_cloud_model") == missing
    assert not beyond(CloudModel("m", Price(1, 1)), call)  # what is unknown is not held against it


@pytest.mark.parametrize(
    ("text", "context", "limit", "fits"),
    [
        (4000, None, 1000, True),
        (4003, None, 1000, True),
        (4004, None, 1000, False),
        (0, 1000, 1000, True),
        (0, 1001, 1000, False),
        (4004, 10, 1000, False),
        (10**9, 10**9, None, True),
    ],
)
def test_a_call_may_not_be_longer_than_the_models_context(
    text: int, context: int | None, limit: int | None, fits: bool
) -> None:
    model = CloudModel("m", Price(1, 1), context_length=limit)
    assert (first_reason(candidate(model=model, facts=facts(text=text, context=context))) is None) == fits


def test_a_search_has_no_price() -> None:
    call = Facts()
    call.web_tools = True
    assert first_reason(candidate(facts=call, requested=True)) == "unpriced_model"


@pytest.mark.parametrize(("requested", "in_canary", "priced"), list(product((False, True), repeat=3)))
def test_nothing_opens_the_gate_for_a_sensitive_call(requested: bool, in_canary: bool, priced: bool) -> None:
    one = candidate(sensitive=True, requested=requested, in_canary=in_canary, priced=priced)
    assert first_reason(one) == "sensitive_data"
