"""What a call costs and can cost: against exact rationals, and never a float."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.call import Facts
from sidecar.core.pricing import (
    LEAST_OUTPUT,
    MESSAGE_TOKENS,
    TEMPLATE_TOKENS,
    Price,
    affordable_output,
    cost,
    input_bound,
    output_cap,
    worst_case,
)
from sidecar.core.task import Shape
from sidecar.dialects import match
from sidecar.routing.bodies import read_body

# Up to what settings and servers may say: USD 100,000 per 1M tokens, a factor of 100, 2³¹ tokens.
tokens = st.integers(0, 2**31)
prices = st.builds(
    Price,
    input=st.one_of(st.integers(0, 3), st.integers(0, 10**11)),
    output=st.one_of(st.integers(0, 3), st.integers(0, 10**11)),
    factor_milli=st.one_of(st.just(1000), st.integers(1000, 100_000)),
    max_image_tokens=st.integers(1, 1_000_000),
)
amounts = st.one_of(st.integers(0, 10), st.integers(0, 10**15))


def exact(price: Price, tokens_in: int, tokens_out: int) -> Fraction:
    return Fraction(tokens_in * price.input + tokens_out * price.output, 1_000_000)


@given(price=prices, tokens_in=tokens, tokens_out=tokens)
def test_a_cost_is_the_exact_price_with_input_and_output_each_rounded_up(
    price: Price, tokens_in: int, tokens_out: int
) -> None:
    parts = cost(price, tokens_in, 0), cost(price, 0, tokens_out)
    assert cost(price, tokens_in, tokens_out) == sum(parts)
    assert [type(part) for part in parts] == [int, int]
    assert 0 <= parts[0] - exact(price, tokens_in, 0) < 1
    assert 0 <= parts[1] - exact(price, 0, tokens_out) < 1


@pytest.mark.parametrize(
    ("tokens_in", "tokens_out", "micro"),
    [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 2), (6_666_666, 0, 1_000_000), (6_666_667, 0, 1_000_001)],
)
def test_costs_by_hand(tokens_in: int, tokens_out: int, micro: int) -> None:
    assert cost(Price(150_000, 600_000), tokens_in, tokens_out) == micro


@given(price=prices, bounds=st.tuples(tokens, tokens), used=st.tuples(tokens, tokens), data=st.data())
def test_a_worst_case_covers_all_usage_within_its_bounds_at_any_hour(
    price: Price, bounds: tuple[int, int], used: tuple[int, int], data: st.DataObject
) -> None:
    tokens_in, tokens_out = min(bounds[0], used[0]), min(bounds[1], used[1])
    worst = worst_case(price, *bounds)
    assert type(worst.micro_usd) is int
    assert (worst.tokens_in, worst.tokens_out) == bounds
    assert worst.micro_usd >= cost(price, tokens_in, tokens_out)
    factor = data.draw(st.integers(1000, price.factor_milli))
    assert worst.micro_usd >= exact(price, tokens_in, tokens_out) * Fraction(factor, 1000)


@given(price=prices, tokens_in=tokens, tokens_out=tokens)
def test_a_worst_case_is_no_more_than_its_two_roundings_too_high(
    price: Price, tokens_in: int, tokens_out: int
) -> None:
    bound = exact(price, tokens_in, tokens_out) * Fraction(price.factor_milli, 1000)
    assert 0 <= worst_case(price, tokens_in, tokens_out).micro_usd - bound < 2


@given(price=prices, tokens_in=tokens, micro=amounts, most=st.integers(0, 2**31))
def test_affordable_output_fits_and_one_more_token_does_not(
    price: Price, tokens_in: int, micro: int, most: int
) -> None:
    output = affordable_output(price, tokens_in, micro, most)
    assert type(output) is int
    assert output <= most
    if output < 0:
        assert worst_case(price, tokens_in, 0).micro_usd > micro
        return
    assert worst_case(price, tokens_in, output).micro_usd <= micro
    assert output == most or worst_case(price, tokens_in, output + 1).micro_usd > micro


@given(price=prices, tokens_in=st.integers(0, 10**6), choices=st.integers(1, 128), data=st.data())
def test_a_reservation_of_at_least_the_least_output_never_cuts_an_answer_shorter(
    price: Price, tokens_in: int, choices: int, data: st.DataObject
) -> None:
    """What is reserved for a call is at least its least: so each of its answers keeps LEAST_OUTPUT tokens."""
    total = data.draw(st.integers(LEAST_OUTPUT, 10**6)) * choices
    least = worst_case(price, tokens_in, LEAST_OUTPUT * choices).micro_usd
    reserved = data.draw(st.integers(least, max(least, worst_case(price, tokens_in, total).micro_usd)))
    assert affordable_output(price, tokens_in, reserved, total) // choices >= LEAST_OUTPUT


@given(asked=st.none() | st.integers(1, 2**31), limit=st.integers(1, 10**6), choices=st.integers(1, 128))
def test_an_output_cap_is_only_ever_lowered(asked: int | None, limit: int, choices: int) -> None:
    cap, total = output_cap(asked, limit, choices)
    assert cap == (limit if asked is None else min(asked, limit))
    assert total == cap * choices


# The input's bound.

PNG = "iVBORw0KGgo" + "A" * 5


@given(
    texts=st.lists(st.text(), min_size=1, max_size=5),
    images=st.lists(st.integers(0, 300), max_size=3),
    ascii_only=st.booleans(),
    price=prices,
)
@settings(deadline=None)
def test_the_input_bound_counts_every_byte_of_text_and_every_image_once(
    texts: list[str], images: list[int], ascii_only: bool, price: Price
) -> None:
    body = {
        "model": "llama3",
        "messages": [
            {"role": "user", "content": text, "images": [PNG + "A" * (4 * size) for size in images]} for text in texts
        ],
    }
    raw = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    route = match(b"POST", b"/api/chat")
    assert route is not None
    facts = read_body(route, {}, b"", raw).facts
    count = len(images) * len(texts)
    text_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    floor = text_bytes + TEMPLATE_TOKENS + MESSAGE_TOKENS * len(texts) + count * price.max_image_tokens
    assert input_bound(facts, len(raw), price) >= floor


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=4), price=prices)
def test_the_bytes_of_an_image_do_not_count(sizes: list[int], price: Price) -> None:
    facts = Facts()
    facts.shape = Shape(images=len(sizes))
    facts.image_data = tuple("A" * size for size in sizes)
    expected = 100 + TEMPLATE_TOKENS + MESSAGE_TOKENS + len(sizes) * price.max_image_tokens
    assert input_bound(facts, 100 + sum(sizes), price) == expected


# What Ollama 0.24 and its renderers made of such calls, counted in tokens.
TOOL = {"type": "function", "function": {"name": "f", "description": "<" * 300}}
MEASURED: dict[str, tuple[dict[str, Any], int]] = {
    "empty tools": ({"tools": [{}] * 20}, 1922),
    "a tool of escapes": ({"tools": [TOOL]}, 1926),
    "one empty tool": ({"tools": [{}]}, 225),
    "fifty empty tools": ({"tools": [{}] * 50}, 1352),
    "a thousand empty tools": ({"tools": [{}] * 1000}, 23202),
    "empty tool calls": ({"messages": [{"role": "assistant", "tool_calls": [{}] * 38}]}, 379),
    "null messages": ({"messages": [None] * 300}, 1500),
}


def read_chat(members: dict[str, Any]) -> tuple[Facts, int]:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | members).encode()
    route = match(b"POST", b"/api/chat")
    assert route is not None
    return read_body(route, {}, b"", raw).facts, len(raw)


@pytest.mark.parametrize("name", MEASURED)
def test_the_input_bound_holds_what_a_server_makes_of_tools(name: str) -> None:
    members, tokens = MEASURED[name]
    assert input_bound(*read_chat(members), Price(1, 1)) >= tokens


def go_tool(tool: Any, indent: str) -> str:
    """A tool as Ollama's own types write it again: all fields, its escapes, and blanks for models that want them."""
    function = tool.get("function", {})
    given = function.get("parameters", {})
    value = {
        "type": tool.get("type", ""),
        "function": {
            "name": function.get("name", ""),
            "description": function.get("description", ""),
            "parameters": {"type": given.get("type", ""), "properties": given.get("properties", {})},
        },
    }
    text = json.dumps(value, indent=indent or None, separators=None if indent else (",", ":"), ensure_ascii=False)
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@given(
    names=st.lists(st.text(st.sampled_from('<>&a\u2028\u00fc"\n'), max_size=40), min_size=1, max_size=5),
    depth=st.integers(0, 60),
    indent=st.sampled_from(["", "    "]),
)
@settings(deadline=None)
def test_the_input_bound_holds_every_byte_of_tools_that_are_written_again(
    names: list[str], depth: int, indent: str
) -> None:
    parameters = {"properties": {name: nested(depth) for name in names}}
    tools: list[Any] = [{"function": {"name": name, "description": name, "parameters": parameters}} for name in names]
    plain, plain_size = read_chat({})
    found, size = read_chat({"tools": tools})
    grown = input_bound(found, size, Price(1, 1)) - input_bound(plain, plain_size, Price(1, 1))
    assert grown >= sum(len(go_tool(tool, indent).encode()) for tool in tools)


