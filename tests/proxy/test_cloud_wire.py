"""What the cloud receives and what the client gets from it, byte for byte, in each dialect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cloud_support import ANTHROPIC, CHAT, DIALECTS, GENERATE, OPENAI, RESPONSES, Dialect, books, high, settled, went

from sidecar import __version__
from sidecar.standins import StandInCloud, faults
from support.raw import connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, VISION_MODEL, World, world

# What an app may send along; none of it is the cloud's business.
APP = (
    ("Authorization", "Bearer app-secret-0"),
    ("Cookie", "session=app-secret-1"),
    ("Referer", "http://localhost/app-secret-2"),
    ("User-Agent", "app-secret-3/1.0"),
    ("Accept", "text/app-secret-4"),
    ("Accept-Encoding", "gzip, app-secret-5"),
    ("Accept-Language", "app-secret-6"),
    ("X-Forwarded-For", "10.0.0.7"),
    ("X-Api-Key", "app-secret-8"),
    ("X-Anything", "app-secret-9"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "app=secret-10"),
    ("baggage", "user=app-secret-11"),
    ("Anthropic-Version", "app-secret-12"),
    ("Anthropic-Beta", "app-secret-13"),
    ("OpenAI-Organization", "app-secret-14"),
    ("X-Task-Id", "app-secret-15"),
    ("X-User-Id", "app-secret-16"),
    ("X-Request-Id", "app-secret-17"),
    ("X-Complexity", "low"),
    ("X-Latency-Requirement-Ms", "2000"),
    ("X-Data-Classification", "internal"),
    ("Forwarded", "for=app-secret-18"),
    ("Content-Type", "text/app-secret-19"),
    *HIGH.items(),
)


class Recording(StandInCloud):
    """Keeps the answers' bodies as they went out."""

    def __init__(self, **more: Any) -> None:
        super().__init__([TEXT_MODEL, VISION_MODEL], key=KEY, prices=PRICES, **more)
        self.written = b""
        self.misbehave = lambda _: _Copy(self)


