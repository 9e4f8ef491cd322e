"""`hybrid` against the contract's table, over all inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from situations import BATCH, GB, GPU, LATENCY, every_situation, situation

from sidecar.core.decision import CLOUD, LOCAL, Answer, Decision, Situation, Thresholds
from sidecar.strategies import STRATEGIES

STRATEGY = STRATEGIES["hybrid"]
THRESHOLDS = Thresholds(model_size_gb=GB, gpu_utilization_pct=GPU, latency_ms=LATENCY, batch_size=BATCH)


def expected(situation: Situation) -> tuple[str, str, float]:
    """The contract's list, 4½ and 4¾ being the two further thresholds."""
    if situation.sensitive:  # 1
        return LOCAL, "sensitive_data", 1.0
    if situation.budget_exceeded:  # 2
        return LOCAL, "budget_exceeded", 1.0
    if situation.task_type in ("extraction", "vlm") and situation.quality == "high":  # 3
        return CLOUD, "high_quality_extraction", 0.95
    if situation.latency_ms < LATENCY:  # 4
        return LOCAL, "low_latency_required", 0.9
    if situation.model_gb is not None and situation.model_gb > GB:
        return CLOUD, "model_too_large", 0.85
    if situation.local_calls > BATCH:
        return CLOUD, "large_batch", 0.8
    if situation.gpu_pct is not None and situation.gpu_pct > GPU:  # 5
        return CLOUD, "local_gpu_busy", 0.85
    return LOCAL, "default_local", 0.7  # 6


def test_every_situation() -> None:
    for one in every_situation():
        assert STRATEGY.decide(one, THRESHOLDS) == Decision(*expected(one), "hybrid"), one


def test_the_contracts_own_thresholds_are_the_defaults() -> None:
    assert Thresholds() == Thresholds(10.0, 80.0, 500, 10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"latency_ms": LATENCY - 1}, "low_latency_required"),
        ({"latency_ms": LATENCY}, "default_local"),
        ({"model_gb": GB}, "default_local"),
        ({"model_gb": GB + 1e-9}, "model_too_large"),
        ({"local_calls": BATCH}, "default_local"),
        ({"local_calls": BATCH + 1}, "large_batch"),
        ({"gpu_pct": GPU}, "default_local"),
        ({"gpu_pct": GPU + 1e-9}, "local_gpu_busy"),
        ({"gpu_pct": None}, "default_local"),
        ({"gpu_pct": float("nan")}, "default_local"),
        ({"model_gb": None}, "default_local"),
    ],
)
def test_thresholds_are_strict_and_unknown_is_neither_busy_nor_large(
    change: dict[str, float | None], reason: str
) -> None:
    assert STRATEGY.decide(situation()._replace(**change), THRESHOLDS).reason == reason  # type: ignore[arg-type]


def test_other_thresholds_are_followed() -> None:
    busy = situation()._replace(gpu_pct=50.0, latency_ms=100)
    easy = replace(THRESHOLDS, gpu_utilization_pct=49.0, latency_ms=100)
    assert STRATEGY.decide(busy, THRESHOLDS).reason == "low_latency_required"
    assert STRATEGY.decide(busy, easy).reason == "local_gpu_busy"


def test_every_rule_is_asked_in_the_contracts_order() -> None:
    _, asked = STRATEGY.explain(situation(), THRESHOLDS)
    names = ["sensitive", "budget", "extraction_quality", "latency", "model_size", "batch", "gpu", "default"]
    assert asked == [
        *(Answer(name, "no") for name in names[:-1]),
        Answer(names[-1], LOCAL, "default_local"),
    ]


def test_it_reads_the_gpu() -> None:
    assert STRATEGY.needs_gpu
