"""Reading a JSON body the way every server might: one value, or a word on why readers could differ.

The body is never rewritten from what is read here; edits are made in place by `splice`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

_KEY_END = re.compile(rb'"[ \t\r\n]*:')
_BLANKS = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


class UnreadableError(Exception):
    """A body that is no JSON to any reader. The text names the place, never the content."""


@dataclass(slots=True)
class Reading:
    """A body's value. `problem` says why two readers could read it differently; empty where they cannot.

    `models` are all the strings that some reader could take for the top level's `model`; `texts` are all decoded
    strings in it, keys included, and where a key comes twice those of both. `numbers` are the large numbers that came
    as floats, their integers written out; `pictured` says that some string is an image or has one in it.
    """

    value: Any
    problem: str
    models: tuple[str, ...]
    texts: list[str]
    numbers: list[str]
    pictured: bool


def read_json(raw: bytes) -> Reading:
    """Reads a body. Raises UnreadableError where no reader could make sense of it."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _read_leniently(raw, error.pos)
    texts, keys, plain, numbers, pictured = _walk(value)
    problem = ""
    if _may_repeat(raw, texts, keys) and _has_repeats(raw):
        problem = "a key comes twice"
    elif not plain:
        problem = _case_variants(value)
    if problem:
        return _every_reading(raw.decode("utf-8"), value, texts, problem)
    model = value.get("model") if type(value) is dict else None
    return Reading(value, "", (model,) if type(model) is str else (), texts, numbers, pictured)


def _may_repeat(raw: bytes, texts: list[str], keys: int) -> bool:
    """Whether a key may come twice: a look at the bytes alone, which is cheap and never says no where one does.

    A string has two quotes, and a key ends in a quote and a colon: no more of those than strings or keys that were
    read leave none for a lost one. More of them can also be text inside a string.
    """
    return raw.count(b'"') != 2 * len(texts) and len(_KEY_END.findall(raw)) != keys


# Shorter strings are no image.
_LEAST_IMAGE = 40
_IMAGE_STARTS = frozenset("/_iRUdD \n")
# Base64 of the first bytes of JPEG, PNG, GIF and WebP; and a string that is such an image, bare or in a data URL.
_MAGIC = re.compile(r"[/_]9j[/_]|iVBORw0KGg|R0lGOD[dl]h|UklGR[A-Za-z0-9+/_-]{6}XRUJQ")
_IMAGE = re.compile(rf"\s*(?:[dD][aA][tT][aA]:[^,]{{0,99}},)?(?:{_MAGIC.pattern})")
# What a data URL inside of a text has, as in Markdown.
_DATA_URL = ";base64,"
# Smaller numbers tell of nobody, and no identifier has as many digits as larger ones.
_LEAST_NUMBER, _MOST_NUMBER = 1e7, 1e25


def _walk(value: Any) -> tuple[list[str], int, bool, list[str], bool]:
    """All strings, how many keys there are, whether all keys are plain, with no variant in another case; the integers
    of large floats, and whether a string is an image."""
    texts: list[str] = []
    long: list[str] = []
    numbers: list[str] = []
    keys = 0
    plain = True
    stack = [value]
    while stack:
        node = stack.pop()
        kind = type(node)
        if kind is dict:
            keys += len(node)
            for key, child in node.items():
                texts.append(key)
                if key not in _PLAIN and not (key.isascii() and key.islower()):
                    plain = False
                kind = type(child)
                if kind is str:
                    texts.append(child)
                    if len(child) >= _LEAST_IMAGE:
                        long.append(child)
                elif kind is dict or kind is list:
                    stack.append(child)
                elif kind is float and _LEAST_NUMBER <= abs(child) < _MOST_NUMBER:
                    numbers.append(str(int(child)))
        elif kind is list:
            stack += node
        elif kind is str:
            texts.append(node)
            if len(node) >= _LEAST_IMAGE:
                long.append(node)
        elif kind is float and _LEAST_NUMBER <= abs(node) < _MOST_NUMBER:
            numbers.append(str(int(node)))
    pictured = False
    for text in long:
        if (text[0] in _IMAGE_STARTS and _IMAGE.match(text)) or (";" in text and _has_data_url(text)):
            pictured = True
            break
    return texts, keys, plain, numbers, pictured


def _has_data_url(text: str) -> bool:
    return _DATA_URL in text and _MAGIC.search(text, text.index(_DATA_URL)) is not None


def _is_plain(node: dict[str, Any]) -> bool:
    names = "".join(node)
    return names.isascii() and names.islower()


