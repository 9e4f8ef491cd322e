"""Reading a body as every server might: either all of them agree, or the reading says why they may not."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from json_support import (
    FIELD_NAMES,
    QUICK,
    VALUES,
    Members,
    RejectedError,
    bodies,
    exact_field,
    first_field,
    go_field,
    go_fold,
    go_read,
    plain,
    strings,
    written,
)

from sidecar.dialects.reading import Reading, UnreadableError, fold, read_json, texts_of

CLOUD = "gpt-oss:120b-cloud"


def reading(raw: bytes) -> Reading | None:
    try:
        return read_json(raw)
    except UnreadableError:
        return None


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), "a key comes twice"
    return found


def same(one: Any, other: Any) -> bool:
    """Equality of values, where a number is a number: orjson reads integers beyond 64 bits as floats."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return float(one) == float(other) and isinstance(one, bool) is isinstance(other, bool)
    return type(one) is type(other) and bool(one == other)


def assert_go_agrees(value: Any, members: Any) -> None:
    """Every field that decides over a call is to Go, which ignores the case of keys, what it is to us."""
    if isinstance(value, list):
        for ours, gos in zip(value, members, strict=True):
            assert_go_agrees(ours, gos)
    elif isinstance(value, dict):
        for name in FIELD_NAMES:
            assert same(plain(go_field(members, name)), value.get(name)), name
        for key, child in value.items():
            if key not in ("parameters", "properties", "format", "input"):  # the keys below are the app's own
                assert_go_agrees(child, exact_field(members, key))


@QUICK
@given(bodies())
@example(b'{"model":"a","Model":"b:cloud"}')
@example(b'{"Model":"b:cloud"}')
@example(b'{"model":"a","messages":[{"Images":["x"]}]}')
@example('{"model":"a","\u017ftream":true}'.encode())
@example(b'{"model":"a","x":{"a":1,"a":2}}')
@example(b'{"mo\\u0064el":"a"}')
@example(b'{"k\\\\":1,"a\\":":2,"model":"m"}')
@example(b'{"model":"a","x":"\\"\\"","x":"\\"\\""}')
@example(b'{"model":"a","x":{},"x":{}}')
@example(b'{"model":"a","model" :"b"}')
def test_without_a_problem_all_readers_agree(raw: bytes) -> None:
    read = reading(raw)
    if read is None or read.problem:
        return
    assert same(json.loads(raw, object_pairs_hook=without_repeats), read.value)
    assert orjson.loads(raw) == read.value
    members = go_read(raw)
    assert same(plain(members), read.value)
    assert_go_agrees(read.value, members)
    model = read.value.get("model") if isinstance(read.value, dict) else None
    assert read.models == ((model,) if isinstance(model, str) else ())


@QUICK
@given(bodies())
@example(b'{"Model":"x:cloud"}')
@example(b'{"model":"a","model":"x:cloud"}')
@example(b'{"model":"x:cloud","model":"a"}')
@example(b'{"model":"x:cloud","model":null}')
@example(b'{"model":"a"}{"model":"x:cloud"}')
@example(b'{"MODEL":"x:cloud"} trailing')
@example(b'\xef\xbb\xbf{"Model":"x:cloud"}')
@example(b'{"Model":"x:cloud","a":"\xff"}')
@example(b'{"Model":"x:cloud","a":NaN}')
@example(b'{"Model":"x:cloud","a":"\\ud800"}')
@example(b'{"Model":"x:cloud","a":1e999}')
@example(b'{"Model":"x:cloud","a":' + b"1" * 5000 + b"}")
@example(b'{"Model":"x:cloud","a":' + b"[" * 800 + b"]" * 800 + b"}")
@example(b'{"Model":"x:cloud","a":1,"a":' + b"[" * 1000 + b"]" * 1000 + b"}")
@example(b'{"Model":"x:cloud","a":' + b"[" * 5000 + b"]" * 5000 + b"}")
def test_every_readers_model_is_among_the_models(raw: bytes) -> None:
    read = reading(raw)
    if read is None:
        return  # such a body goes nowhere, but where no cloud is
    try:
        members = go_read(raw)
    except RejectedError:
        return
    for field in (go_field, exact_field, first_field):
        model = field(members, "model")
        if isinstance(model, str):
            assert model in {
                name.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for name in read.models
            }


@QUICK
@given(bodies())
@example(b'{"a":"one","a":"two"}')
@example(b'{"a":{"b":"one"},"a":{"c":"two"}}')
@example(b'{"a":"one"} {"a":"two"}')
def test_every_string_is_among_the_texts(raw: bytes) -> None:
    read = reading(raw)
    if read is None:
        return
    texts = {text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in read.texts}
    with contextlib.suppress(RejectedError):
        assert strings(go_read(raw)) <= texts
    assert strings_of(read.value) <= set(read.texts)


