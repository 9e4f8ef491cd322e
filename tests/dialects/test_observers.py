"""Watching answers go by: the same usage however they are cut, and no byte changed but what is ours to drop."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_support import QUICK

from sidecar.core.call import Usage
from sidecar.dialects import ROUTES, framing
from sidecar.dialects.base import Observer, Route
from sidecar.dialects.framing import SilentObserver, event_data, event_name

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"


def ndjson(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def compact(record: Any) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()


def data(*records: Any) -> bytes:
    return b"".join(b"data: " + (r if isinstance(r, bytes) else compact(r)) + b"\n\n" for r in records)


def named(*events: tuple[str, Any]) -> bytes:
    return b"".join(b"event: " + name.encode() + b"\ndata: " + compact(record) + b"\n\n" for name, record in events)


def word(text: str, finish: str | None = None) -> dict[str, Any]:
    delta = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [delta]}


DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 26, "eval_count": 298}
SAYS = [
    {"model": "m", "message": {"role": "assistant", "content": text}, "done": False} for text in ("Ü", "\n", '{"')
]
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
USAGE_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
CHAT_STREAM = data(word("Hel"), word("lo\n\n"), word("", "stop"), USAGE_CHUNK, b"[DONE]")
ERROR = {"error": {"message": "no", "type": "api_error", "param": None, "code": None}}
DELTA = {
    "type": "message_delta",
    "delta": {"stop_reason": "max_tokens"},
    "usage": {"input_tokens": 9, "output_tokens": 12},
}
START = {"type": "message_start", "message": {"usage": {"input_tokens": 4, "output_tokens": 0}}}
MESSAGE_STREAM = named(
    ("message_start", START),
    ("content_block_delta", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Ü\n"}}),
    ("ping", {"type": "ping"}),
    ("message_delta", DELTA),
    ("message_stop", {"type": "message_stop"}),
)


def response(name: str, **more: Any) -> bytes:
    whole = {"id": "resp_1", "status": name, "usage": {"input_tokens": 9, "output_tokens": 12}} | more
    return named(
        ("response.created", {"type": "response.created", "response": {"status": "in_progress", "usage": None}}),
        ("response.output_text.delta", {"type": "response.output_text.delta", "delta": "Ü"}),
        (f"response.{name}", {"type": f"response.{name}", "response": whole}),
    )


def usage(tokens_in: int | None, tokens_out: int | None, finish: str = "", **more: bool) -> Usage:
    return Usage(tokens_in, tokens_out, more.get("complete", True), more.get("error", False), finish)


ANSWERS: dict[str, tuple[str, bool, bytes, Usage]] = {
    "chat": ("/api/chat", True, ndjson(*SAYS, DONE), usage(26, 298, "stop")),
    "chat-cut-before-its-last-line": ("/api/chat", True, ndjson(*SAYS), usage(None, None, complete=False)),
    "chat-without-a-line-end": ("/api/chat", True, ndjson(*SAYS, DONE)[:-1], usage(26, 298, "stop")),
    "chat-with-crlf": ("/api/chat", True, ndjson(*SAYS, DONE).replace(b"\n", b"\r\n"), usage(26, 298, "stop")),
    "chat-with-blank-lines": ("/api/chat", True, ndjson(*SAYS, DONE) + b"\n \r\n\n", usage(26, 298, "stop")),
    "chat-error-at-the-end": (
        "/api/chat",
        True,
        ndjson(*SAYS, {"error": "out of memory"}),
        usage(None, None, complete=False, error=True),
    ),
    "chat-loaded": ("/api/chat", True, ndjson({"done": True, "done_reason": "load"}), usage(0, 0, "load")),
    "chat-whole": ("/api/chat", False, compact(SAYS[0] | DONE), usage(26, 298, "stop")),
    "chat-whole-indented": (
        "/api/chat",
        False,
        json.dumps(SAYS[0] | DONE, indent=1).encode(),
        usage(26, 298, "stop"),
    ),
    "chat-whole-cut": ("/api/chat", False, compact(SAYS[0] | DONE)[:-1], usage(None, None, complete=False)),
    "chat-odd-counts": (
        "/api/chat",
        True,
        ndjson({"done": True, "prompt_eval_count": -1, "eval_count": "9", "done_reason": 5}),
        usage(None, None),
    ),
    "generate": ("/api/generate", True, ndjson({"response": "x", "done": False}, DONE), usage(26, 298, "stop")),
    "generate-length": ("/api/generate", False, compact(DONE | {"done_reason": "length"}), usage(26, 298, "length")),
    "embed": ("/api/embed", False, compact({"embeddings": [[0.1]], "prompt_eval_count": 8}), usage(8, 0)),
    "embeddings": ("/api/embeddings", False, compact({"embedding": [0.1]}), usage(0, 0)),
    "openai": (CHAT, True, CHAT_STREAM, usage(9, 12, "stop")),
    "openai-crlf": (CHAT, True, CHAT_STREAM.replace(b"\n", b"\r\n"), usage(9, 12, "stop")),
    "openai-mixed-line-ends": (CHAT, True, CHAT_STREAM.replace(b"\n\n", b"\n\r\n"), usage(9, 12, "stop")),
    "openai-without-blanks": (CHAT, True, CHAT_STREAM.replace(b"data: ", b"data:"), usage(9, 12, "stop")),
    "openai-with-comments": (
        CHAT,
        True,
        b": hi\n\n" + CHAT_STREAM.replace(b"\n\n", b"\n: x\n\n"),
        usage(9, 12, "stop"),
    ),
    "openai-without-usage": (CHAT, True, data(word("x", "length"), b"[DONE]"), usage(None, None, "length")),
    "openai-usage-null": (CHAT, True, data(word("x") | {"usage": None}, USAGE_CHUNK, b"[DONE]"), usage(9, 12)),
    "openai-usage-beside-words": (
        CHAT,
        True,
        data(word("x", "stop") | {"usage": USAGE}, b"[DONE]"),
        usage(9, 12, "stop"),
    ),
    "openai-words-behind-the-usage": (
        CHAT,
        True,
        data(word("x") | {"usage": USAGE}, word("y"), word("z", "stop"), b"[DONE]"),
        usage(None, None, "stop"),
    ),
    "openai-words-behind-the-usage-chunk": (
        CHAT,
        True,
        data(USAGE_CHUNK, word("y") | {"usage": None}, b"[DONE]"),
        usage(None, None),
    ),
    "openai-usage-in-every-chunk": (
        CHAT,
        True,
        data(word("x") | {"usage": USAGE | {"completion_tokens": 1}}, word("y") | {"usage": USAGE}, b"[DONE]"),
        usage(9, 12),
    ),
    "openai-comments-behind-the-usage": (CHAT, True, data(USAGE_CHUNK) + b": hi\n\n" + data(b"[DONE]"), usage(9, 12)),
    "openai-cut": (CHAT, True, data(word("x"), USAGE_CHUNK), usage(9, 12, complete=False)),
    "openai-last-line-open": (CHAT, True, data(word("x"), USAGE_CHUNK, b"[DONE]")[:-2], usage(9, 12)),
    "openai-error": (CHAT, True, data(word("x"), ERROR), usage(None, None, complete=False, error=True)),
    "openai-words-that-look-like-the-end": (
        CHAT,
        True,
        data(word('data: [DONE] {"usage":{"prompt_tokens":1}}')),
        usage(None, None, complete=False),
    ),
    "openai-output-unknown": (
        CHAT,
        True,
        data({"choices": [], "usage": {"prompt_tokens": 9}}),
        usage(9, None, complete=False),
    ),
    "openai-whole": (
        CHAT,
        False,
        compact({"choices": [{"finish_reason": "stop"}], "usage": USAGE}),
        usage(9, 12, "stop"),
    ),
    "openai-whole-output-unknown": (
        CHAT,
        False,
        compact({"choices": [], "usage": {"prompt_tokens": 9}}),
        usage(9, None),
    ),
    "openai-whole-error": (CHAT, False, compact(ERROR), usage(None, None, complete=False, error=True)),
    "openai-completes": (COMPLETIONS, True, CHAT_STREAM, usage(9, 12, "stop")),
    "openai-embeds": (
        "/v1/embeddings",
        False,
        compact({"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}),
        usage(8, 0),
    ),
    "responses": (RESPONSES, True, response("completed"), usage(9, 12)),
    "responses-crlf": (RESPONSES, True, response("completed").replace(b"\n", b"\r\n"), usage(9, 12)),
    "responses-incomplete": (RESPONSES, True, response("incomplete"), usage(9, 12, "length")),
    "responses-failed": (RESPONSES, True, response("failed"), usage(9, 12, error=True)),
    "responses-cut": (RESPONSES, True, response("x"), usage(None, None, complete=False)),
    "responses-words-behind-the-end": (
        RESPONSES,
        True,
        response("completed") + named(("response.output_text.delta", {"delta": "x"})),
        usage(None, None),
    ),
    "responses-done-behind-the-end": (RESPONSES, True, response("completed") + data(b"[DONE]"), usage(9, 12)),
    "responses-error": (
        RESPONSES,
        True,
        named(("error", {"type": "error", "message": "no"})),
        usage(None, None, complete=False, error=True),
    ),
    "responses-whole": (
        RESPONSES,
        False,
        compact(
            {"usage": {"input_tokens": 9, "output_tokens": 12}, "incomplete_details": {"reason": "max_output_tokens"}}
        ),
        usage(9, 12, "length"),
    ),
    "messages": (MESSAGES, True, MESSAGE_STREAM, usage(9, 12, "length")),
    "messages-crlf": (MESSAGES, True, MESSAGE_STREAM.replace(b"\n", b"\r\n"), usage(9, 12, "length")),
    "messages-with-blank-lines": (
        MESSAGES,
        True,
        b"\n" + MESSAGE_STREAM.replace(b"\n\n", b"\n\n\n"),
        usage(9, 12, "length"),
    ),
    "messages-with-ids": (
        MESSAGES,
        True,
        MESSAGE_STREAM.replace(b"event:", b"id: 1\nevent:"),
        usage(9, 12, "length"),
    ),
    "messages-cut": (
        MESSAGES,
        True,
        MESSAGE_STREAM[: MESSAGE_STREAM.index(b"event: message_stop")],
        usage(9, 12, "length", complete=False),
    ),
    "messages-start-alone": (MESSAGES, True, named(("message_start", START)), usage(None, None, complete=False)),
    "messages-error": (
        MESSAGES,
        True,
        named(("message_start", START), ("error", {"type": "error", "error": {}})),
        usage(None, None, complete=False, error=True),
    ),
    "messages-words-behind-the-usage": (
        MESSAGES,
        True,
        named(("message_delta", DELTA), ("content_block_delta", {"delta": {"text": "x"}}), ("message_stop", {})),
        usage(None, None, "length"),
    ),
    "messages-usage-again": (
        MESSAGES,
        True,
        named(("message_delta", {"usage": {"input_tokens": 1, "output_tokens": 1}}), ("content_block_stop", {}))
        + named(("message_delta", DELTA), ("ping", {}), ("message_stop", {})),
        usage(9, 12, "length"),
    ),
    "messages-cached": (
        MESSAGES,
        True,
        named(
            ("message_delta", {"usage": {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 3}}),
            ("message_stop", {}),
        ),
        usage(3, 3),
    ),
    "messages-whole": (
        MESSAGES,
        False,
        compact({"type": "message", "stop_reason": "end_turn", "usage": {"input_tokens": 9, "output_tokens": 12}}),
        usage(9, 12, "end_turn"),
    ),
    "messages-whole-error": (
        MESSAGES,
        False,
        compact({"type": "error", "error": {"type": "api_error"}}),
        usage(None, None, complete=False, error=True),
    ),
}
ROUTES_BY_PATH = {path.decode(): route for path, route in ROUTES.items()}


def observer_of(path: str, stream: bool, *, drops_usage: bool = False) -> Observer:
    route: Route = ROUTES_BY_PATH[path]
    return route.dialect.observer(route, stream, drops_usage=drops_usage)


def run(observer: Observer, pieces: list[bytes]) -> bytes:
    """What comes out of an observer that gets a read's pieces one read at a time."""
    passed = [piece for part in pieces for piece in observer.feed([part])]
    return b"".join(passed + observer.close())


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({at % (len(raw) + 1) for at in cuts}), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges) if start < end]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("drops_usage", [False, True])
def test_usage_is_the_same_wherever_the_answer_is_cut(name: str, drops_usage: bool) -> None:
    path, stream, raw, expected = ANSWERS[name]
    outputs = set()
    for pieces in (
        [raw],
        [raw[at : at + 1] for at in range(len(raw))],
        *([raw[:at], raw[at:]] for at in range(1, len(raw))),
    ):
        observer = observer_of(path, stream, drops_usage=drops_usage)
        outputs.add(run(observer, pieces))
        assert observer.usage == expected
    assert len(outputs) == 1
    if not drops_usage:
        assert outputs == {raw}


