"""The shipped catalogue, and the settings over it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from settings_support import loaded

from sidecar.settings import CloudModelEntry, Settings, load_catalogue


def test_the_shipped_catalogue() -> None:
    found = load_catalogue()
    assert found.updated == date(2026, 11, 23)
    prices = {name: (str(item.input_per_1m), str(item.output_per_1m)) for name, item in found.models.items()}
    assert prices == {
        "gpt-oss:20b": ("0.07", "0.3"),
        "gpt-oss:120b": ("0.15", "0.6"),
        "qwen3.5:397b": ("0.6", "3.6"),
        "llama3.1:70b": ("1", "1"),
        "llama3.1:8b": ("0.2", "0.2"),
        "llava:13b": ("0.5", "0.5"),
    }
    assert {name for name, item in found.models.items() if item.estimate} == {
        "llama3.1:70b",
        "llama3.1:8b",
        "llava:13b",
    }


def test_the_defaults_can_do_their_tasks() -> None:
    models = Settings().cloud_models()
    vision = models[str(Settings().cloud_model_for("any", "vlm"))]
    assert vision.capabilities is not None
    assert "vision" in vision.capabilities
    assert all(
        models[str(Settings().cloud_model_for("any", task))].priced for task in ("extraction", "generation", "vlm")
    )


def test_settings_win_key_by_key() -> None:
    content = """
ollama_cloud:
  models: {generation_cloud: "mapped:1b"}
  pricing:
    "gpt-oss:120b": {price_factor_max: 2}
    "llama3.1:8b": {input_per_1m: 0.1, output_per_1m: 0.2}
    "new:1b": {input_per_1m: 1, output_per_1m: 2, max_image_tokens: 100}
  catalogue:
    "gpt-oss:20b": {capabilities: []}
    "qwen3.5:397b": {context_length: 1000}
    "seen:1b": {context_length: 10}
"""
    found = loaded(content).settings.cloud_models()
    assert found["gpt-oss:120b"] == CloudModelEntry(
        name="gpt-oss:120b",
        input_per_1m=Decimal("0.15"),
        output_per_1m=Decimal("0.6"),
        price_factor_max=Decimal(2),
        max_image_tokens=16384,
        context_length=131072,
        capabilities=frozenset({"tools", "thinking"}),
        estimate=False,
    )
    assert found["llama3.1:8b"].input_per_1m == Decimal("0.1")
    assert not found["llama3.1:8b"].estimate
    assert found["llama3.1:70b"].estimate
    assert (found["new:1b"].priced, found["new:1b"].max_image_tokens) == (True, 100)
    assert (found["new:1b"].capabilities, found["new:1b"].context_length) == (None, None)
    assert found["gpt-oss:20b"].capabilities == frozenset()
    assert found["qwen3.5:397b"].context_length == 1000
    assert found["qwen3.5:397b"].capabilities == frozenset({"vision", "tools", "thinking"})
    assert not found["seen:1b"].priced
    assert not found["mapped:1b"].priced


MAPPED = """
ollama_cloud:
  models:
    generation_cloud: general:1b
    by_local_model:
      llama3.1:8b: {extraction_cloud: own:1b}
      Mistral: all:1b
      vision/llava: {vision_cloud: see:1b}
"""


@pytest.mark.parametrize(
    ("model", "task_type", "cloud"),
    [
        ("any", "extraction", "gpt-oss:120b"),
        ("any", "generation", "general:1b"),
        ("any", "vlm", "qwen3.5:397b"),
        ("any", "embedding", None),
        ("llama3.1:8b", "extraction", "own:1b"),
        ("llama3.1:8b", "generation", "general:1b"),
        ("llama3.1:8b", "embedding", None),
        ("llama3.1", "extraction", "gpt-oss:120b"),
        ("mistral:latest", "vlm", "all:1b"),
        ("registry.ollama.ai/library/mistral", "extraction", "all:1b"),
        ("Mistral", "embedding", None),
        ("vision/llava:latest", "vlm", "see:1b"),
        ("llava", "vlm", "qwen3.5:397b"),
    ],
)
def test_mapping(model: str, task_type: str, cloud: str | None) -> None:
    assert loaded(MAPPED).settings.cloud_model_for(model, task_type) == cloud
