"""A call's task: headers win over task_defaults, which win over what the body shows."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.task import (
    LEVELS,
    NOTHING_ASKED,
    TASK_TYPES,
    Asked,
    Defaults,
    Shape,
    TaskDefaults,
    infer_complexity,
    infer_task_type,
    resolve_task,
)


@pytest.mark.parametrize(("embeds", "images", "structured"), list(product((False, True), (0, 1, 3), (False, True))))
def test_the_task_type_that_a_body_shows(embeds: bool, images: int, structured: bool) -> None:
    expected = "embedding" if embeds else "vlm" if images else "extraction" if structured else "generation"
    assert infer_task_type(Shape(embeds=embeds, images=images, structured=structured)) == expected


@pytest.mark.parametrize(
    ("text_bytes", "turns", "tools", "expected"),
    [
        (0, 1, 0, "low"),
        (1023, 1, 0, "low"),
        (1024, 1, 0, "medium"),
        (1023, 2, 0, "medium"),
        (1023, 1, 1, "medium"),
        (16 * 1024 - 1, 11, 7, "medium"),
        (16 * 1024, 1, 0, "high"),
        (0, 12, 0, "high"),
        (0, 1, 8, "high"),
        (0, 0, 0, "low"),
    ],
)
def test_the_complexity_that_a_body_shows(text_bytes: int, turns: int, tools: int, expected: str) -> None:
    assert infer_complexity(Shape(text_bytes=text_bytes, turns=turns, tools=tools)) == expected


def test_a_plain_apps_call() -> None:
    task = resolve_task(NOTHING_ASKED, Shape(), "llama3", TaskDefaults(), "new")
    assert task[:7] == ("new", "generation", "low", "medium", 1000, None, None)
    assert task.origins["task_type"] == "inferred"
    assert task.origins["quality"] == "task_defaults"


levels = st.none() | st.sampled_from(LEVELS)
types = st.none() | st.sampled_from(TASK_TYPES)
numbers = st.none() | st.integers(1, 10**6)
layers = st.builds(Defaults, task_type=types, quality=levels, complexity=levels, latency_ms=numbers)
asked_values = st.builds(
    Asked,
    task_id=st.none() | st.just("t-1"),
    task_type=types,
    complexity=levels,
    quality=levels,
    latency_ms=numbers,
    cloud_model=st.none() | st.just("gpt-oss:120b"),
    user_id=st.none() | st.just("u-1"),
)
shapes = st.builds(
    Shape,
    embeds=st.booleans(),
    images=st.integers(0, 1),
    structured=st.booleans(),
    text_bytes=st.integers(0, 20_000),
    turns=st.integers(0, 13),
    tools=st.integers(0, 9),
)


@given(
    asked=st.just(NOTHING_ASKED) | asked_values,
    shape=shapes,
    base=layers,
    for_model=st.none() | layers,
    for_types=st.dictionaries(st.sampled_from(TASK_TYPES), layers),
)
def test_what_is_most_specific_wins(
    asked: Asked, shape: Shape, base: Defaults, for_model: Defaults | None, for_types: dict[str, Defaults]
) -> None:
    by_model = {} if for_model is None else {"llama3": for_model}
    task = resolve_task(asked, shape, "llama3", TaskDefaults(base, by_model, for_types), "new")
    of_model = for_model or Defaults()

    def first(*values: str | int | None) -> str | int | None:
        return next((value for value in values if value is not None), None)

    assert task.task_type == first(asked.task_type, of_model.task_type, base.task_type, infer_task_type(shape))
    of_type = for_types.get(task.task_type, Defaults())
    for name, inferred in (("complexity", infer_complexity(shape)), ("quality", "medium"), ("latency_ms", 1000)):
        expected = first(*(getattr(one, name) for one in (asked, of_model, of_type, base)), inferred)
        assert getattr(task, name) == expected
        if getattr(asked, name) is not None:
            assert task.origins[name] == "header"
    assert task.task_id == (asked.task_id or "new")
    assert (task.cloud_model, task.user_id) == (asked.cloud_model, asked.user_id)


@pytest.mark.parametrize(
    ("entry", "model", "found"),
    [
        ("llama3", "llama3", True),
        ("llama3", "llama3:latest", True),
        ("llama3:latest", "llama3", True),
        ("llama3", "llama3:8b", False),
        ("llama3:8b", "llama3", False),
    ],
)
def test_a_models_entry_is_found_with_and_without_latest(entry: str, model: str, found: bool) -> None:
    defaults = TaskDefaults(by_model={entry: Defaults(quality="high")})
    assert (resolve_task(NOTHING_ASKED, Shape(), model, defaults, "new").quality == "high") == found
