"""The body of a cloud call: the classified bytes, with the model, the cap and the wish for usage put in."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from json_support import NAMES, QUICK, TEXTS, VALUES, located, plain, written

from sidecar.dialects import ROUTES, match
from sidecar.dialects.base import Route
from sidecar.dialects.edits import asks_for_usage, cloud_body, with_model
from sidecar.dialects.splice import NotEditableError
from sidecar.routing.bodies import Body, read_body

MODEL = "gpt-oss:120b"
CLOUD_ROUTES = [route for route in ROUTES.values() if route.cloud_path and not route.web]
CHAT = "/v1/chat/completions"
# Where each route's server reads the bound on output tokens, by Ollama's source.
CAPS: dict[str, tuple[str, ...]] = {
    "/api/chat": ("options", "num_predict"),
    "/api/generate": ("options", "num_predict"),
    CHAT: ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}


def route_of(path: str) -> Route:
    route = match(b"POST", path.encode())
    assert route is not None
    return route


def read(route: Route, raw: bytes) -> Body:
    return read_body(route, {}, b"", raw)


def edited(path: str, raw: bytes, cap: int = 4096) -> bytes:
    route = route_of(path)
    body = read(route, raw)
    assert not body.facts.ambiguous
    return cloud_body(route, raw, body.value, body.facts, MODEL, cap)


def at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def put(value: dict[str, Any], path: tuple[str, ...], new: Any) -> None:
    for name in path[:-1]:
        if value.get(name) is None:
            value[name] = {}
        value = value[name]
    value[path[-1]] = new


def is_bound(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value < 2**31


def test_every_route_to_the_cloud_has_a_cap() -> None:
    assert {route.path for route in CLOUD_ROUTES} == set(CAPS)


@pytest.mark.parametrize(
    ("path", "raw", "wanted"),
    [
        (
            "/api/chat",
            b'{"model": "llama3", "messages": [{"content": "model"}]}',
            b'{"options":{"num_predict":4096},"model": "gpt-oss:120b", "messages": [{"content": "model"}]}',
        ),
        (
            "/api/chat",
            b'{"messages":[{}],"options" : { "num_predict" : 100000 , "seed":1.0 },"model"\n:"llama3"}',
            b'{"messages":[{}],"options" : { "num_predict" : 4096 , "seed":1.0 },"model"\n:"gpt-oss:120b"}',
        ),
        (
            "/api/chat",
            b'{"model":"a","messages":[{}],"options":{"num_predict":100}}',
            b'{"model":"gpt-oss:120b","messages":[{}],"options":{"num_predict":100}}',
        ),
        (
            "/api/generate",
            b'{"model":"a","prompt":"x","options":{}}',
            b'{"model":"gpt-oss:120b","prompt":"x","options":{"num_predict":4096}}',
        ),
        (
            "/api/generate",
            b'{"model":"a","prompt":"x","options":null}',
            b'{"model":"gpt-oss:120b","prompt":"x","options":{"num_predict":4096}}',
        ),
        (
            "/api/generate",
            b'{"model":"a","prompt":"x","options":{"num_predict":-1}}',
            b'{"model":"gpt-oss:120b","prompt":"x","options":{"num_predict":4096}}',
        ),
        (
            CHAT,
            b'{"model":"a","messages":[{}],"max_tokens":null}',
            b'{"model":"gpt-oss:120b","messages":[{}],"max_tokens":4096}',
        ),
        # Ollama knows max_tokens alone: without it the answer would have no bound at all.
        (
            CHAT,
            b'{"model":"a","messages":[{}],"max_completion_tokens":100}',
            b'{"max_tokens":4096,"model":"gpt-oss:120b","messages":[{}],"max_completion_tokens":100}',
        ),
        (
            CHAT,
            b'{"model":"a","messages":[{}],"max_completion_tokens":9999,"max_tokens":8888}',
            b'{"model":"gpt-oss:120b","messages":[{}],"max_completion_tokens":4096,"max_tokens":4096}',
        ),
        (
            CHAT,
            b'{"model":"a","messages":[{}],"max_tokens":5,"stream":true}',
            b'{"stream_options":{"include_usage":true},"model":"gpt-oss:120b","messages":[{}],"max_tokens":5,"stream":true}',
        ),
        (
            CHAT,
            b'{"model":"a","messages":[],"max_tokens":5,"stream":true,"stream_options":{"include_usage":false}}',
            b'{"model":"gpt-oss:120b","messages":[],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            CHAT,
            b'{"model":"a","messages":[],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}',
            b'{"model":"gpt-oss:120b","messages":[],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            "/v1/responses",
            b'{"model":"a","input":"x","stream":true}',
            b'{"max_output_tokens":4096,"model":"gpt-oss:120b","input":"x","stream":true}',
        ),
        # A member of another route beside its own must not draw the cap away.
        (
            "/v1/responses",
            b'{"model":"a","input":"x","messages":[],"max_output_tokens":9999,"max_tokens":1}',
            b'{"model":"gpt-oss:120b","input":"x","messages":[],"max_output_tokens":4096,"max_tokens":1}',
        ),
        (
            CHAT,
            b'{"model":"a","messages":[{}],"input":"x","max_output_tokens":1,"max_tokens":9999}',
            b'{"model":"gpt-oss:120b","messages":[{}],"input":"x","max_output_tokens":1,"max_tokens":4096}',
        ),
        (
            "/v1/messages",
            b'{"model":"a","messages":[{}],"max_tokens":9999,"stream":true}',
            b'{"model":"gpt-oss:120b","messages":[{}],"max_tokens":4096,"stream":true}',
        ),
        (
            "/v1/messages",
            b'{"mod\\u0065l":"a","messages":[{"content":"\\ud83d\\ude00\\/"}],"max_tokens":1.5}',
            b'{"mod\\u0065l":"gpt-oss:120b","messages":[{"content":"\\ud83d\\ude00\\/"}],"max_tokens":1}',
        ),
        # Ollama reads its options as floats: a bound with a fraction is a bound, and must not become a larger one.
        (
            "/api/chat",
            b'{"model":"a","messages":[{}],"options":{"num_predict":5.7}}',
            b'{"model":"gpt-oss:120b","messages":[{}],"options":{"num_predict":5}}',
        ),
        (
            "/api/generate",
            b'{"model":"a","prompt":"x","options":{"num_predict":16.0}}',
            b'{"model":"gpt-oss:120b","prompt":"x","options":{"num_predict":16}}',
        ),
        (
            "/api/generate",
            b'{"model":"a","prompt":"x","options":{"num_predict":1e5}}',
            b'{"model":"gpt-oss:120b","prompt":"x","options":{"num_predict":4096}}',
        ),
        (
            "/api/generate",
            b'{"model":"a","prompt":"x","options":{"num_predict":0.9}}',
            b'{"model":"gpt-oss:120b","prompt":"x","options":{"num_predict":4096}}',
        ),
    ],
)
def test_what_goes_to_the_cloud(path: str, raw: bytes, wanted: bytes) -> None:
    assert edited(path, raw) == wanted


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/api/chat", b'{"model":"a","messages":[{}],"options":[]}'),
        ("/api/chat", b'{"model":"a","messages":[{}],"options":"none"}'),
        ("/api/chat", b'{"model":"a","messages":[{}],"options":0}'),
        ("/api/generate", b'{"model":"a","prompt":"x","options":false}'),
        (CHAT, b'{"model":"a","messages":[{}],"stream":true,"stream_options":[]}'),
        (CHAT, b'{"model":"a","messages":[{}],"stream":true,"stream_options":true}'),
    ],
)
def test_a_body_that_leaves_no_room_for_an_edit(path: str, raw: bytes) -> None:
    with pytest.raises(NotEditableError):
        edited(path, raw)


@pytest.mark.parametrize("path", CAPS)
def test_an_empty_object_cannot_be_edited_but_breaks_nothing(path: str) -> None:
    route = route_of(path)
    with pytest.raises(NotEditableError):
        cloud_body(route, b"{}", {}, read(route, b"{}").facts, MODEL, 10)


@pytest.mark.parametrize("depth", [100, 400, 900])
def test_a_deeply_nested_body_is_edited_or_refused_but_breaks_nothing(depth: int) -> None:
    raw = b'{"model":"a","messages":[{}],"x":' + b"[" * depth + b"]" * depth + b"}"
    try:
        assert edited("/v1/messages", raw).count(b"[") == raw.count(b"[")
    except NotEditableError:
        assert depth > 100


def test_the_reading_is_left_as_it_was() -> None:
    raw = b'{"model":"a","messages":[{}],"options":{"num_predict":9999,"seed":1}}'
    route = route_of("/api/chat")
    body = read(route, raw)
    before = deepcopy(body.value)
    cloud_body(route, raw, body.value, body.facts, MODEL, 10)
    assert body.value == before
    assert body.raw == raw


BOUNDS = st.one_of(
    st.none(),
    st.integers(-3, 10_000),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 2**70, 1.5, 100.0, True, False, "100", [], {}]),
)
OPTIONS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.just({}),
    st.dictionaries(st.sampled_from(["num_predict", "num_ctx", "seed", "model"]), BOUNDS, max_size=3),
    st.sampled_from([[], "x", 0, True]),
)
STREAM_OPTIONS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.just({}),
    st.dictionaries(st.sampled_from(["include_usage", "other"]), st.sampled_from([True, False, None, 1]), max_size=2),
    st.sampled_from([[], "x"]),
)
KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(st.dictionaries(NAMES, VALUES.map(plain), max_size=2), min_size=1, max_size=2),
    "prompt": TEXTS.filter(bool),
    "input": TEXTS.filter(bool),
    "options": OPTIONS,
    "max_tokens": BOUNDS,
    "max_completion_tokens": BOUNDS,
    "max_output_tokens": BOUNDS,
    "stream": st.one_of(st.booleans(), st.none()),
    "stream_options": STREAM_OPTIONS,
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[Route, bytes]:
    """A route to the cloud and a body for it, its members in any order and any spelling."""
    route = draw(st.sampled_from(CLOUD_ROUTES))
    members: dict[str, Any] = {"model": draw(st.sampled_from(["llama3", "x:cloud", 'a"b\\', "ü"]))}
    for name in draw(st.lists(st.sampled_from(sorted(KNOWN)), max_size=6, unique=True)):
        members[name] = draw(KNOWN[name])
    members |= draw(st.dictionaries(NAMES, VALUES.map(plain), max_size=2)) | members
    value = {name: members[name] for name in draw(st.permutations(sorted(members)))}
    return route, draw(written(value)).encode("utf-8", "surrogatepass")


def cuts(text: str, original: str, path: tuple[str, ...]) -> tuple[int, int]:
    """What to cut out of `text` (the original or the edited body) so that the edit of `path` does not show."""
    start = 0
    for depth, name in enumerate(path):
        members = located(text, start)
        theirs = located(original, at_path(original, path[:depth]))
        key_start, value_start, value_end = members[name]
        if name not in theirs:  # added: the whole member, and its comma
            assert text[:key_start].rstrip(" \t\r\n").endswith(("{", ","))
            return key_start, value_end + (text[value_end] == ",")
        _, their_start, their_end = theirs[name]
        if depth == len(path) - 1 or original[their_start:their_end] == "null":
            return value_start, value_end
        start = value_start
    raise AssertionError(path)


def at_path(text: str, path: tuple[str, ...]) -> int:
    start = 0
    for name in path:
        start = located(text, start)[name][1]
    return start


def without(text: str, original: str, paths: list[tuple[str, ...]]) -> str:
    spans = []
    for path in paths:
        if text is original and not has(original, path):
            continue
        spans.append(cuts(text, original, path))
    for start, end in sorted(set(spans), reverse=True):
        text = text[:start] + text[end:]
    return text


def has(original: str, path: tuple[str, ...]) -> bool:
    """Whether the original has something in the place of an edit: the member, or a null above it."""
    value = orjson.loads(original)
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return value is None
        value = value[name]
    return True


@QUICK
@given(calls(), st.sampled_from([1, 7, 256, 4096, 2**31 - 1]))
def test_only_model_cap_and_usage_change_and_no_other_byte(call: tuple[Route, bytes], cap: int) -> None:
    route, raw = call
    body = read(route, raw)
    assume(not body.facts.ambiguous and not body.facts.cloud_blocker and not body.facts.load_only)
    value = body.value
    paths: list[tuple[str, ...]] = [("model",)]
    expected = deepcopy(value)
    expected["model"] = MODEL
    bounds = [CAPS[route.path]]
    if route.path == CHAT and value.get("max_completion_tokens") is not None:
        bounds.append(("max_completion_tokens",))
    if route.path == CHAT and "input" in value:
        bounds.append(("max_output_tokens",))
    if route.path == "/v1/responses" and "messages" in value:
        bounds.append(("max_tokens",))
        if value.get("max_completion_tokens") is not None:
            bounds.append(("max_completion_tokens",))
    usage = (
        route.path == CHAT
        and value.get("stream") is True
        and at(value, ("stream_options", "include_usage")) is not True
    )
    editable = True
    for path in bounds:
        now = at(value, path)
        if not is_bound(now) or type(now) is float or now > cap:
            paths.append(path)
            editable = editable and isinstance(at(value, path[:-1]) if path[1:] else {}, dict | None)
            if editable:
                put(expected, path, min(int(now), cap) if is_bound(now) else cap)
    if usage:
        paths.append(("stream_options", "include_usage"))
        editable = editable and isinstance(value.get("stream_options"), dict | None)
        if editable:
            put(expected, paths[-1], True)
    assert asks_for_usage(route, body.facts) is usage
    if not editable:
        with pytest.raises(NotEditableError):
            cloud_body(route, raw, value, body.facts, MODEL, cap)
        return
    result = cloud_body(route, raw, value, body.facts, MODEL, cap)
    assert orjson.loads(result) == expected
    before = raw.decode()
    assert without(before, before, paths) == without(result.decode(), before, paths)
    for path in bounds:
        now, then = at(value, path), at(expected, path)
        assert type(then) is int
        assert 0 < then <= cap
        assert then == now or not is_bound(now) or then < now
    again = read(route, result)
    assert not again.facts.ambiguous
    assert again.facts.models == (MODEL,)


@QUICK
@given(calls(), st.sampled_from(["llama3.2:1b", 'a"b\\c', "ü"]))
def test_another_models_name_and_no_other_byte(call: tuple[Route, bytes], model: str) -> None:
    route, raw = call
    body = read(route, raw)
    assume(not body.facts.ambiguous and body.facts.model)
    result = with_model(raw, model)
    assert orjson.loads(result) == body.value | {"model": model}
    before = raw.decode()
    assert without(before, before, [("model",)]) == without(result.decode(), before, [("model",)])
