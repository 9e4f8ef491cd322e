"""A decision: where a call runs, with which model, and why. Rules are tables, so that they can be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

LOCAL, CLOUD, CACHE, NONE = "local", "cloud", "cache", "none"


class Situation(NamedTuple):
    """All that a strategy may look at.

    `gpu_pct` and `model_gb` (GB = 10⁹ bytes) are None where unknown, which counts as not busy and not large;
    `local_calls` are our own calls in flight or waiting at the local Ollama; `budget_exceeded` means that nothing
    is left of the day or the month.
    """

    task_type: str
    quality: str
    complexity: str
    latency_ms: int
    sensitive: bool
    budget_exceeded: bool
    gpu_pct: float | None
    model_gb: float | None
    local_calls: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """`decision_thresholds`, in the settings' own units."""

    model_size_gb: float = 10.0
    gpu_utilization_pct: float = 80.0
    latency_ms: int = 500
    batch_size: int = 10


@dataclass(frozen=True, slots=True)
class Decision:
    """`confidence` is the contract's figure for the rule that answered."""

    location: str
    reason: str
    confidence: float
    strategy: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a strategy: when `applies`, `answer` is the decision."""

    name: str
    applies: Callable[[Situation, Thresholds], bool]
    answer: Decision


@dataclass(frozen=True, slots=True)
class Answer:
    """A rule or gate that was asked, and what it answered; for `explain` and traces."""

    name: str
    answer: str
    detail: str = ""


class Strategy:
    """An ordered table of rules; the first that applies answers, and the last one always does."""

    __slots__ = ("_rules", "name", "needs_gpu")

    def __init__(self, name: str, rules: Sequence[Rule], *, needs_gpu: bool = False) -> None:
        self.name = name
        self.needs_gpu = needs_gpu
        self._rules = tuple(replace(rule, answer=replace(rule.answer, strategy=name)) for rule in rules)

    def decide(self, situation: Situation, thresholds: Thresholds) -> Decision:
        for rule in self._rules:
            if rule.applies(situation, thresholds):
                return rule.answer
        raise AssertionError(f"strategy {self.name} has no rule that always answers")

    def explain(self, situation: Situation, thresholds: Thresholds) -> tuple[Decision, list[Answer]]:
        """The decision, and each rule that was asked on the way to it."""
        asked = []
        for rule in self._rules:
            if rule.applies(situation, thresholds):
                asked.append(Answer(rule.name, rule.answer.location, rule.answer.reason))
                return rule.answer, asked
            asked.append(Answer(rule.name, "no"))
        raise AssertionError(f"strategy {self.name} has no rule that always answers")
