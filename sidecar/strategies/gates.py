"""The gates around every strategy: a cloud answer passes them in this order, and the first that objects ends it.

The money gates stand in the middle of the order and act (a reservation is taken), so they are the handler's; this
module holds those before and behind them, which only look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.core.call import Facts
from sidecar.core.decision import Answer
from sidecar.core.pricing import CloudModel

LOCAL_ONLY_OPERATION = "local_only_operation"
CLOUD_DISABLED = "cloud_disabled"
SENSITIVE_DATA = "sensitive_data"
NO_CLOUD_MODEL = "no_cloud_model"
UNPRICED_MODEL = "unpriced_model"
CANARY_HOLDBACK = "canary_holdback"
BUDGET_EXCEEDED = "budget_exceeded"
BUDGET_UNAVAILABLE = "budget_unavailable"
RATE_LIMITED = "rate_limited"
CLOUD_UNAVAILABLE = "cloud_unavailable"

_BYTES_PER_TOKEN = 4


@dataclass(slots=True)
class Candidate:
    """A call that its strategy wants in the cloud.

    `blocked` says why the cloud has no route for it, `off` why the cloud is off; empty where neither is so.
    `wanted` is the name of the cloud model asked for or mapped, empty where there is none; `model` its entry in the
    catalogue. `requested` says that the app named a cloud model itself. `bucket` is the call's canary bucket, and
    `in_canary` whether that is in.
    """

    facts: Facts
    blocked: str
    off: str
    sensitive: bool
    sensitive_source: str
    requested: bool
    wanted: str
    model: CloudModel | None
    bucket: int
    in_canary: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """`objects` answers why the call may not pass; an empty text lets it."""

    reason: str
    objects: Callable[[Candidate], str]


def _no_model(candidate: Candidate) -> str:
    if not candidate.wanted:
        return "no cloud model is mapped to this local model and task type"
    if candidate.model is None:
        # A model that the app named itself needs no mapping; that it has no price is the next gate's objection.
        return "" if candidate.requested else f"{candidate.wanted} is not in the catalogue"
    return beyond(candidate.model, candidate.facts)


def beyond(model: CloudModel, facts: Facts) -> str:
    """What a call asks for that the catalogue says the model cannot do. Unknown abilities are not held against it."""
    if model.capabilities is not None:
        needs = (("vision", facts.images), ("tools", facts.tools), ("thinking", facts.thinks))
        for ability, needed in needs:
            if needed and ability not in model.capabilities:
                return f"{model.name} has no {ability}"
    limit = model.context_length
    if limit is not None:
        asked = max(facts.context_tokens or 0, facts.shape.text_bytes // _BYTES_PER_TOKEN)
        if asked > limit:
            return f"about {asked} tokens are more than the {limit} that {model.name} takes"
    return ""


def _unpriced(candidate: Candidate) -> str:
    if candidate.facts.web_tools:
        return "what a web search adds to the input has no bound, so no price"
    if candidate.model is None or candidate.model.price is None:
        return f"{candidate.wanted} has no price"
    return ""


BEFORE_MONEY = (
    Gate(LOCAL_ONLY_OPERATION, lambda c: c.blocked),
    Gate(CLOUD_DISABLED, lambda c: c.off),
    Gate(SENSITIVE_DATA, lambda c: f"by {c.sensitive_source}" if c.sensitive else ""),
    Gate(NO_CLOUD_MODEL, _no_model),
    Gate(UNPRICED_MODEL, _unpriced),
    Gate(CANARY_HOLDBACK, lambda c: "" if c.requested or c.in_canary else f"bucket {c.bucket} is not in yet"),
)


def first_objection(candidate: Candidate, asked: list[Answer] | None = None) -> Answer | None:
    """The first gate before the money that objects; None where all let it pass. `asked` collects the answers."""
    for gate in BEFORE_MONEY:
        detail = gate.objects(candidate)
        if detail:
            answer = Answer(gate.reason, "objects", detail)
            if asked is not None:
                asked.append(answer)
            return answer
        if asked is not None:
            asked.append(Answer(gate.reason, "passes"))
    return None
