"""What a cloud call costs, in integer micro-USD, and the most that it can cost before it ran.

Prices are micro-USD per 1M tokens. Every division rounds up: what is billed is never more than what we booked.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.call import Facts

PER_TOKENS = 1_000_000
# A prompt's tokens are at most its bytes; a template adds to the whole and to each message.
TEMPLATE_TOKENS = 64
MESSAGE_TOKENS = 8
# What a template says of tools in its own words, once where there are any; and around each of them.
TOOLS_TOKENS = 1024
TOOL_TOKENS = 100
# Under this the answer would be cut too short to be worth its price: such a call goes local.
LEAST_OUTPUT = 256
_FACTOR_UNIT = 1000
_UNITS = PER_TOKENS * _FACTOR_UNIT


@dataclass(frozen=True, slots=True)
class Price:
    """`input` and `output` in micro-USD per 1M tokens; `factor_milli` is the highest factor at peak hours × 1000."""

    input: int
    output: int
    factor_milli: int = _FACTOR_UNIT
    max_image_tokens: int = 16384


@dataclass(frozen=True, slots=True)
class CloudModel:
    """One model of the catalogue; None where the catalogue does not say."""

    name: str
    price: Price | None
    context_length: int | None = None
    capabilities: frozenset[str] | None = None
    estimate: bool = False


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most one call can cost: `micro_usd` for `tokens_in` and `tokens_out`."""

    micro_usd: int
    tokens_in: int
    tokens_out: int


def cost(price: Price, tokens_in: int, tokens_out: int) -> int:
    """What a call costs by the tokens its server counted: micro-USD, input and output apart, each rounded up.

    A provider that rounds up once, or not at all, bills at most that.
    """
    return _rounded_up(tokens_in * price.input, PER_TOKENS) + _rounded_up(tokens_out * price.output, PER_TOKENS)


def input_bound(facts: Facts, body_bytes: int, price: Price, tokens_out: int = 0) -> int:
    """The most input tokens a body can make. Image data counts by image, not by its bytes.

    Tools and tool calls count a second time: a server does not pass their bytes on, it writes their JSON anew, with
    the fields that were left out and other escapes, and its template explains them to the model. Where it may run the
    call twice, the second prompt holds what the first run said, at most `tokens_out`, as one more message.
    """
    image_bytes = sum(map(len, facts.image_data))
    bound = max(body_bytes - image_bytes, 0)
    bound += TEMPLATE_TOKENS + MESSAGE_TOKENS * facts.messages + facts.images * price.max_image_tokens
    if facts.tool_items:
        bound += TOOLS_TOKENS + TOOL_TOKENS * facts.tool_items + facts.tool_bytes
    if facts.reruns:
        bound += tokens_out + TEMPLATE_TOKENS
    return bound


def worst_case(price: Price, tokens_in: int, tokens_out: int) -> WorstCase:
    """The most that a call within these bounds can cost."""
    most_in = _rounded_up(tokens_in * price.input * price.factor_milli, _UNITS)
    most_out = _rounded_up(tokens_out * price.output * price.factor_milli, _UNITS)
    return WorstCase(most_in + most_out, tokens_in, tokens_out)


def affordable_output(price: Price, tokens_in: int, micro_usd: int, most: int) -> int:
    """The most output tokens, up to `most`, whose worst case is at most `micro_usd`; negative where none is."""
    if worst_case(price, tokens_in, most).micro_usd <= micro_usd:
        return most
    if not price.output:
        return -1
    left = micro_usd - _rounded_up(tokens_in * price.input * price.factor_milli, _UNITS)
    return min(left * _UNITS // (price.output * price.factor_milli), most)


def _rounded_up(amount: int, unit: int) -> int:
    return -(-amount // unit)


def output_cap(asked: int | None, limit: int, choices: int) -> tuple[int, int]:
    """The bound on output tokens to send, and the tokens that it allows over all answers: the app's own, at most
    `limit`; never raised."""
    cap = limit if asked is None else min(asked, limit)
    return cap, cap * choices
