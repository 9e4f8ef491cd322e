"""What a stand-in model "generates": text that depends on the prompt's hash alone and never repeats any of it, so
that a prompt found where it should not be was leaked by someone else.

Tokens. Input: every text costs one token per four bytes of UTF-8, rounded up, and four for its place in a template;
an image costs 256; tools cost what their JSON costs as text. Output: one token per word of prose, one per four
characters of JSON, a tool call what its name and arguments cost as text.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.standins.gojson import Fields, dumps
from sidecar.standins.models import StandInModel
from sidecar.standins.schema import minimal

TEXT_OVERHEAD = 4
IMAGE_TOKENS = 256
DIMENSIONS = 64
"""Length of an embedding."""
_OPENING = ("This", " is", " a", " stand-in,", " not", " a", " model:")
_THOUGHT = ("Thinking", " as", " a", " stand-in", " does.")
_WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven"),
    *("indigo", "juniper", "kelp", "lantern", "meadow", "nectar", "opal", "pebble"),
    *("quartz", "river", "saffron", "timber", "umber", "valley", "willow", "xenon"),
    *("yarrow", "zephyr", "anchor", "beacon", "copper", "drift", "eagle", "fern"),
)
_USE_TOOL = re.compile(r"\buse the tool\b(?:\s+([\w.-]+))?", re.IGNORECASE)


class ContextExceededError(Exception):
    """The prompt does not fit and may not be cut."""


def count_tokens(text: str) -> int:
    """The stand-ins' tokenizer: one token per four bytes of UTF-8, rounded up."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


@dataclass
class Ask:
    """What a model is asked, whatever the dialect.

    `model` as the client wrote it; `texts` every text of the prompt in order; `last_user` the text that is searched
    for "use the tool [NAME]", empty unless a user spoke last; `tools` in Ollama's own shape; `format` "json" or a
    schema; `max_tokens` None or not positive for no limit; `think` None for the model's own way, `relax_thinking` to
    think only where the model can; `context` num_ctx, `truncate` whether a longer prompt is cut to it; `inserts`: the
    prompt has a suffix.
    """

    model: str
    texts: list[str] = field(default_factory=list)
    last_user: str = ""
    images: int = 0
    tools: Sequence[Any] = ()
    format: Any = None
    max_tokens: int | None = None
    think: bool | None = None
    relax_thinking: bool = False
    stream: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    context: int | None = None
    truncate: bool = True
    inserts: bool = False


@dataclass
class ToolCall:
    id: str
    name: str
    arguments: dict[str, Any]
    index: int = 0


@dataclass
class Step:
    """What one step of a generation brings; `tokens` is what it adds to the count of output tokens."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: int = 1


@dataclass
class Generation:
    """One run of a model. `tokens_out` grows as it goes; `reported` replaces the counts that answers show (None of a
    pair: the figure is left out), while what is billed stays true."""

    ask: Ask
    model: StandInModel
    tokens_in: int
    steps: list[Step]
    done_reason: str
    tokens_out: int = 0
    complete: bool = False
    reported: tuple[Any, Any] | None = None
    started: int = field(default_factory=time.monotonic_ns)

    @property
    def counts(self) -> tuple[Any, Any]:
        """Input and output tokens as answers show them."""
        return self.reported if self.reported is not None else (self.tokens_in, self.tokens_out)

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    @property
    def thinking(self) -> str:
        return "".join(step.thinking for step in self.steps)

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [call for step in self.steps for call in step.tool_calls]

    def metrics(self) -> dict[str, Any]:
        """Ollama's figures on a final record: durations in nanoseconds, counts; what is 0 is left out."""
        took = time.monotonic_ns() - self.started
        tokens_in, tokens_out = self.counts
        figures = {
            "total_duration": took + 1_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": tokens_in,
            "prompt_eval_duration": took // 4 + 1,
            "eval_count": tokens_out,
            "eval_duration": took // 2 + 1,
        }
        return {name: figure for name, figure in figures.items() if figure}


