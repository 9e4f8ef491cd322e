"""Tables of rules: the first that applies answers, and explaining changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.decision import CLOUD, LOCAL, Answer, Decision, Rule, Situation, Strategy, Thresholds

SITUATION = Situation("generation", "medium", "low", 1000, False, False, None, None, 0)


def table(*applies: bool) -> Strategy:
    def rule(number: int, holds: bool) -> Rule:
        return Rule(
            f"r{number}", lambda _, __: holds, Decision(CLOUD if number % 2 else LOCAL, f"reason-{number}", 0.5)
        )

    return Strategy("t", [rule(number, holds) for number, holds in enumerate(applies)])


@given(before=st.lists(st.just(False), max_size=4), after=st.lists(st.booleans(), max_size=4))
def test_the_first_rule_that_applies_answers(before: list[bool], after: list[bool]) -> None:
    strategy = table(*before, True, *after)
    number = len(before)
    decision, asked = strategy.explain(SITUATION, Thresholds())
    location = CLOUD if number % 2 else LOCAL
    assert decision == strategy.decide(SITUATION, Thresholds())
    assert decision == Decision(location, f"reason-{number}", 0.5, "t")
    assert asked == [Answer(f"r{one}", "no") for one in range(number)] + [
        Answer(f"r{number}", location, f"reason-{number}")
    ]


def test_a_table_without_an_answer_is_a_defect() -> None:
    strategy = table(False, False)
    with pytest.raises(AssertionError, match="always answers"):
        strategy.decide(SITUATION, Thresholds())
    with pytest.raises(AssertionError, match="always answers"):
        strategy.explain(SITUATION, Thresholds())
