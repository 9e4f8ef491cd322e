"""`quality_optimized` against the contract's table, over all inputs."""

from __future__ import annotations

from situations import every_situation

from sidecar.core.decision import CLOUD, LOCAL, Decision, Situation, Thresholds
from sidecar.strategies import STRATEGIES

STRATEGY = STRATEGIES["quality_optimized"]


def expected(situation: Situation) -> tuple[str, str, float]:
    if situation.sensitive:
        return LOCAL, "sensitive_data", 1.0
    if situation.quality == "high":
        return CLOUD, "high_quality_required", 0.95
    if situation.complexity == "high":
        return CLOUD, "high_complexity", 0.85
    return LOCAL, "default_local", 0.7


def test_every_situation() -> None:
    for situation in every_situation():
        answer = STRATEGY.decide(situation, Thresholds())
        assert answer == Decision(*expected(situation), "quality_optimized"), situation


def test_it_does_not_read_the_gpu() -> None:
    assert not STRATEGY.needs_gpu
