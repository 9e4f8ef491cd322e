"""`quality_optimized`: the cloud where quality or complexity ask for it."""

from __future__ import annotations

from sidecar.core.decision import CLOUD, Decision, Rule, Strategy
from sidecar.strategies.rules import DEFAULT_LOCAL, SENSITIVE

QUALITY_OPTIMIZED = Strategy(
    "quality_optimized",
    (
        SENSITIVE,
        Rule("quality", lambda s, _: s.quality == "high", Decision(CLOUD, "high_quality_required", 0.95)),
        Rule("complexity", lambda s, _: s.complexity == "high", Decision(CLOUD, "high_complexity", 0.85)),
        DEFAULT_LOCAL,
    ),
)
