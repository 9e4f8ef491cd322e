"""`cost_optimized` against the contract's table, over all inputs."""

from __future__ import annotations

from situations import every_situation

from sidecar.core.decision import LOCAL, Decision, Situation, Thresholds
from sidecar.strategies import STRATEGIES

STRATEGY = STRATEGIES["cost_optimized"]


def expected(situation: Situation) -> Decision:
    if situation.budget_exceeded:
        return Decision(LOCAL, "budget_exceeded", 1.0, "cost_optimized")
    return Decision(LOCAL, "cost_optimized", 0.9, "cost_optimized")


def test_every_situation() -> None:
    for situation in every_situation():
        assert STRATEGY.decide(situation, Thresholds()) == expected(situation), situation


def test_it_does_not_read_the_gpu() -> None:
    assert not STRATEGY.needs_gpu