@QUICK
@given(st.sampled_from(sorted(ANSWERS)), st.booleans(), st.lists(st.integers(0, 2000), max_size=12))
def test_usage_is_the_same_in_any_pieces(name: str, drops_usage: bool, cuts: list[int]) -> None:
    path, stream, raw, expected = ANSWERS[name]
    observer = observer_of(path, stream, drops_usage=drops_usage)
    pieces = cut(raw, cuts)
    passed = observer.feed(pieces)
    assert drops_usage or passed is pieces  # the same object: the relay passes the read on as it came
    out = b"".join(passed + observer.close())
    assert observer.usage == expected
    whole = observer_of(path, stream, drops_usage=drops_usage)
    assert out == run(whole, [raw])


# The usage chunk that we asked for ourselves.

KEPT = {
    "usage-null": compact(word("x") | {"usage": None}),
    "usage-beside-words": compact(word("x") | {"usage": USAGE}),
    "no-choices-no-usage": compact({"choices": []}),
    "no-choices-usage-null": compact({"choices": [], "usage": None}),
    "choices-null": compact({"choices": None, "usage": USAGE}),
    "usage-alone": compact({"usage": USAGE}),
    "in-a-text": compact(word('{"choices":[],"usage":{}}')),
    "not-json": b'{"choices":[],"usage":{}',
    "array": b'[{"choices":[],"usage":{}}]',
    "done": b"[DONE]",
}
DROPPED = {
    "plain": compact(USAGE_CHUNK),
    "with-blanks": json.dumps(USAGE_CHUNK, indent=None).encode(),
    "empty-usage": compact({"choices": [], "usage": {}}),
    "other-order": compact({"usage": USAGE, "choices": []}),
}


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n"])
@pytest.mark.parametrize("name", [*KEPT, *DROPPED])
def test_exactly_the_usage_chunk_is_dropped(name: str, end: bytes) -> None:
    event = b"data: " + (KEPT | DROPPED)[name] + end
    before, after = b"data: " + compact(word("a")) + end, b"data: [DONE]" + end
    raw = before + event + after
    expected = before + after if name in DROPPED else raw
    for at in range(len(raw) + 1):
        observer = observer_of(CHAT, True, drops_usage=True)
        assert run(observer, [piece for piece in (raw[:at], raw[at:]) if piece]) == expected


