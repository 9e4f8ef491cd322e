"""Edits of a JSON object in place: the bytes of one value change, all others stay as they came.

Only for bodies that `reading.read_json` found no problem with: valid JSON, every key once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

_BLANKS = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb"[^ \t\r\n{}\[\]:,\"]+")
_MARK = re.compile(rb'["{}\[\]]')
_QUOTE, _BACKSLASH = 0x22, 0x5C


class NotEditableError(Exception):
    """An object that cannot be edited as asked, e.g. because a member that should be an object is none."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands: `raw[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """`raw[start:end]` becomes `text`."""

    start: int
    end: int
    text: bytes


def members(raw: bytes, start: int = 0) -> dict[str, Span]:
    """The members of the object at `start`: decoded key → where its value stands. Raises NotEditableError."""
    position = _skip_blanks(raw, start)
    if raw[position : position + 1] != b"{":
        raise NotEditableError("it is no JSON object")
    found: dict[str, Span] = {}
    position = _skip_blanks(raw, position + 1)
    while raw[position : position + 1] != b"}":
        if found:
            position = _skip_blanks(raw, _expect(raw, position, b","))
        key_end = _string_end(raw, _expect(raw, position, b'"') - 1)
        key = orjson.loads(raw[position:key_end])
        position = _skip_blanks(raw, _expect(raw, _skip_blanks(raw, key_end), b":"))
        end = _value_end(raw, position)
        found[key] = Span(position, end)
        position = _skip_blanks(raw, end)
    return found


def _skip_blanks(raw: bytes, position: int) -> int:
    match = _BLANKS.match(raw, position)
    return match.end() if match else position


def _expect(raw: bytes, position: int, mark: bytes) -> int:
    if raw[position : position + 1] != mark:
        raise NotEditableError("it is no valid JSON object")
    return position + 1


def _value_end(raw: bytes, position: int) -> int:
    first = raw[position : position + 1]
    if first == b'"':
        return _string_end(raw, position)
    if first == b"{" or first == b"[":
        return _nested_end(raw, position)
    scalar = _SCALAR.match(raw, position)
    if scalar is None:
        raise NotEditableError("it is no valid JSON object")
    return scalar.end()


def _string_end(raw: bytes, position: int) -> int:
    """The end of the string at `position`: the next quote with an even number of backslashes before it."""
    quote = raw.find(b'"', position + 1)
    while quote >= 0:
        before = quote - 1
        while raw[before] == _BACKSLASH:
            before -= 1
        if (quote - before) % 2:
            return quote + 1
        quote = raw.find(b'"', quote + 1)
    raise NotEditableError("a JSON string does not end")


def _nested_end(raw: bytes, position: int) -> int:
    depth = 0
    while (mark := _MARK.search(raw, position)) is not None:
        position = mark.end()
        character = raw[position - 1]
        if character == _QUOTE:
            position = _string_end(raw, position - 1)
        elif character in b"{[":
            depth += 1
        elif depth == 1:
            return position
        else:
            depth -= 1
    raise NotEditableError("the JSON object does not end")


def set_member(
    raw: bytes, path: tuple[str, ...], value: bytes, start: int = 0, there: dict[str, Span] | None = None
) -> Edit:
    """The edit that gives the member at `path` the JSON text `value`; it is added where it is not there.

    A missing or null object on the way is made. `there` are the `members` at `start`, where they are known. Raises
    NotEditableError where something else is in its place.
    """
    name, rest = path[0], path[1:]
    found = members(raw, start) if there is None else there
    span = found.get(name)
    if span is None:
        brace = raw.index(b"{", start) + 1
        return Edit(brace, brace, orjson.dumps(name) + b":" + _nested(rest, value) + (b"," if found else b""))
    if not rest:
        return Edit(span.start, span.end, value)
    if raw[span.start : span.end] == b"null":
        return Edit(span.start, span.end, _nested(rest, value))
    return set_member(raw, rest, value, span.start)


def _nested(path: tuple[str, ...], value: bytes) -> bytes:
    for name in reversed(path):
        value = b"{" + orjson.dumps(name) + b":" + value + b"}"
    return value


def apply(raw: bytes, edits: list[Edit]) -> bytes:
    """The body with its edits made. Raises ValueError where two of them touch the same bytes."""
    parts: list[bytes] = []
    position = 0
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        if edit.start < position:
            raise ValueError("two edits overlap")
        parts += (raw[position : edit.start], edit.text)
        position = edit.end
    parts.append(raw[position:])
    return b"".join(parts)
