"""All situations that a strategy can tell apart: every value, and each threshold from both sides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from sidecar.core.decision import Situation
from sidecar.core.task import LEVELS, TASK_TYPES

GB, GPU, LATENCY, BATCH = 10.0, 80.0, 500, 10


def situation() -> Situation:
    """A plain call, for which no rule but the last applies."""
    return Situation("generation", "medium", "low", 1000, False, False, 10.0, 1.0, 0)


def every_situation() -> Iterator[Situation]:
    for values in product(
        TASK_TYPES,
        LEVELS,
        LEVELS,
        (LATENCY - 1, LATENCY, LATENCY + 1),
        (False, True),
        (False, True),
        (None, 0.0, GPU, GPU + 0.1, 100.0),
        (None, GB, GB + 0.1),
        (0, BATCH, BATCH + 1),
    ):
        yield Situation(*values)