@pytest.mark.parametrize("name", DROPPED)
def test_a_usage_chunk_is_dropped_without_its_line_end_too(name: str) -> None:
    observer = observer_of(CHAT, True, drops_usage=True)
    assert run(observer, [b"data: " + DROPPED[name]]) == b""


def test_what_is_held_back_is_only_an_open_event() -> None:
    observer = observer_of(CHAT, True, drops_usage=True)
    first, second = data(word("a")), data(word("b"))
    assert b"".join(observer.feed([first + second[:10]])) == first
    assert b"".join(observer.feed([second[10:]])) == second
    assert observer.close() == []


events = st.lists(
    st.one_of(
        st.sampled_from([*KEPT.values(), *DROPPED.values()]).map(lambda text: b"data: " + text),
        st.sampled_from([b"", b": comment", b"event: x", b"data:", b"id: 1\ndata: a", b"\r", b"data: a\ndata: b"]),
        st.text(max_size=6).map(lambda text: b"data: " + text.replace("\n", "").replace("\r", "").encode()),
    ),
    max_size=6,
)


@QUICK
@given(events, st.sampled_from([b"\n\n", b"\r\n\r\n"]), st.lists(st.integers(0, 2000), max_size=8))
def test_dropping_is_leaving_out_whole_events(parts: list[bytes], end: bytes, cuts: list[int]) -> None:
    dropped = {b"data: " + text for text in DROPPED.values()}
    raw = b"".join(part + end for part in parts)
    # An empty part makes its line ends the beginning of the next event.
    expected = raw if b"" in parts or b"\r" in parts else b"".join(p + end for p in parts if p not in dropped)
    observer = observer_of(CHAT, True, drops_usage=True)
    out = run(observer, cut(raw, cuts))
    if expected is raw:
        assert run(observer_of(CHAT, True, drops_usage=True), [raw]) == out
    else:
        assert out == expected