@given(size=st.integers(0, 10**6), messages=st.integers(0, 50), images=st.integers(0, 5), price=prices)
def test_without_tools_and_formats_the_bound_is_bytes_messages_and_images(
    size: int, messages: int, images: int, price: Price
) -> None:
    facts = Facts()
    facts.messages, facts.shape = messages, Shape(images=images)
    assert input_bound(facts, size, price, 4096) == size + 64 + 8 * messages + images * price.max_image_tokens


@pytest.mark.parametrize("tokens_out", [1, 4096])
def test_what_a_first_run_says_is_input_of_the_second(tokens_out: int) -> None:
    once, size = read_chat({})
    twice, longer = read_chat({"format": "json"})
    grown = input_bound(twice, longer, Price(1, 1), tokens_out) - input_bound(once, size, Price(1, 1), tokens_out)
    assert grown - (longer - size) == tokens_out + TEMPLATE_TOKENS


def test_images_that_seem_longer_than_the_body_do_not_lower_the_bound() -> None:
    facts = Facts()
    facts.shape = Shape(images=1)
    facts.image_data = ("A" * 1000,)
    price = Price(1, 1, max_image_tokens=16384)
    assert input_bound(facts, 10, price) == TEMPLATE_TOKENS + MESSAGE_TOKENS + 16384
