"""Rules that more than one strategy has."""

from __future__ import annotations

from sidecar.core.decision import LOCAL, Decision, Rule, Situation, Thresholds

SENSITIVE = Rule("sensitive", lambda s, _: s.sensitive, Decision(LOCAL, "sensitive_data", 1.0))
BUDGET_EXCEEDED = Rule("budget", lambda s, _: s.budget_exceeded, Decision(LOCAL, "budget_exceeded", 1.0))


def always(_: Situation, __: Thresholds) -> bool:
    """For the last row of a table."""
    return True


DEFAULT_LOCAL = Rule("default", always, Decision(LOCAL, "default_local", 0.7))