# Whatever comes.

STREAMS = [
    (path, stream) for path, route in ROUTES_BY_PATH.items() if not route.multipart for stream in (False, True)
]
FRAGMENTS = [raw for _, _, raw, _ in ANSWERS.values()]


@st.composite
def garbage(draw: st.DrawFn) -> bytes:
    raw = b"".join(draw(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=12)), max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = (
            raw[:at]
            + draw(st.one_of(st.binary(max_size=2), st.sampled_from([b"\n", b"\r\n", b"\n\n", b"data:"])))
            + raw[at + 1 :]
        )
    return raw


@QUICK
@given(st.sampled_from(STREAMS), st.booleans(), garbage(), st.lists(st.integers(0, 4000), max_size=8))
def test_garbage_passes_and_never_raises(
    kind: tuple[str, bool], drops_usage: bool, raw: bytes, cuts: list[int]
) -> None:
    outcomes = []
    for pieces in ([raw] if raw else [], cut(raw, cuts)):
        observer = observer_of(*kind, drops_usage=drops_usage)
        out = run(observer, pieces)
        outcomes.append((out, asdict(observer.usage)))
        for tokens in (observer.usage.tokens_in, observer.usage.tokens_out):
            assert tokens is None or 0 <= tokens < 2**31 * 3
    assert outcomes[0] == outcomes[1]
    if not drops_usage:
        assert outcomes[0][0] == raw


ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.just([]), st.just({}), st.just([[]]))


