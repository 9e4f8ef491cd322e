"""JSON as text, with all that a body may hold; and other readers of it, Go's above all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Members:
    """An object's members as they came, repeats included."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        self.pairs = list(pairs)

    def __repr__(self) -> str:
        return f"Members({self.pairs!r})"


class RejectedError(Exception):
    """A reader's word on what it does not take."""


# Go's encoding/json, as Ollama's handlers use it. Held against the real one (Go 1.26) by hand.


def go_fold(key: str) -> str:
    """Go's foldName: each rune by unicode.SimpleFold, so that ſ is an s and the Kelvin sign a k."""
    return "".join({"\u017f": "s", "\u212a": "k"}.get(char, char.lower() if char.isascii() else char) for char in key)


def go_read(raw: bytes) -> Any:
    """The first JSON value as Go's Decoder takes it; objects as Members. Raises RejectedError."""
    text = raw.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, _ = _GO.raw_decode(text, start)
        return _without_surrogates(value)
    except (ValueError, RecursionError) as error:
        raise RejectedError from error


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_GO = json.JSONDecoder(strict=True, object_pairs_hook=Members, parse_constant=_no_constant, parse_int=float)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)
    if isinstance(value, list):
        return [_without_surrogates(child) for child in value]
    if isinstance(value, Members):
        return Members([(_without_surrogates(key), _without_surrogates(child)) for key, child in value.pairs])
    return value


def go_field(value: Any, name: str) -> Any:
    """A struct's field: any case, the last one wins, a null changes nothing."""
    found = None
    if isinstance(value, Members):
        for key, child in value.pairs:
            if go_fold(key) == name and child is not None:
                found = child
    return found


def exact_field(value: Any, name: str) -> Any:
    """As a map's reader finds it: the last one in the very spelling."""
    found = None
    if isinstance(value, Members):
        for key, child in value.pairs:
            if key == name:
                found = child
    return found


def first_field(value: Any, name: str) -> Any:
    """As a reader finds it that takes the first one."""
    if isinstance(value, Members):
        for key, child in value.pairs:
            if key == name:
                return child
    return None


def plain(value: Any) -> Any:
    """Members as dicts, the last one of a name."""
    if isinstance(value, Members):
        return {key: plain(child) for key, child in value.pairs}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return value


def strings(value: Any) -> set[str]:
    """All strings of a value, keys included."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, list):
        return {text for child in value for text in strings(child)}
    if isinstance(value, Members):
        return {text for key, child in value.pairs for text in (key, *strings(child))}
    return set()


# Finding members, by json's own scanner.

_DECODER = json.JSONDecoder()


def located(text: str, start: int = 0) -> dict[str, tuple[int, int, int]]:
    """Another finder of members: key → where the key starts, its value starts and ends. By json's own scanner."""
    found: dict[str, tuple[int, int, int]] = {}
    position = _skip(text, start)
    assert text[position] == "{"
    position = _skip(text, position + 1)
    while text[position] != "}":
        key_start = position
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)
        value_start = position
        _, position = _DECODER.raw_decode(text, position)
        found[key] = (key_start, value_start, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return found


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] and text[position] in " \t\r\n":
        position += 1
    return position


# Writing JSON in every way that is allowed.

FIELD_NAMES = [
    *(
        "model",
        "messages",
        "prompt",
        "content",
        "images",
        "options",
        "num_predict",
        "stream",
        "tools",
        "type",
        "role",
    ),
    *("max_tokens", "system", "input", "text", "image_url", "url", "context", "format", "parameters", "properties"),
]
ODD_NAMES = [
    *("Model", "MODEL", "mode\u0131", "Messages", "\u017ftream", "me\u017fsages", "too\u212a", "", "a b", "\u00e9"),
    *('":', 'x":"y', "\\", 'k\\"', "\u2028", "\U0001f600", "moDel", "Images", "Options", "N", "1"),
]
NAMES = st.one_of(st.sampled_from(FIELD_NAMES), st.sampled_from(ODD_NAMES), st.text(max_size=4))
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["llama3", "gpt-oss:120b-cloud", "x:cloud", '"model":"x:cloud"', "\\", '\\"', '":', "{}", "\ufffd"]
    ),
)
SCALARS = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda children: st.one_of(
        st.lists(children, max_size=3), st.lists(st.tuples(NAMES, children), max_size=4).map(Members)
    ),
    max_leaves=12,
)
BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n  "])


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON text, with blanks and escapes wherever they may be."""

    def blank() -> str:
        return draw(BLANKS)

    def string(text: str) -> str:
        quoted = json.dumps(text, ensure_ascii=draw(st.booleans()))
        if text and draw(st.integers(0, 3)) == 0:
            at = draw(st.integers(0, len(text) - 1))
            units = text[at].encode("utf-16-be", "surrogatepass")
            escape = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
            before, after = (json.dumps(part)[1:-1] for part in (text[:at], text[at + 1 :]))
            quoted = f'"{before}{escape}{after}"'
        return quoted.replace("/", "\\/") if draw(st.booleans()) else quoted

    def write(node: Any) -> str:
        if isinstance(node, Members | dict):
            pairs = node.pairs if isinstance(node, Members) else list(node.items())
            inner = ",".join(
                f"{blank()}{string(key)}{blank()}:{blank()}{write(child)}{blank()}" for key, child in pairs
            )
            return "{" + (inner or blank()) + "}"
        if isinstance(node, list):
            return "[" + (",".join(f"{blank()}{write(child)}{blank()}" for child in node) or blank()) + "]"
        return string(node) if isinstance(node, str) else json.dumps(node)

    return blank() + write(value) + blank()


OBJECTS = st.lists(st.tuples(NAMES, VALUES), max_size=6).map(Members)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A JSON object as a body, often a hostile one: repeats, variants, escapes, something behind it."""
    value = draw(OBJECTS)
    if draw(st.booleans()):
        value.pairs.insert(draw(st.integers(0, len(value.pairs))), ("model", draw(TEXTS)))
    raw = draw(written(value)).encode("utf-8", "surrogatepass")
    change = draw(st.integers(0, 11))
    if change == 0:
        raw += draw(st.sampled_from([b"x", b"{}", b'{"model":"x:cloud"}', b"\x00", b"]", b" null"]))
    elif change == 1:
        raw = draw(st.sampled_from([b"\xef\xbb\xbf", b"\x00", b"\xff", b"[", b"null "])) + raw
    elif change == 2 and raw:
        at = draw(st.integers(0, len(raw) - 1))
        raw = (
            raw[:at]
            + draw(st.sampled_from([b"", b"\xff", b"\xed\xa0\x80", b"\t", b'"', b"\\", b",", b"NaN"]))
            + raw[at + 1 :]
        )
    elif change == 3:
        raw = raw.replace(b"null", b"NaN").replace(b"true", b"1e999")
    return raw