class _Copy(faults.Fault):
    def __init__(self, cloud: Recording) -> None:
        self.cloud = cloud

    async def after(self, exchange: Any, answer: Any) -> Any:
        self.cloud.written = answer.body
        if answer.pieces is not None:
            answer.pieces = self._pieces(answer.pieces)
        return answer

    async def _pieces(self, pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for piece in pieces:
            self.cloud.written += piece.data
            yield piece


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[World]:
    async with books(tmp_path, cloud=Recording()) as here:
        yield here


def written(here: World) -> bytes:
    assert isinstance(here.cloud, Recording)
    return here.cloud.written


def edited(dialect: Dialect, body: bytes, *, model: bytes, cap: bytes, usage: bytes = b"") -> bytes:
    """The body with our edits made by hand, in the way that leaves every other byte where it was."""
    body = body.replace(b'"llama3"', b'"' + model + b'"')
    return body.replace(b"<cap>", cap).replace(b"<usage>", usage)


# Odd but valid JSON, so that a body which was parsed and written anew would not come out the same. `<cap>` and
# `<usage>` stand where our edits go: a member that is missing is put in first.
BODIES = {
    "chat": (
        b'{<cap> "model" : "llama3",\r\n"messages":[{"role":"user","content":"caf\\u00e9 \\/ \xc3\xa9"}],'
        b'"options_x":1.50e+01,"stream":<stream>}'
    ),
    "generate": b'{<cap> "prompt":"List \\u0041 towns", "model":"llama3", "unknown":[1.0,1E2], "stream":<stream> }',
    "openai": (
        b'{<usage><cap> "messages" : [ {"role":"user","content":[{"type":"text","text":"caf\\u00e9"}]} ],\t'
        b'"temperature":1.0,"model":"llama3", "stream":<stream>}'
    ),
    "responses": b'{<cap> "input":"List towns \\ud83d\\ude00", "store":false, "model":"llama3", "stream":<stream>}',
    "anthropic": (
        b'{ "max_tokens":<cap>, "model":"llama3", "metadata":{"x":1.0},'
        b'"messages":[{"role":"user","content":[{"type":"text","text":"\\u00e9"}]}], "stream":<stream>}'
    ),
}
CAP_TEXT = {
    "chat": b'"options":{"num_predict":4096},',
    "generate": b'"options":{"num_predict":4096},',
    "openai": b'"max_tokens":4096,',
    "responses": b'"max_output_tokens":4096,',
    "anthropic": b"4096",
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_what_the_cloud_receives_and_the_client_gets(there: World, dialect: Dialect, stream: bool) -> None:
    template = BODIES[dialect.name].replace(b"<stream>", b"true" if stream else b"false")
    sent = edited(dialect, template, model=b"llama3", cap=b"9000" if dialect is ANTHROPIC else b"")
    usage = b'"stream_options":{"include_usage":true},' if stream and dialect is OPENAI else b""
    # Two members that are put in both stand first; which of them leads is nobody's business.
    wanted = edited(dialect, template, model=TEXT_MODEL.encode(), cap=CAP_TEXT[dialect.name], usage=usage)
    other = edited(dialect, template, model=TEXT_MODEL.encode(), cap=b"", usage=CAP_TEXT[dialect.name] + usage)
    answer = await there.post(f"{dialect.path}?app-secret-20=1", sent, APP)

    got = there.cloud.requests[-1]
    assert answer.status == 200
    assert len(there.cloud.requests) == 1
    assert got.body in (wanted, other)
    assert got.target == dialect.path
    assert got.method == "POST"
    assert {name.lower(): value for name, value in got.headers} == {
        b"host": f"127.0.0.1:{there.cloud.port}".encode(),
        b"user-agent": f"ollama-sidecar/{__version__}".encode(),
        b"accept": b"*/*" if stream else b"application/json",
        b"accept-encoding": b"identity",
        b"content-type": b"application/json",
        b"content-length": str(len(got.body)).encode(),
        b"authorization": f"Bearer {KEY}".encode(),
    }
    assert b"secret" not in got.raw_head + got.raw_body

    assert went(answer) == ("cloud", TEXT_MODEL, "high_quality_extraction")
    assert answer.get("x-request-id") == "app-secret-17"
    assert answer.get("x-sidecar-trace-id") == "0af7651916cd43dd8448eb211c80319c"
    assert dialect.whole(answer)
    assert answer.complete
    expected = written(there)
    if usage:
        chunk = next(event for event in expected.split(b"\n\n") if b'"choices":[]' in event)
        expected = expected.replace(chunk + b"\n\n", b"")
        assert b'"usage"' not in answer.body
    assert answer.body == expected
    assert dialect.models(answer) == {TEXT_MODEL}
    assert KEY.encode() not in answer.raw
    assert settled(there) == there.cloud.billed_micro_usd > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_a_bound_of_the_apps_own_is_kept_and_never_raised(there: World, dialect: Dialect, stream: bool) -> None:
    for asked, sent in ((17, 17), (4096, 4096), (9999, 4096), (-1, 4096), (0, 4096), (2**40, 4096)):
        body = dialect.capped(dialect.body("List the towns.", stream=stream), asked)
        answer = await there.post(dialect.path, body, HIGH)
        assert went(answer)[0] == "cloud", asked
        received = there.cloud.requests[-1].json()
        assert dialect.cap_of(received) == sent
        assert received == dialect.capped(body, sent) | {"model": TEXT_MODEL} | (
            {"stream_options": {"include_usage": True}} if dialect is OPENAI and stream else {}
        )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("bounds", "sent"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_completion_tokens": 21}, {"max_tokens": 21, "max_completion_tokens": 21}),
        ({"max_completion_tokens": 90_000}, {"max_tokens": 4096, "max_completion_tokens": 4096}),
        ({"max_tokens": 9, "max_completion_tokens": 21}, {"max_tokens": 9, "max_completion_tokens": 9}),
        ({"max_tokens": 30, "max_completion_tokens": 21}, {"max_tokens": 21, "max_completion_tokens": 21}),
        ({"max_completion_tokens": None}, {"max_tokens": 4096, "max_completion_tokens": None}),
        ({"max_tokens": None}, {"max_tokens": 4096}),
    ],
)
async def test_openai_always_gets_max_tokens_the_name_that_ollama_knows(
    there: World, stream: bool, bounds: dict[str, Any], sent: dict[str, Any]
) -> None:
    answer = await high(there, OPENAI, stream=stream, **bounds)
    assert went(answer)[0] == "cloud"
    received = there.cloud.requests[-1].json()
    assert {name: received[name] for name in received if name.startswith("max_")} == sent
    assert there.cloud.bills[-1].tokens_out <= (received["max_tokens"] or 0)


async def test_a_usage_chunk_that_the_app_asked_for_is_the_apps(there: World) -> None:
    answer = await high(there, OPENAI, stream=True, stream_options={"include_usage": True})
    assert answer.body == written(there)
    assert OPENAI.records(answer)[-1]["usage"]["prompt_tokens"] == there.cloud.bills[-1].tokens_in


async def test_usage_is_asked_for_where_the_app_asked_for_none(there: World) -> None:
    for options in ({"include_usage": False}, {}, None):
        answer = await high(there, OPENAI, stream=True, stream_options=options)
        assert there.cloud.requests[-1].json()["stream_options"] == {"include_usage": True}
        assert b'"usage"' not in answer.body
        assert OPENAI.whole(answer)
    assert settled(there) == there.cloud.billed_micro_usd


@pytest.mark.parametrize("version", ["2023-06-01", "2023-01-01"])
async def test_a_known_anthropic_version_is_passed_on(there: World, version: str) -> None:
    await there.post(ANTHROPIC.path, ANTHROPIC.body("Hello"), {**HIGH, "Anthropic-Version": version})
    assert there.cloud.requests[-1].header("anthropic-version") == version


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_of_the_clouds_head_only_what_belongs_to_the_body_reaches_the_client(
    tmp_path: Path, dialect: Dialect, stream: bool
) -> None:
    more = (
        ("Access-Control-Allow-Origin", "*"),
        ("X-Request-Id", "the-clouds"),
        ("X-Sidecar-Location", "nowhere"),
        ("X-Echo", f"Bearer {KEY}"),
        ("Connection", "X-Sidecar-Reason"),
        ("Report-To", "{}"),
        ("NEL", "{}"),
        ("Clear-Site-Data", '"*"'),
    )
    fault = faults.ExtraHeaders(faults.ExtraHeaders().headers + more)
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, misbehave=[fault])
    async with books(tmp_path, cloud=cloud) as here:
        answer = await high(here, dialect, stream=stream)
        names = [name.decode().lower() for name, _ in answer.fields]
        assert went(answer) == ("cloud", TEXT_MODEL, "high_quality_extraction")
        assert set(names) <= {
            *("content-type", "content-length", "transfer-encoding", "date", "cache-control", "x-request-id"),
            *("x-sidecar-location", "x-sidecar-model", "x-sidecar-reason", "x-sidecar-trace-id"),
        }
        assert len(names) == len(set(names))
        assert answer.get("x-request-id") != "the-clouds"
        assert KEY.encode() not in answer.raw
        assert dialect.whole(answer)


