"""From a call's assessment and the state of things to a decision: the strategy, then the gates before the money."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sidecar.core.canary import bucket, conversation_key
from sidecar.core.decision import CLOUD, LOCAL, Answer, Decision, Situation
from sidecar.core.pricing import CloudModel, WorstCase, input_bound, output_cap, worst_case
from sidecar.dialects.base import Route
from sidecar.routing.assess import Assessment
from sidecar.routing.policy import Policy
from sidecar.strategies.gates import BUDGET_EXCEEDED, Candidate, first_objection

REQUESTED = "cloud_model_requested"
_SHOWN = re.compile(r"[!-~]{1,128}\Z")


class Conditions(NamedTuple):
    """The state of things when a call is decided.

    `cloud_named` is the cloud model that the call itself names (see `core.models.cloud_base`), None where it names
    a local one. `canonical` says that its path is the route's own spelling. `sticky` is the value of the canary's
    header, empty where there is none.
    """

    budget_exceeded: bool
    gpu_pct: float | None
    model_gb: float | None
    local_calls: int
    cloud_named: str | None
    canonical: bool
    sticky: str
    request_id: str


@dataclass(slots=True)
class Verdict:
    """What was decided before any money moved.

    `decision` is the strategy's answer; `objection` the gate that turned it local, if one did. `bucket` and
    `in_canary` tell of the canary where it was asked. `model` is the cloud model of a candidate. `refuse` says that
    the settings want a refusal where the budget is the reason.
    """

    decision: Decision
    model: CloudModel | None = None
    objection: Answer | None = None
    bucket: int | None = None
    in_canary: bool = True
    refuse: bool = False
    rules: Sequence[Answer] = ()
    gates: Sequence[Answer] = ()

    @property
    def to_cloud(self) -> bool:
        return self.decision.location == CLOUD and self.objection is None

    @property
    def final(self) -> Decision:
        """The decision with the gate's objection in it."""
        if self.objection is None:
            return self.decision
        return replace(self.decision, location=LOCAL, reason=self.objection.name)


def decide(
    policy: Policy, route: Route, assessment: Assessment, conditions: Conditions, *, explain: bool = False
) -> Verdict:
    """The strategy's answer and the first gate that objects to it. With `explain`, what each of them answered."""
    task = assessment.task
    situation = Situation(
        task.task_type,
        task.quality,
        task.complexity,
        task.latency_ms,
        assessment.classification.sensitive,
        conditions.budget_exceeded,
        conditions.gpu_pct,
        conditions.model_gb,
        conditions.local_calls,
    )
    strategy = policy.strategy
    if conditions.cloud_named is not None:
        verdict = Verdict(Decision(CLOUD, REQUESTED, 1.0, strategy.name))
        if explain:
            verdict.rules = [Answer(REQUESTED, CLOUD, "the app named a cloud model itself")]
    elif explain:
        decision, rules = strategy.explain(situation, policy.thresholds)
        verdict = Verdict(decision, rules=rules)
    else:
        verdict = Verdict(strategy.decide(situation, policy.thresholds))
    if verdict.decision.location == CLOUD:
        _pass_gates(policy, route, assessment, conditions, verdict, explain=explain)
    elif verdict.decision.reason == BUDGET_EXCEEDED and policy.fallback.on_budget_exceeded == "error":
        # Calls that would be local anyway stay local; those that only the budget keeps from the cloud are refused.
        rich = Verdict(strategy.decide(situation._replace(budget_exceeded=False), policy.thresholds))
        if rich.decision.location == CLOUD:
            _pass_gates(policy, route, assessment, conditions, rich, explain=False)
            verdict.refuse = rich.objection is None
    return verdict


def _pass_gates(
    policy: Policy, route: Route, assessment: Assessment, conditions: Conditions, verdict: Verdict, *, explain: bool
) -> None:
    facts, task = assessment.body.facts, assessment.task
    named = conditions.cloud_named
    wanted = named if named is not None else task.cloud_model or policy.cloud_model_for(facts.model, task.task_type)
    model = _entry(policy.catalogue, wanted) if wanted else None
    canary = policy.canary
    key = conditions.sticky
    if not key and (facts.system_text or facts.first_user_text):
        key = conversation_key(facts.system_text, facts.first_user_text)
    verdict.bucket = bucket(canary.salt, key or conditions.request_id)
    verdict.in_canary = canary.admits(verdict.bucket, task.task_type)
    verdict.model = model
    candidate = Candidate(
        facts=facts,
        blocked=_blocked(route, assessment, conditions),
        off=policy.cloud_off,
        sensitive=assessment.classification.sensitive,
        sensitive_source=assessment.classification.source,
        requested=named is not None,
        wanted=shown_model(wanted or ""),
        model=model,
        bucket=verdict.bucket,
        in_canary=verdict.in_canary,
    )
    asked: list[Answer] | None = [] if explain else None
    verdict.objection = first_objection(candidate, asked)
    verdict.gates = asked or ()


def shown_model(name: str) -> str:
    """A model's name as headers, reasons, logs and metrics show it: one with blanks in it may be any text."""
    return name if _SHOWN.match(name) else "other" if name else ""


def _entry(catalogue: Mapping[str, CloudModel], name: str) -> CloudModel | None:
    """A model of the catalogue, by its name in any case: header values are so, and so are Ollama's names."""
    found = catalogue.get(name)
    if found is None:
        lower = name.lower()
        found = next((model for key, model in catalogue.items() if key.lower() == lower), None)
    return found


def _blocked(route: Route, assessment: Assessment, conditions: Conditions) -> str:
    facts = assessment.body.facts
    if not route.cloud_path:
        return f"the cloud has no route like {route.path}"
    if facts.load_only:
        return "it only loads or unloads the local model"
    if not conditions.canonical:
        return "its path is not spelled as the route is"
    if route.web and facts.web_tools:
        return ""  # a search names no model of its own: that is the next gates' business
    return facts.cloud_blocker


def price_of(policy: Policy, assessment: Assessment, model: CloudModel) -> tuple[WorstCase, int] | None:
    """A call's worst case at a model, and the cap on output tokens that goes with it; None without a price."""
    if model.price is None:
        return None
    facts = assessment.body.facts
    cap, tokens_out = output_cap(facts.output_cap, policy.max_output_tokens, facts.choices)
    tokens_in = input_bound(facts, len(assessment.body.raw), model.price, tokens_out)
    return worst_case(model.price, tokens_in, tokens_out), cap