def strings_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {text for key, child in value.items() for text in (key, *strings_of(child))}
    if isinstance(value, list):
        return {text for child in value for text in strings_of(child)}
    return {value} if isinstance(value, str) else set()


@QUICK
@given(VALUES.flatmap(written))
def test_texts_and_their_paths_stand_in_the_same_order(text: str) -> None:
    read = reading(text.encode("utf-8", "surrogatepass"))
    if read is None:
        return
    paths = texts_of(read.value)
    assert [found for _, found in paths] == read.texts[: len(paths)]
    if not read.problem:
        assert len(read.texts) == len(paths)


@QUICK
@given(st.one_of(st.binary(max_size=40), st.text('{}[]":,\\u0tfn1 model', max_size=30).map(str.encode)))
def test_garbage_raises_nothing_but_unreadable(raw: bytes) -> None:
    read = reading(raw)
    if read is not None and not read.problem:
        assert same(read.value, json.loads(raw))


# Tables.

AGREED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "plain": (b'{"model":"a","messages":[]}', ("a",)),
    "escaped-key": (b'{"mo\\u0064el":"a"}', ("a",)),
    "escaped-value": (b'{"model":"\\u0061"}', ("a",)),
    "no-model": (b'{"prompt":"x"}', ()),
    "model-is-no-string": (b'{"model":["a"]}', ()),
    "model-is-null": (b'{"model":null}', ()),
    "nested-model": (b'{"x":{"model":"b"},"model":"a"}', ("a",)),
    "key-in-a-string": (b'{"model":"a","x":"\\"model\\":\\"b\\""}', ("a",)),
    "strings-full-of-key-ends": (b'{"model":"a","x":"' + b'\\":' * 20 + b'"}', ("a",)),
    "keys-that-end-in-backslashes": (b'{"a\\\\":1,"a\\\\\\\\":2,"a\\\\\\"":3,"model":"m"}', ("m",)),
    "key-ends-with-blanks": (b'{"model"\t :\r\n"a" , "x" : 1}', ("a",)),
    "same-key-in-two-objects": (b'{"model":"a","x":[{"k":1},{"k":2}]}', ("a",)),
    "large-integer": (b'{"model":"a","x":123456789012345678901234567890}', ("a",)),
    "no-object": (b'["model","a"]', ()),
    "string": (b'"model"', ()),
    "blanks-around": (b' \r\n\t{"model":"a"} \n', ("a",)),
    "upper-case-in-a-schema": (
        b'{"model":"a","format":{"type":"object","properties":{"Model":{"type":"string"},"Type":{}}}}',
        ("a",),
    ),
    "upper-case-in-tool-parameters": (
        b'{"model":"a","tools":[{"function":{"parameters":{"properties":{"Content":{},"URL":{}}}}}]}',
        ("a",),
    ),
    "upper-case-in-arguments": (
        b'{"model":"a","messages":[{"tool_calls":[{"function":{"arguments":{"Query":"x"}}}]}]}',
        ("a",),
    ),
    "upper-case-in-a-tools-input": (
        b'{"model":"a","messages":[{"content":[{"type":"tool_use","input":{"Text":"x"}}]}]}',
        ("a",),
    ),
    "upper-case-in-an-unknown-key": (b'{"model":"a","X-Trace":"1","logit_bias":{"50256":-100}}', ("a",)),
}
DOUBTFUL: dict[str, tuple[bytes, set[str]]] = {
    "twice": (b'{"model":"a","model":"b"}', {"a", "b"}),
    "twice-escaped": (b'{"model":"a","mo\\u0064el":"b"}', {"a", "b"}),
    "twice-with-blanks": (b'{"model" :"a","model"\n:"b"}', {"a", "b"}),
    "twice-and-a-key-end-in-a-string": (b'{"model":"a","x":"\\":","x":1}', {"a"}),
    "twice-nested": (b'{"model":"a","options":{"num_predict":1,"num_predict":100000}}', {"a"}),
    "twice-deep": (b'{"model":"a","x":[[{"y":{"k":1,"k":2}}]]}', {"a"}),
    "two-cases": (b'{"model":"a","MODEL":"b"}', {"a", "b"}),
    "two-cases-nested": (b'{"model":"a","x":{"Key":1,"key":2}}', {"a"}),
    "another-case-alone": (b'{"Model":"a"}', {"a"}),
    "another-case-in-front-of-an-object": (b'{"Model":{"x":1},"model":"a"}', {"a"}),
    "another-case-of-messages": (b'{"model":"a","Messages":[]}', {"a"}),
    "another-case-of-images": (b'{"model":"a","messages":[{"role":"user","Images":["x"]}]}', {"a"}),
    "another-case-of-options": (b'{"model":"a","Options":{"num_predict":100000}}', {"a"}),
    "another-case-of-a-cap": (b'{"model":"a","MAX_TOKENS":100000}', {"a"}),
    "another-case-of-tools": (b'{"model":"a","tools":[{"Type":"web_search"}]}', {"a"}),
    "another-case-of-context": (b'{"model":"a","Context":[1,2]}', {"a"}),
    "long-s": ('{"model":"a","\u017ftream":false}'.encode(), {"a"}),
    "long-s-escaped": (b'{"model":"a","me\\u017fsages":[]}', {"a"}),
    "long-s-and-plain": ('{"model":"a","stop":1,"\u017ftop":2}'.encode(), {"a"}),
    "kelvin-sign": ('{"model":"a","thin\u212a":true}'.encode(), {"a"}),
    "trailing-text": (b'{"model":"a"} x', {"a"}),
    "trailing-object": (b'{"model":"a"}{"model":"b"}', {"a", "b"}),
    "trailing-bracket": (b'{"model":"a"}}', {"a"}),
    "trailing-nul": (b'{"model":"a"}\x00', {"a"}),
    "array-then-object": (b'[]{"model":"b"}', {"b"}),
    "byte-order-mark": (b'\xef\xbb\xbf{"model":"a"}', {"a"}),
    "nan": (b'{"model":"a","x":NaN}', {"a"}),
    "infinity": (b'{"model":"a","x":-Infinity}', {"a"}),
    "number-beyond-floats": (b'{"model":"a","x":1e999}', {"a"}),
    "number-of-5000-digits": (b'{"model":"a","x":' + b"9" * 5000 + b"}", {"a"}),
    "control-character-in-a-string": (b'{"model":"a","x":"\t"}', {"a"}),
    "invalid-utf-8": (b'{"model":"a","x":"\xff"}', {"a"}),
    "overlong-utf-8": (b'{"model":"a","x":"\xc0\x80"}', {"a"}),
    "cesu-8": (b'{"model":"a","x":"\xed\xa0\xbd\xed\xb8\x80"}', {"a"}),
    "lone-surrogate": (b'{"model":"a","x":"\\ud800"}', {"a"}),
    "lone-surrogate-in-a-key": (b'{"model":"a","\\udc00":1}', {"a"}),
}
UNREADABLE: dict[str, bytes] = {
    "blank": b" ",
    "word": b"model",
    "cut": b'{"model":"a"',
    "single-quotes": b"{'model':'a'}",
    "no-quotes": b'{model:"a"}',
    "trailing-comma": b'{"model":"a",}',
    "comment": b'/**/{"model":"a"}',
    "two-colons": b'{"model"::"a"}',
    "utf-16": '{"model":"a"}'.encode("utf-16"),
    "utf-16-without-mark": '{"model":"a"}'.encode("utf-16-le"),
    "utf-32": '{"model":"a"}'.encode("utf-32-be"),
    "form": b"model=a",
    "gzip": b"\x1f\x8b\x08\x00",
    "yaml": b"model: a",
    "nested-beyond-reason": b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "repeats-nested-beyond-reason": b'{"a":1,"a":2,"model":"m","x":' + b"[" * 1000 + b"]" * 1000 + b"}",
}