def _has_repeats(raw: bytes) -> bool:
    repeated = False

    def members(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len(dict(pairs)) != len(pairs)

    try:
        json.loads(raw, object_pairs_hook=members, parse_int=float)
    except RecursionError:
        raise UnreadableError("the request body is nested too deeply") from None
    return repeated


def _case_variants(value: Any) -> str:
    """Why a reader that ignores the case of keys could read this otherwise; empty where it could not.

    Ollama is such a reader: to it `Model` is the model and `Images` are images, also where nothing else has the name.
    """
    stack: list[tuple[Any, bool]] = [(value, False)]
    while stack:
        node, free = stack.pop()
        if type(node) is list:
            stack += [(child, free) for child in node if type(child) is dict or type(child) is list]
        elif type(node) is dict:
            if not _is_plain(node):
                folded = {fold(key) for key in node}
                if len(folded) != len(node):
                    return "a key comes in two cases"
                if not free and not _FIELDS.isdisjoint(folded.difference(node)):
                    return "a field's name is in another case"
            for key, child in node.items():
                if type(child) is list:
                    stack.append((child, free or key in _FREE))
                elif type(child) is dict:
                    stack.append((child, free or key in _FREE or key == "input"))
    return ""


# What decides over a call: where it runs, what it may cost, what in it is no text. All else is text to be scanned,
# by whatever name.
_FIELDS = frozenset(
    (
        *("container", "content", "context", "conversation", "data", "effort", "file_id", "format", "function"),
        *("image", "image_url", "images", "include_usage", "input", "instructions", "max_completion_tokens"),
        *("max_output_tokens", "max_tokens", "mcp_servers", "messages", "model", "n", "num_ctx", "num_predict"),
        *("options", "output", "output_config", "output_format", "previous_response_id", "prompt", "query"),
        *("reasoning", "reasoning_effort", "response_format", "role", "source", "stream", "stream_options"),
        *("suffix", "system", "template", "text", "think", "thinking", "tool_calls", "tool_choice", "tools", "type"),
        *("connector_id", "server_url", "url", "web_search_options"),
    )
)
_PLAIN = _FIELDS | {"description", "name", "parameters", "properties", "required", "seed", "temperature", "top_p"}
# Below these the keys are the app's own: schemas, and arguments by them. So are those below an `input` that is an
# object (a tool's, in Anthropic's dialect).
_FREE = frozenset(
    (
        *("$defs", "arguments", "definitions", "format", "input_schema", "json_schema", "metadata", "parameters"),
        *("properties", "schema"),
    )
)


def fold(key: str) -> str:
    """A key as the most lenient reader compares it: Go folds case by Unicode, so `ſ` is an s and `K` a k."""
    return key.upper().casefold()


def _read_leniently(raw: bytes, position: int) -> Reading:
    problem = "it is not valid JSON to every reader"
    body = raw
    if raw.startswith(_BOM):
        problem, body = "it begins with a byte order mark", raw[len(_BOM) :]
    text = body.decode("utf-8", errors="replace")
    if not problem.startswith("it begins") and "\ufffd" in text and b"\xef\xbf\xbd" not in raw:
        problem = "it is not valid UTF-8"
    try:
        value, end = _LENIENT.raw_decode(text, _skip_blanks(text, 0))
    except (ValueError, RecursionError):
        raise UnreadableError(f"the request body is not valid JSON (at byte {position})") from None
    if _skip_blanks(text, end) < len(text):
        problem = "there is more behind its JSON value"
    return _every_reading(text, value, _walk(value)[0], problem)


def _every_reading(text: str, value: Any, texts: list[str], problem: str) -> Reading:
    """The reading of a body with a problem: every model that it could name, and the strings that `value` lost."""
    models: dict[str, None] = {}
    found: dict[str, None] = {}
    for node in _values(text):
        if isinstance(node, _Members):
            models.update((child, None) for key, child in node.pairs if fold(key) == "model" and type(child) is str)
        stack = [node]
        while stack:
            child = stack.pop()
            if type(child) is str:
                found[child] = None
            elif type(child) is list:
                stack += child
            elif isinstance(child, _Members):
                for pair in child.pairs:
                    stack += pair
    known = frozenset(texts)
    return Reading(value, problem, tuple(models), texts + [text for text in found if text not in known], [], False)


def _values(text: str) -> Iterator[Any]:
    """The JSON values that stand one behind the other, up to the first thing that is none."""
    position = 0
    while (position := _skip_blanks(text, position)) < len(text):
        try:
            value, position = _EVERY_MEMBER.raw_decode(text, position)
        except ValueError:
            return
        except RecursionError:
            raise UnreadableError("the request body is nested too deeply") from None
        yield value


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


class _Members:
    """An object's members as they came, repeats included."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


# Integers as floats: one of more digits than Python cares to read is a number all the same.
_LENIENT = json.JSONDecoder(strict=False, parse_int=float)
_EVERY_MEMBER = json.JSONDecoder(strict=False, parse_int=float, object_pairs_hook=_Members)


def texts_of(value: Any) -> list[tuple[str, Any]]:
    """The strings of a value in the order of `Reading.texts`, each with its path; `*` for a key of the app's own."""
    found: list[tuple[str, Any]] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, node = stack.pop()
        if type(node) is dict:
            for key, child in node.items():
                name = f"{path}.{key if key in _KNOWN_KEYS else '*'}".lstrip(".")
                found.append((f"{name} (its name)", key))
                if type(child) is str:
                    found.append((name, child))
                elif type(child) is dict or type(child) is list:
                    stack.append((name, child))
        elif type(node) is list:
            stack += [(f"{path}[{index}]", child) for index, child in enumerate(node)]
        elif type(node) is str:
            found.append((path, node))
    return found


# The keys that a path may show. Any other key is the app's own text, and that is never shown.
_KNOWN_KEYS = frozenset(
    (
        *(
            "arguments",
            "content",
            "description",
            "format",
            "function",
            "image_url",
            "images",
            "input",
            "instructions",
        ),
        *("json_schema", "messages", "model", "name", "options", "output", "parameters", "prompt", "properties"),
        *("query", "response_format", "role", "schema", "source", "suffix", "system", "template", "text", "thinking"),
        *("tool_calls", "tools", "type", "url", "user"),
    )
)
