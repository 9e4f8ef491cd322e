"""`cost_optimized`: local, always; says so where the budget is the reason."""

from __future__ import annotations

from sidecar.core.decision import LOCAL, Decision, Rule, Strategy
from sidecar.strategies.rules import BUDGET_EXCEEDED, always

COST_OPTIMIZED = Strategy(
    "cost_optimized",
    (
        BUDGET_EXCEEDED,
        Rule("default", always, Decision(LOCAL, "cost_optimized", 0.9)),
    ),
)
