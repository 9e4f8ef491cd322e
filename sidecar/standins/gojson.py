"""JSON as Go's encoding/json reads and writes it, as far as a client or a proxy can tell the difference.

Reading: a key matches a struct field whatever its case, of several the last one that is not null counts, what
follows the first value is ignored, NaN is no number, a type that does not fit is an error that names the field.
Writing: compact, struct order, `<`, `>`, `&`, U+2028 and U+2029 escaped.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar

import orjson

T = TypeVar("T")
_WHITE = re.compile(r"[ \t\r\n]*")
_ESCAPES = (
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)
_PLACES = {
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Expecting value": "looking for beginning of value",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}
_NAMES = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}


class GoJsonError(Exception):
    """The text is Go's."""


class Fields(dict[str, Any]):
    """A JSON object that still knows every key it was sent with, duplicates and all."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def field(self, name: str) -> Any:
        """The value of a struct field as Go would set it; None when absent."""
        for key, value in reversed(self._pairs):
            if value is not None and (key == name or key.casefold() == name):
                return value
        return None


def loads(data: bytes) -> Any:
    """The first JSON value of the data. Objects come as `Fields`."""
    text = data.decode("utf-8", "replace")
    match = _WHITE.match(text)
    start = match.end() if match else 0
    if start == len(text):
        raise GoJsonError("EOF")
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise GoJsonError(_describe(error, text)) from error
    except RecursionError as error:
        raise GoJsonError("exceeded max depth") from error
    except ValueError as error:  # a number of thousands of digits
        raise GoJsonError("json: cannot unmarshal number") from error
    return value


def _no_constant(name: str) -> NoReturn:
    raise GoJsonError(f"invalid character '{name[-1] if name[0] == '-' else name[0]}' looking for beginning of value")


_DECODER = json.JSONDecoder(object_pairs_hook=Fields, parse_constant=_no_constant)


def _describe(error: json.JSONDecodeError, text: str) -> str:
    place = _PLACES.get(error.msg)
    if place is None or error.pos >= len(text):
        return "unexpected EOF"
    return f"invalid character {text[error.pos]!r} {place}"


def dumps(value: Any, *, sort: bool = False) -> bytes:
    """The bytes of a value; `sort` as Go writes a map."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort else 0)
    except TypeError:  # an integer beyond 64 bits (faults report such), a lone surrogate
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort).encode("utf-8", "replace")
    for char, escape in _ESCAPES:
        if char in data:
            data = data.replace(char, escape)
    return data


def struct(value: Any, go_type: str) -> Fields:
    """The body as a struct; null is an empty one."""
    if value is None:
        return Fields([])
    if not isinstance(value, Fields):
        raise GoJsonError(f"json: cannot unmarshal {kind(value)} into Go value of type {go_type}")
    return value


def kind(value: Any) -> str:
    return _NAMES.get(type(value), "object")


def typed(body: Fields, go_type: str, name: str, wanted: type[T], default: T) -> T:
    """A field of one type. `go_type` is the struct's name in Go, for the error's text."""
    value = body.field(name)
    if value is None:
        return default
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    go_name = {str: "string", bool: "bool", int: "int", list: "[]", dict: "map[string]interface {}"}[wanted]
    raise GoJsonError(f"json: cannot unmarshal {kind(value)} into Go struct field {go_type}.{name} of type {go_name}")