def plan(
    ask: Ask,
    model: StandInModel,
    *,
    length: int | None = None,
    tokenizer: Callable[[str], int] = count_tokens,
) -> Generation:
    """The generation for an ask. `length` is how many tokens of prose the model would write if nobody stopped it; by
    default 16 to 47, by the prompt's hash."""
    digest = _digest(model.name, *ask.texts)
    tokens_in = sum(tokenizer(text) + TEXT_OVERHEAD for text in ask.texts) + IMAGE_TOKENS * ask.images
    if ask.tools:
        tokens_in += tokenizer(dumps(ask.tools).decode())
    room = ask.context or model.context_length
    if tokens_in > room and not ask.truncate:
        raise ContextExceededError
    tokens_in = min(tokens_in, room)
    call = _tool_call(ask, digest)
    steps: Iterator[Step]
    if call is not None:
        steps = iter(
            [Step(tool_calls=(call,), tokens=tokenizer(call.name) + tokenizer(dumps(call.arguments).decode()))]
        )
    elif ask.format:
        steps = _json_steps(dumps(minimal(ask.format)).decode())
    else:
        steps = _prose(digest, 16 + digest[0] % 32 if length is None else length)
    thinks = "thinking" in model.capabilities and ask.think is not False
    limit = ask.max_tokens if ask.max_tokens and ask.max_tokens > 0 else math.inf
    taken: list[Step] = []
    used = 0
    for step in [*(Step(thinking=word) for word in _THOUGHT if thinks), *steps]:
        if used + step.tokens > limit:
            break
        taken.append(step)
        used += step.tokens
    if call is not None and used < limit and not any(step.tool_calls for step in taken):
        # A call that does not fit comes out as the text that it would have become.
        half = _json_steps(dumps({"name": call.name, "arguments": call.arguments}).decode())
        taken += [step for _, step in zip(range(int(limit) - used), half, strict=False)]
        used = int(limit)
    # A text that ends right at the limit was ended by it: the model never got to say that it is done.
    return Generation(ask, model, tokens_in, taken, "length" if used >= limit else "stop")


def embedding(text: str, dimensions: int = 0) -> list[float]:
    """A unit vector by the text's hash alone, `DIMENSIONS` long or cut to fewer."""
    digest = _digest("embedding", text)
    raw = [byte - 127.5 for byte in b"".join(_blocks(digest, DIMENSIONS // 32))][: dimensions or DIMENSIONS]
    norm = math.sqrt(sum(value * value for value in raw))
    return [round(value / norm, 8) for value in raw]


def context_ids(generation: Generation) -> list[int]:
    """The `context` of /api/generate: as many invented token ids as there were tokens, at most 4096."""
    digest = _digest(generation.model.name, *generation.ask.texts)
    count = min(4096, generation.tokens_in + generation.tokens_out)
    return [digest[position % 32] + position % 7 for position in range(count)]


def _digest(*parts: str) -> bytes:
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "replace")
        hashed.update(b"%d:" % len(data) + data)
    return hashed.digest()


def _blocks(digest: bytes, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield hashlib.sha256(digest + number.to_bytes(8, "big")).digest()


def _prose(digest: bytes, length: int) -> Iterator[Step]:
    for word in _OPENING[:length]:
        yield Step(word)
    missing = length - len(_OPENING)
    for block in _blocks(digest, max(0, -(-missing // 32))):
        for byte in block[: max(0, missing)]:
            yield Step(f" {_WORDS[byte % len(_WORDS)]}")
        missing -= 32


def _json_steps(text: str) -> Iterator[Step]:
    for start in range(0, len(text), 4):
        yield Step(text[start : start + 4])


def _tool_call(ask: Ask, digest: bytes) -> ToolCall | None:
    found = _USE_TOOL.search(ask.last_user) if ask.tools else None
    if found is None:
        return None
    functions = [_function(tool) for tool in ask.tools if isinstance(tool, dict)] or [{}]
    named = [function for function in functions if function.get("name") == found.group(1)]
    function = (named or functions)[0]
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    identity = "".join(alphabet[byte % 36] for byte in digest[:8])
    arguments = minimal(function.get("parameters") or {"type": "object"})
    return ToolCall(
        f"call_{identity}", str(function.get("name", "")), arguments if isinstance(arguments, dict) else {}
    )


def _function(tool: Any) -> dict[str, Any]:
    function = tool.field("function") if isinstance(tool, Fields) else dict(tool).get("function")
    return function if isinstance(function, dict) else {}