@QUICK
@given(
    st.sampled_from(STREAMS),
    st.dictionaries(
        st.sampled_from(
            [
                *(
                    "done",
                    "error",
                    "usage",
                    "choices",
                    "delta",
                    "response",
                    "type",
                    "stop_reason",
                    "done_reason",
                    "object",
                ),
                *("prompt_eval_count", "eval_count", "embeddings", "incomplete_details"),
            ]
        ),
        st.one_of(
            ODD,
            st.lists(ODD, max_size=2),
            st.dictionaries(
                st.sampled_from(
                    [
                        *(
                            "prompt_tokens",
                            "completion_tokens",
                            "input_tokens",
                            "output_tokens",
                            "finish_reason",
                            "usage",
                            "reason",
                        ),
                        *("cache_read_input_tokens", "stop_reason"),
                    ]
                ),
                ODD,
                max_size=3,
            ),
        ),
        max_size=4,
    ),
)
def test_any_type_in_any_place_of_a_record_never_raises(kind: tuple[str, bool], record: dict[str, Any]) -> None:
    raw = compact(record)
    names = ("message_delta", "message_stop", "error", "response.completed", "response.failed", "response.incomplete")
    answers = [raw, raw + b"\n", data(raw), *(named((name, record)) for name in names)]
    for answer in answers:
        observer = observer_of(*kind)
        assert run(observer, [answer]) == answer
        assert isinstance(observer.usage.finish, str)


