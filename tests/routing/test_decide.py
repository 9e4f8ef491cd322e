"""From an assessed call to a verdict: strategy, gates, canary, and the same story told by `explain`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from itertools import product
from typing import Any

import pytest
from decisions import (
    CALM,
    CHAT,
    COMPLETIONS,
    EMBED,
    MAPPED,
    MAPPING,
    OTHER,
    SHORT,
    TEXT_ONLY,
    UNPRICED,
    call,
    policy,
)
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.canary import BUCKETS, Canary
from sidecar.core.classification import DataClass
from sidecar.core.pricing import Price, cost
from sidecar.core.task import Shape
from sidecar.dialects.base import Route
from sidecar.routing.assess import Assessment
from sidecar.routing.decide import Conditions, Verdict, decide, price_of
from sidecar.routing.policy import Fallback, Policy
from sidecar.strategies import STRATEGIES

GATES = [
    "local_only_operation",
    "cloud_disabled",
    "sensitive_data",
    "no_cloud_model",
    "unpriced_model",
    "canary_holdback",
]
RULES = {
    "hybrid": ["sensitive", "budget", "extraction_quality", "latency", "model_size", "batch", "gpu", "default"],
    "quality_optimized": ["sensitive", "quality", "complexity", "default"],
    "cost_optimized": ["budget", "default"],
}
NONE_IN = Canary(share=0)


def verdict_of(
    assessment: Assessment, conditions: Conditions = CALM, settings: Policy | None = None, route: Route = CHAT
) -> Verdict:
    return decide(settings or policy(), route, assessment, conditions)


def final(
    assessment: Assessment, conditions: Conditions = CALM, settings: Policy | None = None, route: Route = CHAT
) -> tuple[str, str]:
    decision = verdict_of(assessment, conditions, settings, route).final
    return decision.location, decision.reason


# The strategy's answer.


def test_a_cloud_answer_that_no_gate_objects_to() -> None:
    verdict = verdict_of(call())
    assert verdict.to_cloud
    assert asdict(verdict.final) == {
        "location": "cloud",
        "reason": "high_quality_extraction",
        "confidence": 0.95,
        "strategy": "hybrid",
    }
    assert verdict.model is not None
    assert verdict.model.name == MAPPED


@pytest.mark.parametrize(
    ("assessment", "conditions", "reason"),
    [
        (call(DataClass.PII), CALM, "sensitive_data"),
        (call(), CALM._replace(budget_exceeded=True), "budget_exceeded"),
        (call(quality="low", latency_ms=499), CALM, "low_latency_required"),
        (call(quality="low"), CALM, "default_local"),
    ],
)
def test_a_local_answer_keeps_its_reason_whatever_the_gates_would_say(
    assessment: Assessment, conditions: Conditions, reason: str
) -> None:
    settings = policy({}, cloud_off="there is no api_key", canary=NONE_IN)
    verdict = verdict_of(assessment, conditions._replace(canonical=False), settings, EMBED)
    assert (verdict.final.location, verdict.final.reason) == ("local", reason)
    assert verdict.objection is None
    assert not verdict.to_cloud


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (CALM._replace(model_gb=10.5), "model_too_large"),
        (CALM._replace(local_calls=11), "large_batch"),
        (CALM._replace(gpu_pct=81.0), "local_gpu_busy"),
    ],
)
def test_the_state_of_the_local_server_reaches_the_strategy(conditions: Conditions, reason: str) -> None:
    assert final(call(quality="low"), conditions) == ("cloud", reason)


# The gates.


@pytest.mark.parametrize("named", [False, True])
def test_every_combination_of_objections_is_answered_by_the_first_gate(named: bool) -> None:
    for blocked, off, sensitive, unmapped, unpriced, outside in product((False, True), repeat=6):
        mapping = {} if unmapped else {"extraction": UNPRICED if unpriced else MAPPED}
        settings = policy(mapping, cloud_off="off" if off else "", canary=NONE_IN if outside else Canary())
        conditions = CALM._replace(canonical=not blocked)
        if named:
            conditions = conditions._replace(cloud_named="" if unmapped else UNPRICED if unpriced else MAPPED)
        assessment = call(DataClass.PII if sensitive else DataClass.PUBLIC)
        holds = [blocked, off, sensitive, unmapped, unpriced, outside and not named]
        expected = next((gate for gate, objects in zip(GATES, holds, strict=True) if objects), None)
        location, reason = final(assessment, conditions, settings)
        if sensitive and not named:
            assert (location, reason) == ("local", "sensitive_data")  # the strategy said so first
        elif expected is None:
            assert (location, reason) == ("cloud", "cloud_model_requested" if named else "high_quality_extraction")
        else:
            assert (location, reason) == ("local", expected)


@pytest.mark.parametrize(
    ("route", "assessment", "conditions"),
    [
        (EMBED, call(), CALM),
        (COMPLETIONS, call(), CALM),
        (CHAT, call(load_only=True), CALM),
        (CHAT, call(cloud_blocker="the cloud would fetch a URL"), CALM),
        (CHAT, call(), CALM._replace(canonical=False)),
    ],
)
def test_what_the_cloud_has_no_route_for_stays_local(
    route: Route, assessment: Assessment, conditions: Conditions
) -> None:
    assert final(assessment, conditions, route=route) == ("local", "local_only_operation")
    named = conditions._replace(cloud_named=MAPPED)
    assert final(assessment, named, route=route) == ("local", "local_only_operation")


@pytest.mark.parametrize("data_class", list(DataClass))
@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("named", [None, MAPPED, UNPRICED, "unknown"])
def test_no_sensitive_call_goes_to_the_cloud_by_any_strategy(
    data_class: DataClass, strategy: str, named: str | None
) -> None:
    for quality, complexity, busy in product(("low", "high"), ("low", "high"), (None, 100.0)):
        conditions = CALM._replace(cloud_named=named, gpu_pct=busy, model_gb=100.0, local_calls=100)
        assessment = call(data_class, quality=quality, complexity=complexity, cloud_model=OTHER)
        verdict = verdict_of(assessment, conditions, policy(strategy=STRATEGIES[strategy]))
        assert not (verdict.to_cloud and data_class >= DataClass.CONFIDENTIAL)


# Which model.


def test_the_app_may_choose_a_cloud_model_of_the_catalogue() -> None:
    verdict = verdict_of(call(cloud_model=OTHER))
    assert verdict.to_cloud
    assert verdict.model is not None
    assert verdict.model.name == OTHER


@pytest.mark.parametrize("written", [OTHER.lower(), OTHER.upper(), "oTHER:120B"])
def test_its_name_counts_in_any_case_and_goes_out_as_the_catalogue_writes_it(written: str) -> None:
    for verdict in (
        verdict_of(call(cloud_model=written)),
        verdict_of(call(), CALM._replace(cloud_named=written)),
    ):
        assert verdict.to_cloud
        assert verdict.model is not None
        assert verdict.model.name == OTHER


def test_a_chosen_model_that_is_not_in_the_catalogue_does_not_fall_back_to_the_mapping() -> None:
    assert final(call(cloud_model="unknown:1b")) == ("local", "no_cloud_model")


def test_a_task_type_without_a_mapping_has_no_model() -> None:
    assert final(call(), settings=policy({"generation": MAPPED})) == ("local", "no_cloud_model")


@pytest.mark.parametrize(
    ("assessment", "reason"),
    [
        (call(cloud_model=UNPRICED), "unpriced_model"),
        (call(cloud_model=TEXT_ONLY), None),
        (call(cloud_model=TEXT_ONLY, shape=Shape(images=1)), "no_cloud_model"),
        (call(cloud_model=TEXT_ONLY, tools=1), "no_cloud_model"),
        (call(cloud_model=TEXT_ONLY, thinks=True), "no_cloud_model"),
        (call(cloud_model=SHORT, shape=Shape(text_bytes=400)), None),
        (call(cloud_model=SHORT, shape=Shape(text_bytes=404)), "no_cloud_model"),
        (call(cloud_model=SHORT, context_tokens=101), "no_cloud_model"),
        (call(web_tools=True), "unpriced_model"),
    ],
)
def test_what_a_model_cannot_do_or_has_no_price_for_stays_local(assessment: Assessment, reason: str | None) -> None:
    expected = ("cloud", "high_quality_extraction") if reason is None else ("local", reason)
    assert final(assessment) == expected


# A cloud model that the call itself names.


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_named_cloud_model_is_asked_for_in_every_strategy(strategy: str) -> None:
    settings = policy(strategy=STRATEGIES[strategy], canary=NONE_IN)
    assessment = call(quality="low", latency_ms=1, cloud_model=OTHER)
    verdict = verdict_of(assessment, CALM._replace(cloud_named=MAPPED, budget_exceeded=True), settings)
    assert verdict.to_cloud
    assert verdict.model is not None
    assert verdict.model.name == MAPPED  # not the header's: the body says what it wants
    decision = verdict.final
    assert (decision.location, decision.reason, decision.confidence, decision.strategy) == (
        "cloud",
        "cloud_model_requested",
        1.0,
        strategy,
    )


@pytest.mark.parametrize(
    ("named", "assessment", "reason"),
    [
        (MAPPED, call(DataClass.CONFIDENTIAL), "sensitive_data"),
        ("unknown:1b", call(), "unpriced_model"),
        (UNPRICED, call(), "unpriced_model"),
        (TEXT_ONLY, call(tools=1), "no_cloud_model"),
        ("", call(), "no_cloud_model"),
    ],
)
def test_the_gates_hold_for_a_named_cloud_model(named: str, assessment: Assessment, reason: str) -> None:
    assert final(assessment, CALM._replace(cloud_named=named)) == ("local", reason)


# The budget as a rule.


@pytest.mark.parametrize("setting", ["local", "error"])
def test_a_call_that_only_the_budget_keeps_from_the_cloud_is_refused_if_the_settings_say_so(setting: str) -> None:
    verdict = verdict_of(
        call(), CALM._replace(budget_exceeded=True), policy(fallback=Fallback(on_budget_exceeded=setting))
    )
    assert (verdict.final.location, verdict.final.reason) == ("local", "budget_exceeded")
    assert verdict.refuse == (setting == "error")


@pytest.mark.parametrize(
    ("assessment", "change", "conditions", "route"),
    [
        (call(quality="low"), {}, CALM, CHAT),
        (call(DataClass.PII), {}, CALM, CHAT),
        (call(), {"canary": NONE_IN}, CALM, CHAT),
        (call(), {"cloud_off": "off"}, CALM, CHAT),
        (call(), {"strategy": STRATEGIES["cost_optimized"]}, CALM, CHAT),
        (call(cloud_model="unknown"), {}, CALM, CHAT),
        (call(cloud_model=UNPRICED), {}, CALM, CHAT),
        (call(), {}, CALM, COMPLETIONS),
        (call(), {}, CALM._replace(canonical=False), CHAT),
    ],
)
def test_a_call_that_would_be_local_anyway_is_never_refused_for_the_budget(
    assessment: Assessment, change: dict[str, Any], conditions: Conditions, route: Route
) -> None:
    settings = policy(fallback=Fallback(on_budget_exceeded="error"), **change)
    verdict = verdict_of(assessment, conditions._replace(budget_exceeded=True), settings, route)
    assert verdict.final.location == "local"
    assert not verdict.refuse


# The canary.


def expected_bucket(salt: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(salt.encode() + key.encode()).digest()[:8], "big") % 10_000


@given(
    salt=st.text(max_size=8),
    sticky=st.text(st.characters(codec="latin-1"), max_size=8),
    system=st.text(max_size=8),
    first=st.text(max_size=8),
    request_id=st.text(st.characters(codec="ascii"), min_size=1, max_size=8),
    share=st.integers(0, BUCKETS),
)
def test_the_bucket_is_that_of_the_header_else_the_conversation_else_the_request(
    salt: str, sticky: str, system: str, first: str, request_id: str, share: int
) -> None:
    conversation = hashlib.sha256(f"{system}\0{first}".encode()).hexdigest() if system or first else ""
    bucket = expected_bucket(salt, sticky or conversation or request_id)
    verdict = verdict_of(
        call(system_text=system, first_user_text=first),
        CALM._replace(sticky=sticky, request_id=request_id),
        policy(canary=Canary(share, {}, salt, "X-Conversation")),
    )
    assert (verdict.bucket, verdict.in_canary) == (bucket, bucket < share)
    expected = ("cloud", "high_quality_extraction") if bucket < share else ("local", "canary_holdback")
    assert (verdict.final.location, verdict.final.reason) == expected


@given(shares=st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)), request_id=st.uuids())
def test_raising_the_share_moves_no_call_out_of_the_cloud(shares: tuple[int, int], request_id: object) -> None:
    low, high = sorted(shares)
    conditions = CALM._replace(request_id=str(request_id))
    before = verdict_of(call(), conditions, policy(canary=Canary(low)))
    after = verdict_of(call(), conditions, policy(canary=Canary(high)))
    assert before.bucket == after.bucket
    assert before.to_cloud <= after.to_cloud


@given(request_id=st.uuids(), text=st.text(max_size=5))
def test_no_call_and_every_call(request_id: object, text: str) -> None:
    conditions = CALM._replace(request_id=str(request_id))
    assert final(call(first_user_text=text), conditions, policy(canary=NONE_IN)) == ("local", "canary_holdback")
    assert verdict_of(call(first_user_text=text), conditions, policy(canary=Canary(BUCKETS))).to_cloud


@given(requests=st.lists(st.uuids(), min_size=2, max_size=5), salt=st.text(max_size=5), share=st.integers(0, BUCKETS))
def test_a_conversation_keeps_its_place_whatever_else_changes(requests: list[object], salt: str, share: int) -> None:
    settings = policy(canary=Canary(share, {}, salt))
    places = {
        verdict_of(
            call(system_text="You are kind.", first_user_text="Hello", shape=Shape(turns=number)),
            CALM._replace(request_id=str(request), gpu_pct=float(number)),
            settings,
        ).to_cloud
        for number, request in enumerate(requests)
    }
    assert len(places) == 1


def test_a_task_types_own_share_counts() -> None:
    settings = policy(canary=Canary(0, {"vlm": BUCKETS}))
    assert final(call(task_type="vlm"), settings=settings) == ("cloud", "high_quality_extraction")
    assert final(call(task_type="extraction"), settings=settings) == ("local", "canary_holdback")


# Explaining.

conditions_any = st.builds(
    Conditions,
    budget_exceeded=st.booleans(),
    gpu_pct=st.sampled_from([None, 80.0, 81.0]),
    model_gb=st.sampled_from([None, 10.0, 10.5]),
    local_calls=st.sampled_from([0, 10, 11]),
    cloud_named=st.sampled_from([None, None, MAPPED, UNPRICED, "unknown", ""]),
    canonical=st.sampled_from([True, True, True, False]),
    sticky=st.sampled_from(["", "a", "b"]),
    request_id=st.sampled_from(["r1", "r2"]),
)
calls_any = st.builds(
    call,
    st.sampled_from([DataClass.PUBLIC, DataClass.INTERNAL, DataClass.CONFIDENTIAL]),
    task_type=st.sampled_from(["extraction", "generation", "embedding", "vlm"]),
    quality=st.sampled_from(["low", "high"]),
    complexity=st.sampled_from(["low", "high"]),
    latency_ms=st.sampled_from([499, 500]),
    cloud_model=st.sampled_from([None, OTHER, UNPRICED, TEXT_ONLY, "unknown"]),
    tools=st.sampled_from([0, 1]),
    web_tools=st.sampled_from([False, False, False, True]),
    first_user_text=st.sampled_from(["", "Hello"]),
)
policies_any = st.builds(
    policy,
    st.sampled_from([MAPPING, {}]),
    strategy=st.sampled_from(list(STRATEGIES.values())),
    cloud_off=st.sampled_from(["", "", "there is no api_key"]),
    canary=st.sampled_from([Canary(), Canary(5000), NONE_IN]),
    fallback=st.sampled_from([Fallback(), Fallback(on_budget_exceeded="error")]),
)


@given(policies_any, st.sampled_from([CHAT, CHAT, EMBED]), calls_any, conditions_any)
def test_explaining_lists_what_was_asked_in_order_and_decides_the_same(
    settings: Policy, route: Route, assessment: Assessment, conditions: Conditions
) -> None:
    plain = decide(settings, route, assessment, conditions)
    told = decide(settings, route, assessment, conditions, explain=True)
    assert (plain.decision, plain.model, plain.objection, plain.refuse, plain.final) == (
        told.decision,
        told.model,
        told.objection,
        told.refuse,
        told.final,
    )
    assert (plain.bucket, plain.in_canary, plain.to_cloud) == (told.bucket, told.in_canary, told.to_cloud)
    assert (list(plain.rules), list(plain.gates)) == ([], [])

    names = [rule.name for rule in told.rules]
    if conditions.cloud_named is not None:
        assert names == ["cloud_model_requested"]
    else:
        assert names == RULES[settings.strategy.name][: len(names)]
    *passed_by, answered = told.rules
    assert {rule.answer for rule in passed_by} <= {"no"}
    assert answered.answer == told.decision.location
    if conditions.cloud_named is None:
        assert answered.detail == told.decision.reason

    asked = [gate.name for gate in told.gates]
    assert asked == GATES[: len(asked)]
    if told.decision.location == "local":
        assert asked == []
    elif told.objection is None:
        assert asked == GATES
        assert {gate.answer for gate in told.gates} == {"passes"}
    else:
        assert told.gates[-1] == told.objection
        assert {gate.answer for gate in told.gates[:-1]} <= {"passes"}


# The price.


@given(
    price=st.builds(Price, st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1000, 3000)),
    asked=st.none() | st.integers(1, 10_000),
    choices=st.integers(1, 4),
    used=st.tuples(st.integers(0, 500), st.integers(0, 10_000)),
)
def test_a_worst_case_covers_what_the_capped_call_can_use(
    price: Price, asked: int | None, choices: int, used: tuple[int, int]
) -> None:
    from sidecar.core.pricing import CloudModel

    assessment = call(raw=b"x" * 500, output_cap=asked, choices=choices)
    priced = price_of(policy(max_output_tokens=2048), assessment, CloudModel("m", price))
    assert priced is not None
    worst, cap = priced
    assert cap <= min(asked or 2048, 2048)
    assert worst.micro_usd >= cost(price, used[0], min(used[1], cap) * choices)


def test_the_bound_on_output_is_part_of_the_input_where_a_call_may_run_twice() -> None:
    model = policy().catalogue[MAPPED]
    once = price_of(policy(), call(output_cap=900, choices=2), model)
    twice = price_of(policy(), call(output_cap=900, choices=2, reruns=True), model)
    assert once is not None
    assert twice is not None
    assert twice[0].tokens_in - once[0].tokens_in >= 1800
    assert twice[0].micro_usd > once[0].micro_usd
    assert (twice[0].tokens_out, twice[1]) == (once[0].tokens_out, once[1])


def test_without_a_price_there_is_no_worst_case() -> None:
    settings = policy()
    assert price_of(settings, call(), settings.catalogue[UNPRICED]) is None
