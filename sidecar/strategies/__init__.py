"""The strategies by name. A new one is a file here, a line below and a test."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.core.decision import Strategy
from sidecar.strategies.cost_optimized import COST_OPTIMIZED
from sidecar.strategies.hybrid import HYBRID
from sidecar.strategies.quality_optimized import QUALITY_OPTIMIZED

STRATEGIES: Mapping[str, Strategy] = {s.name: s for s in (COST_OPTIMIZED, HYBRID, QUALITY_OPTIMIZED)}