# Records that are too long to keep.


@pytest.fixture
def small_records(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(framing, "MAX_RECORD", 200)
    return 200


@pytest.mark.parametrize("length", [150, 199, 200, 201, 202, 203, 250, 600])
@pytest.mark.parametrize("drops_usage", [False, True])
def test_a_long_event_passes_unseen_wherever_it_is_cut(small_records: int, length: int, drops_usage: bool) -> None:
    last = data(USAGE_CHUNK)
    end = data(b"[DONE]")
    filler = compact({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "x": ""})
    size = length - len(b"data: \n\n")
    event = data(filler[:-2] + b"y" * (size - len(filler)) + b'"}')
    assert len(event) == length
    outcomes = set()
    raw = event + last + end
    for at in range(len(raw) + 1):
        observer = observer_of(CHAT, True, drops_usage=drops_usage)
        outcomes.add((run(observer, [piece for piece in (raw[:at], raw[at:]) if piece]), repr(observer.usage)))
    byte_by_byte = observer_of(CHAT, True, drops_usage=drops_usage)
    outcomes.add((run(byte_by_byte, [raw[at : at + 1] for at in range(len(raw))]), repr(byte_by_byte.usage)))
    seen = length <= small_records
    expected = raw if not drops_usage else end if seen else event + end
    assert outcomes == {(expected, repr(usage(9, 12)))}


@pytest.mark.parametrize("length", [199, 200, 201, 202, 600])
@pytest.mark.parametrize("after", [b"", b"\n", b"\n\n"])
def test_a_long_last_line_tells_nothing_wherever_it_is_cut(small_records: int, length: int, after: bytes) -> None:
    line = compact(DONE | {"x": "y" * (length - len(compact(DONE | {"x": ""})))})
    assert len(line) == length
    raw = ndjson(SAYS[0]) + line + after
    expected = usage(26, 298, "stop") if length <= small_records else usage(None, None, complete=False)
    for at in range(len(raw) + 1):
        observer = observer_of("/api/chat", True)
        assert run(observer, [piece for piece in (raw[:at], raw[at:]) if piece]) == raw
        assert observer.usage == expected


def test_a_long_line_before_the_last_does_no_harm(small_records: int) -> None:
    raw = b'{"x":"' + b"y" * 500 + b'"}\n' + ndjson(DONE)
    for at in range(len(raw) + 1):
        observer = observer_of("/api/chat", True)
        assert run(observer, [piece for piece in (raw[:at], raw[at:]) if piece]) == raw
        assert observer.usage == usage(26, 298, "stop")


@pytest.mark.parametrize("length", [199, 200, 201, 600])
def test_a_long_whole_answer_tells_nothing(small_records: int, length: int) -> None:
    raw = compact(DONE | {"x": "y" * (length - len(compact(DONE | {"x": ""})))})
    for at in (1, 100, 198, len(raw)):
        observer = observer_of("/api/chat", False)
        assert run(observer, [piece for piece in (raw[:at], raw[at:]) if piece]) == raw
        assert observer.usage.complete is (length <= small_records)


def test_a_long_event_in_small_pieces() -> None:
    # What looks through all that is there again with each piece would not come back from this.
    event = data(word("x" * 8_000_000))
    for drops_usage in (False, True):
        observer = observer_of(CHAT, True, drops_usage=drops_usage)
        pieces = [event[at : at + 4096] for at in range(0, len(event), 4096)]
        assert run(observer, [*pieces, data(USAGE_CHUNK, b"[DONE]")])[: len(event)] == event
        assert observer.usage == usage(9, 12)


def test_many_events_in_one_piece() -> None:
    raw = (data(word("x")) * 20_000 + data(USAGE_CHUNK, b"[DONE]")).replace(b"\n", b"\r\n")
    observer = observer_of(CHAT, True, drops_usage=True)
    assert len(run(observer, [raw])) == len(raw) - len(data(USAGE_CHUNK)) - 2
    assert observer.usage == usage(9, 12)


# Errors, ours and theirs.


@pytest.mark.parametrize("path", [route.path for route in ROUTES.values() if not route.multipart])
def test_our_own_error_record_is_an_error_to_an_observer(path: str) -> None:
    route = ROUTES_BY_PATH[path]
    record = route.dialect.stream_error(route, 'it "broke"\n', "upstream_error")
    assert record.endswith(route.separator)
    assert record.count(route.separator) == 1
    observer = observer_of(path, True)
    assert run(observer, [record]) == record
    assert observer.usage.error
    assert not observer.usage.complete
    whole = observer_of(path, False)
    assert run(whole, [route.dialect.error(502, "it broke", "upstream_error")])
    assert whole.usage.error


@pytest.mark.parametrize(
    ("path", "first", "is_error"),
    [
        ("/api/chat", b'{"error":"no"}\n', True),
        ("/api/chat", b' {"error":"no"}\n', True),
        ("/api/chat", b'{"model":"m","message":{}}\n', False),
        ("/api/chat", b'{"model":"{\\"error\\""}\n', False),
        (CHAT, data(ERROR), True),
        (CHAT, b"event: error\ndata: {}\n\n", True),
        (CHAT, data(word('{"error"')), False),
        (CHAT, b": ping\n\n", False),
        (RESPONSES, b'event: error\ndata: {"type":"error"}\n\n', True),
        (RESPONSES, response("completed"), False),
        (MESSAGES, b"event: error\ndata: {}\n\n", True),
        (MESSAGES, b"event:error\ndata: {}\n\n", True),
        (MESSAGES, MESSAGE_STREAM, False),
    ],
)
def test_an_answer_that_begins_with_an_error(path: str, first: bytes, is_error: bool) -> None:
    assert ROUTES_BY_PATH[path].dialect.begins_with_error(first) is is_error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 502, 503, 504])
