"""A policy and calls to decide on, each with short ways to change one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sidecar.core.budget import Caps
from sidecar.core.call import Facts
from sidecar.core.canary import Canary
from sidecar.core.classification import Classification, DataClass, Finding, combine
from sidecar.core.decision import Thresholds
from sidecar.core.pricing import CloudModel, Price
from sidecar.core.task import Task, TaskDefaults
from sidecar.dialects import ROUTES
from sidecar.routing.assess import Assessment
from sidecar.routing.bodies import Body
from sidecar.routing.decide import Conditions
from sidecar.routing.policy import Policy
from sidecar.strategies import STRATEGIES

CHAT, EMBED, COMPLETIONS = ROUTES[b"/api/chat"], ROUTES[b"/api/embed"], ROUTES[b"/v1/completions"]
MAPPED, OTHER, UNPRICED, TEXT_ONLY, SHORT = "big:70b", "Other:120b", "free:1b", "text:70b", "short:8b"
CATALOGUE: Mapping[str, CloudModel] = {
    MAPPED: CloudModel(MAPPED, Price(1000, 1000)),
    OTHER: CloudModel(OTHER, Price(2000, 2000)),
    UNPRICED: CloudModel(UNPRICED, None),
    TEXT_ONLY: CloudModel(TEXT_ONLY, Price(1, 1), capabilities=frozenset(("completion",))),
    SHORT: CloudModel(SHORT, Price(1, 1), context_length=100),
}
MAPPING = {"extraction": MAPPED, "generation": MAPPED, "vlm": MAPPED}
CALM = Conditions(
    budget_exceeded=False,
    gpu_pct=None,
    model_gb=None,
    local_calls=0,
    cloud_named=None,
    canonical=True,
    sticky="",
    request_id="request-1",
)


def policy(mapping: Mapping[str, str] = MAPPING, **change: Any) -> Policy:
    """Hybrid, everything allowed, all calls in the canary."""
    plain = Policy(
        generation=1,
        strategy=STRATEGIES["hybrid"],
        thresholds=Thresholds(),
        canary=Canary(),
        cloud_off="",
        catalogue=CATALOGUE,
        cloud_model_for=lambda _, task_type: mapping.get(task_type),
        caps=Caps(5_000_000, 100_000_000),
        max_output_tokens=4096,
        default_class=classified(DataClass.PUBLIC, "default"),
        image_class=DataClass.INTERNAL,
        scanner=None,
        task_defaults=TaskDefaults(),
    )
    return replace(plain, **change)


def classified(data_class: DataClass, source: str = "header") -> Classification:
    return combine([Finding("any", data_class, source)])


def body(raw: bytes = b"{}", **facts: Any) -> Body:
    """A body whose facts are as given."""
    found = Facts()
    found.model = "llama3"
    for name, value in facts.items():
        setattr(found, name, value)
    return Body(raw, raw, {}, found, [])


def call(
    data_class: DataClass = DataClass.PUBLIC,
    *,
    task_type: str = "extraction",
    quality: str = "high",
    complexity: str = "medium",
    latency_ms: int = 1000,
    cloud_model: str | None = None,
    raw: bytes = b"{}",
    **facts: Any,
) -> Assessment:
    """A call that hybrid wants in the cloud, unless it is changed."""
    task = Task("task-1", task_type, complexity, quality, latency_ms, cloud_model, None, {})
    return Assessment(body(raw, **facts), task, classified(data_class))
