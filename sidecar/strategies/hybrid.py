"""`hybrid`, the default: the cloud for quality that was asked for, and where the local server cannot keep up."""

from __future__ import annotations

from sidecar.core.decision import CLOUD, LOCAL, Decision, Rule, Situation, Strategy, Thresholds
from sidecar.strategies.rules import BUDGET_EXCEEDED, DEFAULT_LOCAL, SENSITIVE


def _wants_quality(situation: Situation, _: Thresholds) -> bool:
    return situation.quality == "high" and situation.task_type in ("extraction", "vlm")


def _model_too_large(situation: Situation, thresholds: Thresholds) -> bool:
    return situation.model_gb is not None and situation.model_gb > thresholds.model_size_gb


def _gpu_busy(situation: Situation, thresholds: Thresholds) -> bool:
    return situation.gpu_pct is not None and situation.gpu_pct > thresholds.gpu_utilization_pct


HYBRID = Strategy(
    "hybrid",
    (
        SENSITIVE,
        BUDGET_EXCEEDED,
        Rule("extraction_quality", _wants_quality, Decision(CLOUD, "high_quality_extraction", 0.95)),
        Rule("latency", lambda s, t: s.latency_ms < t.latency_ms, Decision(LOCAL, "low_latency_required", 0.9)),
        Rule("model_size", _model_too_large, Decision(CLOUD, "model_too_large", 0.85)),
        Rule("batch", lambda s, t: s.local_calls > t.batch_size, Decision(CLOUD, "large_batch", 0.8)),
        Rule("gpu", _gpu_busy, Decision(CLOUD, "local_gpu_busy", 0.85)),
        DEFAULT_LOCAL,
    ),
    needs_gpu=True,
)