def test_the_shape_of_errors(status: int) -> None:
    ollama = json.loads(ROUTES_BY_PATH["/api/chat"].dialect.error(status, "no", "code"))
    assert ollama == {"error": "no"}
    openai = json.loads(ROUTES_BY_PATH[CHAT].dialect.error(status, "no", "code"))
    assert openai["error"].keys() == {"message", "type", "param", "code"}
    assert (openai["error"]["message"], openai["error"]["code"]) == ("no", "code")
    anthropic = json.loads(ROUTES_BY_PATH[MESSAGES].dialect.error(status, "no", "code"))
    assert (anthropic["type"], anthropic["error"]["message"]) == ("error", "no")
    assert anthropic["error"]["type"].endswith("_error") or anthropic["error"]["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("event", "name", "text"),
    [
        (b"data: a\n\n", b"", b"a"),
        (b"data:a\ndata: b\n\n", b"", b"a\nb"),
        (b"event: x\r\ndata: a\r\n\r\n", b"x", b"a"),
        (b"\n\nid: 1\nevent:x\ndata:\n\n", b"x", b""),
        (b": data: no\nretry: 5\n\n", b"", b""),
        (b"dataset: no\n\n", b"", b""),
        (b"", b"", b""),
    ],
)
def test_an_events_name_and_data(event: bytes, name: bytes, text: bytes) -> None:
    assert (event_name(event), event_data(event)) == (name, text)


def test_the_silent_observer() -> None:
    observer = SilentObserver()
    pieces = [b"a", b"b"]
    assert observer.feed(pieces) is pieces
    assert observer.close() == []
    assert observer.usage.complete
