"""From settings to what decides: every figure in its unit, rounded to the side that spends less."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.classification import DataClass
from sidecar.policies import MICRO, caps_from, cloud_from, limits_from, local_from, policy_from
from sidecar.settings import Settings, load


def settings(**over: Any) -> Settings:
    variables = {f"OLLAMA_SIDECAR_{name}": yaml.safe_dump(value) for name, value in over.items()}
    return load(None, {"HOME": "/home/u", **variables}).settings


@given(st.decimals(min_value=0, max_value=1000, places=6))
def test_a_cap_is_never_rounded_up(usd: Decimal) -> None:
    limits = {"daily_budget_usd": str(usd), "monthly_budget_usd": str(usd)}
    caps = caps_from(settings(OLLAMA_CLOUD__COST_LIMITS=limits))
    assert caps.daily == caps.monthly == int(usd * MICRO) <= usd * MICRO


@given(st.decimals(min_value=0, max_value=100, places=6))
def test_a_price_is_never_rounded_down(usd: Decimal) -> None:
    price = {"own:1b": {"input_per_1m": str(usd), "output_per_1m": "1", "price_factor_max": "1.5"}}
    model = policy_from(settings(OLLAMA_CLOUD__PRICING=price), 1).catalogue["own:1b"]
    assert model.price is not None
    assert model.price.input >= usd * MICRO > model.price.input - 1
    assert (model.price.output, model.price.factor_milli) == (MICRO, 1500)


@pytest.mark.parametrize(
    ("cloud", "why"),
    [
        ({"api_key": "k"}, ""),
        ({}, "there is no api_key"),
        ({"enabled": False, "api_key": "k"}, "ollama_cloud.enabled is false"),
        ({"enabled": False}, "ollama_cloud.enabled is false"),
    ],
)
def test_why_the_cloud_is_off(cloud: dict[str, Any], why: str) -> None:
    assert policy_from(settings(OLLAMA_CLOUD=cloud), 1).cloud_off == why


def test_everything_that_decides_is_taken_over() -> None:
    made = settings(
        OLLAMA_CLOUD={
            "api_key": "k",
            "decision_strategy": "quality_optimized",
            "decision_thresholds": {"latency_threshold_ms": 7, "batch_size_threshold": 3},
            "fallback": {"on_rate_limit": "error"},
            "max_output_tokens": 99,
            "breaker": {"failures": 2, "open_seconds": 1.5},
        },
        CANARY={"percent": 12.5, "by_task_type": {"vlm": 0.01}, "salt": "s", "sticky_header": "X-S"},
        CLASSIFICATION={"default": "internal", "images": "pii", "content": False},
        TASK_DEFAULTS={"quality": "high", "by_model": {"llama3": {"task_type": "extraction"}}},
        LOCAL={"models": {"generation": "tiny"}, "max_concurrent": 4},
        LISTEN={"max_header_kb": 2},
    )
    policy = policy_from(made, 7)
    assert (policy.generation, policy.strategy.name, policy.max_output_tokens) == (7, "quality_optimized", 99)
    assert (policy.thresholds.latency_ms, policy.thresholds.batch_size) == (7, 3)
    assert policy.fallback.wanted("rate_limited") == "error"
    assert (policy.canary.share_of("generation"), policy.canary.share_of("vlm")) == (1250, 1)
    assert (policy.canary.salt, policy.canary.sticky_header) == ("s", "X-S")
    assert policy.default_class.data_class is DataClass.INTERNAL
    assert (policy.image_class, policy.scanner) == (DataClass.PII, None)
    assert policy.task_defaults.base.quality == "high"
    assert policy.task_defaults.by_model["llama3"].task_type == "extraction"
    assert policy.local_models == {"generation": "tiny"}
    assert cloud_from(made).breaker.failures == 2
    assert local_from(made, "http://x:1").max_concurrent == 4
    assert limits_from(made).head_bytes == 2048