async def test_an_image_goes_to_the_vision_model_with_its_bytes_as_they_came(there: World) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    body = {"model": "llava", "messages": [{"role": "user", "content": "What is it?", "images": [pixel]}]}
    answer = await there.post("/api/chat", body | {"stream": False}, {"X-Quality-Requirement": "high"})
    assert went(answer) == ("cloud", VISION_MODEL, "high_quality_extraction")
    assert there.cloud.requests[-1].json()["messages"] == body["messages"]
    assert settled(there) == there.cloud.billed_micro_usd


async def test_calls_on_one_connection_share_nothing(there: World) -> None:
    """Local and cloud in turn, streamed and not, on one client connection and one cloud connection."""
    async with connect(there.port) as client:
        for number in range(6):
            headers = HIGH if number % 2 else {}
            stream = number % 3 == 0
            body = json.dumps(CHAT.body(f"Call {number}", stream=stream)).encode()
            await client.send(request("POST", CHAT.path, headers, body))
            answer = await client.read("POST")
            assert went(answer)[0] == ("cloud" if number % 2 else "local")
            assert CHAT.whole(answer)
    assert there.cloud.accepted == 1
    assert [there.cloud.requests[n].json()["messages"][0]["content"] for n in range(3)] == [
        "Call 1",
        "Call 3",
        "Call 5",
    ]