@pytest.mark.parametrize("name", AGREED)
def test_what_every_reader_reads_alike(name: str) -> None:
    raw, models = AGREED[name]
    read = read_json(raw)
    assert (read.problem, read.models) == ("", models)


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_two_readers_could_read_differently(name: str) -> None:
    raw, models = DOUBTFUL[name]
    read = read_json(raw)
    assert read.problem
    assert set(read.models) == models


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_nobody_can_read(name: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_json(UNREADABLE[name])
    assert "model" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in FIELD_NAMES if name not in ("parameters", "properties")])
@pytest.mark.parametrize("change", [str.upper, str.title, str.capitalize, lambda name: name.replace("s", "\u017f")])
def test_another_case_of_any_field_is_a_problem(name: str, change: Callable[[str], str]) -> None:
    odd = change(name)
    for value in ({odd: 1}, {"model": "a", odd: []}, {"model": "a", "messages": [{"content": [{odd: "x"}]}]}):
        assert bool(read_json(orjson.dumps(value)).problem) is (odd != name)


def test_fold_knows_every_letter_that_go_takes_for_an_ascii_one() -> None:
    # To Go those are ſ and the Kelvin sign. More lenient yet: whatever lower or upper case makes one of a letter.
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        for other in {char.lower(), char.upper()}:
            if len(other) == 1 and other.isascii() and other.isalpha():
                assert fold(char) == other.lower()
    assert go_fold("\u017f\u212aX") == fold("\u017f\u212aX") == "skx"


