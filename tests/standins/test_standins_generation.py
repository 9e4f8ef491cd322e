"""What the stand-ins invent: deterministic, counted, limited; and JSON that satisfies a schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.standins import StandInModel, count_tokens
from sidecar.standins.generation import Ask, plan
from sidecar.standins.gojson import dumps, loads
from sidecar.standins.models import display, qualified, split_source
from sidecar.standins.schema import minimal

MODEL = StandInModel("tiny:latest", capabilities=("completion", "tools"))


@settings(max_examples=60, deadline=None)
@given(st.text(), st.integers(-1, 80))
def test_a_generation_is_a_function_of_its_ask(text: str, limit: int) -> None:
    first, second = (plan(Ask("tiny", [text], text, max_tokens=limit), MODEL) for _ in range(2))
    assert first.text == second.text
    assert first.tokens_in == count_tokens(text) + 4
    assert first.text.startswith("This") or limit == 0
    made = sum(step.tokens for step in first.steps)
    assert made <= limit if limit > 0 else 16 <= made <= 47
    assert first.done_reason == ("length" if 0 < limit == made else "stop")


def test_a_length_can_be_set() -> None:
    for length in (0, 3, 7, 8, 100, 1000):
        assert len(plan(Ask("tiny", ["x"], "x"), MODEL, length=length).steps) == length


def test_a_tool_call_that_does_not_fit_becomes_text() -> None:
    tools = [{"type": "function", "function": {"name": "a_rather_long_name", "parameters": {"type": "object"}}}]
    made = plan(Ask("tiny", ["x"], "use the tool", tools=tools, max_tokens=2), MODEL)
    assert (made.tool_calls, made.done_reason, sum(step.tokens for step in made.steps)) == ([], "length", 2)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("json", {"stand_in": True}),
        ({"type": "object"}, {}),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {"a": "stand-in"}),
        ({"type": "array", "items": {"type": "number"}, "minItems": 2}, [0, 0]),
        ({"type": "array", "items": {"type": "number"}}, []),
        ({"enum": ["x", "y"]}, "x"),
        ({"const": 5}, 5),
        ({"type": ["null", "string"]}, None),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
        ({"type": "string", "minLength": 10}, "stand-in.."),
        ({"type": "string", "maxLength": 3}, "sta"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}}, False),
        (
            {
                "allOf": [
                    {"properties": {"a": {"type": "null"}}, "required": ["a"]},
                    {"properties": {"b": {"const": 1}}, "required": ["b"]},
                ]
            },
            {"a": None, "b": 1},
        ),
    ],
)
def test_the_smallest_value_of_a_schema(schema: Any, value: Any) -> None:
    assert minimal(schema) == value


def test_a_schema_that_needs_itself_ends() -> None:
    loop = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}
    assert json.dumps(minimal(loop)).startswith('{"a": {"a"')


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["type", "properties", "required", "items", "enum", "allOf", "$ref", "multipleOf", "minimum"]
        ),
        st.none()
        | st.sampled_from(["object", "array", "integer", "#/x", 0, -1.5, [], ["a"], {"a": 1}, [{"enum": [3]}]]),
    )
)
def test_no_schema_is_too_odd(schema: Any) -> None:
    json.dumps(minimal(schema))


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_survives_writing_and_reading(value: Any) -> None:
    written = dumps(value)
    assert not set(b"<>&") & set(written)
    assert json.loads(written) == value
    assert loads(written) == value


@pytest.mark.parametrize(
    ("name", "base", "source"),
    [
        ("gpt-oss:120b-cloud", "gpt-oss:120b", "cloud"),
        ("gpt-oss:cloud", "gpt-oss", "cloud"),
        (" gpt-oss:CLOUD ", "gpt-oss", "cloud"),
        ("gpt-oss:120b", "gpt-oss:120b", ""),
        ("tiny:local", "tiny", "local"),
        ("x-cloud", "x-cloud", ""),
        ("host:80/x-cloud", "host:80/x-cloud", ""),
    ],
)
def test_the_source_is_read_from_the_name(name: str, base: str, source: str) -> None:
    assert split_source(name) == (base, source)


def test_names_have_a_short_and_a_full_form() -> None:
    assert [display(name) for name in ("tiny", "library/tiny", "me/x:1")] == ["tiny:latest", "tiny:latest", "me/x:1"]
    assert qualified("tiny") == "registry.ollama.ai/library/tiny:latest"
    assert qualified("me/x") == "registry.ollama.ai/me/x:latest"
