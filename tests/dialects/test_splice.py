"""Edits in place: the member that is meant, found whatever the text around it; all other bytes stay."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_support import NAMES, QUICK, VALUES, located, plain, written

from sidecar.dialects.splice import Edit, NotEditableError, Span, apply, members, set_member


@st.composite
def objects(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """An object without repeats, and its text."""
    value = draw(st.dictionaries(NAMES, VALUES.map(plain), max_size=5))
    raw = draw(written(value)).encode("utf-8", "surrogatepass")
    return value, raw


def is_utf8(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False  # a lone surrogate: such a body is never edited
    return True


@QUICK
@given(objects())
def test_members_are_where_another_scanner_finds_them(body: tuple[dict[str, Any], bytes]) -> None:
    value, raw = body
    if not is_utf8(raw):
        return
    found = members(raw)
    assert set(found) == set(value)
    text = raw.decode()
    for key, (_, start, end) in located(text).items():
        span = found[key]
        assert raw[: span.start].decode() == text[:start]
        assert raw[span.start : span.end].decode() == text[start:end]


@QUICK
@given(objects(), NAMES, VALUES.map(plain))
def test_setting_a_member_changes_that_alone(body: tuple[dict[str, Any], bytes], name: str, new: Any) -> None:
    value, raw = body
    try:
        text = orjson.dumps(new)
        orjson.dumps(name)
    except orjson.JSONEncodeError:
        return  # no UTF-8
    if not is_utf8(raw):
        return
    edited = apply(raw, [set_member(raw, (name,), text)])
    assert orjson.loads(edited) == orjson.loads(raw) | {name: orjson.loads(text)}
    span = members(raw).get(name)
    if span is None:
        brace = raw.index(b"{") + 1
        added = orjson.dumps(name) + b":" + text + (b"," if value else b"")
        assert edited == raw[:brace] + added + raw[brace:]
    else:
        assert edited == raw[: span.start] + text + raw[span.end :]


@pytest.mark.parametrize(
    ("raw", "path", "edited"),
    [
        (b'{"a":1}', ("a",), b'{"a":9}'),
        (b'{"a" :\t1 }', ("a",), b'{"a" :\t9 }'),
        (b'{"a":"x"}', ("a",), b'{"a":9}'),
        (b'{"a":""}', ("a",), b'{"a":9}'),
        (b'{"a":"\\""}', ("a",), b'{"a":9}'),
        (b'{"a":"\\\\"}', ("a",), b'{"a":9}'),
        (b'{"a":"\\\\\\"}{","b":1}', ("b",), b'{"a":"\\\\\\"}{","b":9}'),
        (b'{"a":{"b":{"a":1}},"b":2}', ("b",), b'{"a":{"b":{"a":1}},"b":9}'),
        (b'{"a":[{"a":1},"]",[]],"b":2}', ("a",), b'{"a":9,"b":2}'),
        (b'{"\\u0061":1}', ("a",), b'{"\\u0061":9}'),
        (b'{"a\\\\":1,"a":2}', ("a",), b'{"a\\\\":1,"a":9}'),
        (b'{"x":"\\"a\\":1","a":2}', ("a",), b'{"x":"\\"a\\":1","a":9}'),
        (b"{}", ("a",), b'{"a":9}'),
        (b" {\n} ", ("a",), b' {"a":9\n} '),
        (b'{"b":1}', ("a",), b'{"a":9,"b":1}'),
        (b'{"a":null}', ("a", "b"), b'{"a":{"b":9}}'),
        (b'{"a":{}}', ("a", "b"), b'{"a":{"b":9}}'),
        (b'{"a":{ }}', ("a", "b"), b'{"a":{"b":9 }}'),
        (b'{"a":{"c":1}}', ("a", "b"), b'{"a":{"b":9,"c":1}}'),
        (b'{"c":1}', ("a", "b"), b'{"a":{"b":9},"c":1}'),
        (b'{"a":{"b":[1,2]}}', ("a", "b"), b'{"a":{"b":9}}'),
        (b'{"b":{"b":1},"a":{"b":2}}', ("a", "b"), b'{"b":{"b":1},"a":{"b":9}}'),
        (b'{"a":true,"b":-1.5e+3}', ("b",), b'{"a":true,"b":9}'),
        ('{"é":"ü","a":1}'.encode(), ("a",), '{"é":"ü","a":9}'.encode()),
    ],
)
def test_where_a_member_is_set(raw: bytes, path: tuple[str, ...], edited: bytes) -> None:
    assert apply(raw, [set_member(raw, path, b"9")]) == edited


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"[]", ("a",)),
        (b'"a"', ("a",)),
        (b"", ("a",)),
        (b'{"a":[]}', ("a", "b")),
        (b'{"a":"null"}', ("a", "b")),
        (b'{"a":0}', ("a", "b")),
        (b'{"a":false}', ("a", "b")),
        (b'{"a":1', ("a",)),
        (b'{"a":{"b":1', ("a",)),
        (b'{"a":"b', ("a",)),
        (b'{"a" 1}', ("a",)),
        (b'{"a":1 "b":2}', ("b",)),
        (b'{"a":,}', ("a",)),
        (b'{"a":1,}', ("b",)),
        (b"{1:2}", ("a",)),
    ],
)
def test_what_cannot_be_edited(raw: bytes, path: tuple[str, ...]) -> None:
    with pytest.raises(NotEditableError):
        set_member(raw, path, b"9")


def test_edits_are_applied_by_their_place_and_must_not_overlap() -> None:
    assert apply(b"abcdef", [Edit(4, 5, b"X"), Edit(0, 1, b""), Edit(2, 2, b"-")]) == b"b-cdXf"
    assert apply(b"abc", []) == b"abc"
    with pytest.raises(ValueError, match="overlap"):
        apply(b"abcdef", [Edit(0, 3, b""), Edit(2, 4, b"")])


def test_a_large_body_of_small_members() -> None:
    value = {f"k{number}": {"a": ['"', "\\", number]} for number in range(20_000)}
    raw = orjson.dumps(value)
    found = members(raw)
    assert list(found) == list(value)
    start = raw.index(b'{"a":["\\"","\\\\",7]}')
    assert found["k7"] == Span(start, raw.index(b"}", start) + 1)


def test_a_string_of_a_million_escapes() -> None:
    raw = b'{"x":"' + b'\\"' * 300_000 + b"\\\\" * 300_000 + b'","a":1}'
    assert apply(raw, [set_member(raw, ("a",), b"9")]) == raw[:-2] + b"9}"