MEGABYTE = 1_000_000
HOSTILE: dict[str, bytes] = {
    "key-ends-in-a-string": b'{"model":"a","x":"' + b'\\":' * (MEGABYTE // 3) + b'"}',
    "quotes-and-blanks": b'{"model":"a","x":"' + b'\\"      ' * (MEGABYTE // 8) + b'"}',
    "one-long-blank": b'{"model":"a","x"' + b" " * MEGABYTE + b":1}",
    "many-blanks-behind": b'{"model":"a"}' + b" " * MEGABYTE,
    "blanks-then-text": b'{"model":"a"}' + b" " * MEGABYTE + b"x",
    "many-keys": b'{"model":"a",' + b",".join(b'"k%d":0' % number for number in range(MEGABYTE // 11)) + b"}",
    "many-upper-case-keys": b'{"model":"a",'
    + b",".join(b'"K%d":0' % number for number in range(MEGABYTE // 11))
    + b"}",
    "one-key-many-times": b'{"model":"a"' + b',"k":0' * (MEGABYTE // 6) + b"}",
    "many-values-in-a-row": b'{"model":"a"}' * (MEGABYTE // 13),
    "many-empty-arrays-in-a-row": b"[]" * (MEGABYTE // 2),
    "many-numbers": b'{"model":"a","x":[' + b"1," * (MEGABYTE // 2) + b"1]}",
    "one-long-number": b'{"model":"a","x":' + b"1" * MEGABYTE + b"}",
    "many-backslashes": b'{"model":"a","x":"' + b"\\\\" * (MEGABYTE // 2) + b'"}',
    "many-invalid-bytes": b'{"model":"a","x":"' + b"\xff" * MEGABYTE + b'"}',
    "many-lone-surrogates": b'{"model":"a","x":"' + b"\\ud800" * (MEGABYTE // 6) + b'"}',
    "many-brackets": b"[" * MEGABYTE,
    "many-objects": b'{"a":' * (MEGABYTE // 5),
    "open-string": b'{"model":"' + b"x" * MEGABYTE,
    "blanks-in-a-text-with-a-data-url": b'{"model":"a","x":";base64,' + b" " * MEGABYTE + b'"}',
    "blanks-before-a-text": b'{"model":"a","x":"' + b" " * MEGABYTE + b'x"}',
    "many-data-urls": b'{"model":"a","x":"' + b"data:;base64," * (MEGABYTE // 13) + b'"}',
    "bracket-pairs": b'{"model":"a","x":[' + b"{}," * (MEGABYTE // 3) + b"{}]}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_megabyte_is_read_or_refused(name: str) -> None:
    # What takes more than time in proportion would not come back from these.
    read = reading(HOSTILE[name])
    assert (read is None) is (name in ("many-brackets", "many-objects", "open-string"))
    if read is not None and name != "many-empty-arrays-in-a-row":
        assert read.models == ("a",)


def test_no_text_of_the_body_is_in_a_problem_or_an_error() -> None:
    for raw in (b'{"s3cr3t":1,"s3cr3t":2}', b'{"S3cr3t":1,"s3cr3t":2}', b'{"a":"s3cr3t"} s3cr3t'):
        assert "s3cr3t" not in read_json(raw).problem.lower()
    with pytest.raises(UnreadableError) as caught:
        read_json(b'{"a": s3cr3t}')
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ({"model": "a"}, [("model (its name)", "model"), ("model", "a")]),
        (
            {"messages": [{"content": "x"}]},
            [
                ("messages (its name)", "messages"),
                ("messages[0].content (its name)", "content"),
                ("messages[0].content", "x"),
            ],
        ),
        ({"s3cr3t": {"a": "b"}}, [("* (its name)", "s3cr3t"), ("*.* (its name)", "a"), ("*.*", "b")]),
        (["x", "y"], [("[1]", "y"), ("[0]", "x")]),
    ],
)
def test_paths_of_texts_show_no_key_of_the_apps_own(value: Any, paths: list[tuple[str, str]]) -> None:
    assert texts_of(value) == paths


def test_members_keeps_repeats() -> None:
    members = go_read(b'{"a":1,"A":2,"a":null}')
    assert isinstance(members, Members)
    assert (go_field(members, "a"), exact_field(members, "a"), first_field(members, "a")) == (2.0, None, 1.0)