@pytest.mark.parametrize("dialect", [CHAT, GENERATE, RESPONSES], ids=lambda d: d.name)
async def test_a_client_of_http_1_0_gets_a_cloud_stream_that_ends_with_its_connection(
    there: World, dialect: Dialect
) -> None:
    body = json.dumps(dialect.body("Hello", stream=True)).encode()
    async with connect(there.port) as client:
        await client.send(request("POST", dialect.path, HIGH, body, version="HTTP/1.0"))
        answer = await client.read("POST")
    assert went(answer)[0] == "cloud"
    assert answer.get("transfer-encoding") is None
    assert answer.body == written(there)


async def test_a_body_in_chunks_is_sent_on_with_its_length_and_without_trailers(there: World) -> None:
    body = json.dumps(CHAT.body("Hello")).encode()
    chunks = b"%x\r\n%b\r\n0\r\nX-Data-Classification: pii\r\nX-Secret: app-secret\r\n\r\n" % (len(body), body)
    head = request("POST", CHAT.path, {**HIGH, "Transfer-Encoding": "chunked", "Trailer": "X-Secret"})
    async with connect(there.port) as client:
        await client.send(head + chunks)
        answer = await client.read("POST")
    assert went(answer)[0] == "cloud"
    got = there.cloud.requests[-1]
    assert got.header("transfer-encoding") is None
    assert b"secret" not in got.raw_head.lower() + got.raw_body.lower()


# What is free text of the cloud's, and no answer.


def _free(status: int) -> faults.Fault:
    """A whole answer whose reason phrase and trailers quote the key, as a gateway that debugs might."""
    line, secret = CHAT_LINE.encode(), KEY.encode()
    head = b"HTTP/1.1 %d OK %b\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = b"X-Key: %b\r\nSet-Cookie: a=%b\r\n" % (secret, secret)
    body = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(line), line, trailers)
    return faults.Garbage(data=head % (status, secret) + body)


CHAT_LINE = json.dumps(
    {"model": TEXT_MODEL, "message": {"role": "assistant", "content": "x"}, "done": True}
    | {"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}
)


@pytest.mark.parametrize("status", [200, 400])
async def test_the_clouds_phrase_and_trailers_end_at_the_door(tmp_path: Path, status: int) -> None:
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, misbehave=[_free(status)])
    async with world(tmp_path, cloud=cloud) as here:  # no `books`: it bills behind a 400 of ours
        body = CHAT.body("Hello", stream=True, model=f"{TEXT_MODEL}-cloud")
        answer = await here.post(CHAT.path, body)
        assert went(answer)[0] == "cloud"
        assert answer.raw.startswith(b"HTTP/1.1 200 OK\r\n" if status == 200 else b"HTTP/1.1 400 Bad Request\r\n")
        assert KEY.encode() not in answer.raw
        assert answer.complete
