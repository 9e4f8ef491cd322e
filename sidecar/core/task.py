"""What a call is for: the task that headers, settings and the body itself say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

EXTRACTION, GENERATION, EMBEDDING, VLM = "extraction", "generation", "embedding", "vlm"
TASK_TYPES = (EXTRACTION, GENERATION, EMBEDDING, VLM)
LOW, MEDIUM, HIGH = "low", "medium", "high"
LEVELS = (LOW, MEDIUM, HIGH)

# The contract's bounds for a complexity that nobody stated. Text counts as UTF-8 bytes, 1 KB = 1024 bytes; a turn is
# a message that is no system text.
HIGH_TEXT_BYTES = 16 * 1024
HIGH_TURNS = 12
HIGH_TOOLS = 8
LOW_TEXT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What the request's own headers ask for; None where a header is absent or its value is not valid.

    `invalid` names the headers whose value was not valid.
    """

    task_id: str | None = None
    task_type: str | None = None
    complexity: str | None = None
    quality: str | None = None
    latency_ms: int | None = None
    cloud_model: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    invalid: tuple[str, ...] = ()


NOTHING_ASKED = Asked()


@dataclass(frozen=True, slots=True)
class Defaults:
    """One entry of `task_defaults`: what is asked for on behalf of an app that sends no header. None: not set."""

    task_type: str | None = None
    quality: str | None = None
    complexity: str | None = None
    latency_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TaskDefaults:
    """`task_defaults`: what is most specific wins, so first the model's entry, then the task type's, then all."""

    base: Defaults = Defaults(quality=MEDIUM, latency_ms=1000)
    by_model: Mapping[str, Defaults] = field(default_factory=dict)
    by_task_type: Mapping[str, Defaults] = field(default_factory=dict)


class Shape(NamedTuple):
    """What the body itself says of the task: see `infer_task_type` and `infer_complexity`."""

    embeds: bool = False
    images: int = 0
    structured: bool = False
    text_bytes: int = 0
    turns: int = 1
    tools: int = 0


class Task(NamedTuple):
    """One call's task. `latency_ms` is in milliseconds; `origins` says of each value where it came from."""

    task_id: str
    task_type: str
    complexity: str
    quality: str
    latency_ms: int
    cloud_model: str | None
    user_id: str | None
    origins: Mapping[str, str]


def infer_task_type(shape: Shape) -> str:
    """The contract's order: embedding, then vlm, then extraction, else generation."""
    if shape.embeds:
        return EMBEDDING
    if shape.images:
        return VLM
    return EXTRACTION if shape.structured else GENERATION


def infer_complexity(shape: Shape) -> str:
    """High by 16 KB of text, 12 turns or 8 tools; low under 1 KB with one turn and no tools; else medium."""
    if shape.text_bytes >= HIGH_TEXT_BYTES or shape.turns >= HIGH_TURNS or shape.tools >= HIGH_TOOLS:
        return HIGH
    if shape.text_bytes < LOW_TEXT_BYTES and shape.turns <= 1 and not shape.tools:
        return LOW
    return MEDIUM


_UNSET = Defaults()
_INFERRED_ORIGINS: Mapping[str, str] = {
    "task_type": "inferred",
    "complexity": "inferred",
    "quality": "task_defaults",
    "latency_ms": "task_defaults",
}


def resolve_task(asked: Asked, shape: Shape, model: str, defaults: TaskDefaults, new_id: str) -> Task:
    """Headers win over `task_defaults`, which win over what the body shows."""
    if asked is NOTHING_ASKED and not defaults.by_model and not defaults.by_task_type:
        base = defaults.base
        if base.task_type is None and base.complexity is None:  # the plain app's call, told quickly
            return Task(
                new_id,
                infer_task_type(shape),
                infer_complexity(shape),
                base.quality or MEDIUM,
                base.latency_ms or 1000,
                None,
                None,
                _INFERRED_ORIGINS,
            )
    origins: dict[str, str] = {}
    for_model = _for_model(defaults.by_model, model)

    def choose(name: str, header: str | int | None, *layers: Defaults) -> str | int | None:
        if header is not None:
            origins[name] = "header"
            return header
        for layer in layers:
            value: str | int | None = getattr(layer, name)
            if value is not None:
                origins[name] = "task_defaults"
                return value
        origins[name] = "inferred"
        return None

    task_type = str(choose("task_type", asked.task_type, for_model, defaults.base) or infer_task_type(shape))
    layers = (for_model, defaults.by_task_type.get(task_type, _UNSET), defaults.base)
    return Task(
        asked.task_id or new_id,
        task_type,
        str(choose("complexity", asked.complexity, *layers) or infer_complexity(shape)),
        str(choose("quality", asked.quality, *layers) or MEDIUM),
        int(choose("latency_ms", asked.latency_ms, *layers) or 1000),
        asked.cloud_model,
        asked.user_id,
        origins,
    )


def _for_model(by_model: Mapping[str, Defaults], model: str) -> Defaults:
    if not by_model:
        return _UNSET
    found = by_model.get(model)
    if found is None:
        # `llama3` and `llama3:latest` are one model to Ollama.
        found = by_model.get(model.removesuffix(":latest") if model.endswith(":latest") else f"{model}:latest")
    return found or _UNSET
