"""Each fault does what its name says, seen on a raw socket."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from standins_support import RawAnswer, RawPeer, ask, chat, peer

from sidecar.standins import RecordedRequest, StandInCloud, StandInOllama, StepGate, faults

KEY = (("Authorization", "Bearer secret"),)
WHOLE = chat(stream=False)


@pytest.fixture
async def cloud() -> AsyncIterator[StandInCloud]:
    async with StandInCloud(["tiny"], key="secret", answer_tokens=6) as running:
        yield running
    assert running.errors == []


async def post(
    cloud: StandInCloud, fault: faults.Fault | None, body: Any = None, path: str = "/api/chat"
) -> RawAnswer:
    cloud.misbehave = [fault]
    return await ask(cloud.port, "POST", path, chat() if body is None else body, KEY)


async def broken(
    cloud: StandInCloud, fault: faults.Fault, body: Any = None, path: str = "/api/chat"
) -> tuple[bytes, bool]:
    """All bytes of an answer that the server breaks off, and whether it ended with a reset."""
    cloud.misbehave = [fault]
    async with peer(cloud.port) as one:
        one.ask("POST", path, chat() if body is None else body, KEY)
        got = bytearray()
        try:
            while data := await one.reader.read(65536):
                got += data
        except ConnectionResetError:
            return bytes(got), True
        return bytes(got), False


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429, 500, 502, 503])
async def test_an_error_status_with_a_json_body(cloud: StandInCloud, status: int) -> None:
    answer = await post(cloud, faults.Status(status))
    assert (answer.status, list(answer.json())) == (status, ["error"])
    assert answer.header("Retry-After") is None
    openai = await post(cloud, faults.Status(status), path="/v1/chat/completions")
    assert (openai.status, list(openai.json()["error"])) == (status, ["message", "type", "param", "code"])
    anthropic = await post(cloud, faults.Status(status), path="/v1/messages")
    assert (anthropic.status, anthropic.json()["type"]) == (status, "error")


async def test_an_error_status_with_more(cloud: StandInCloud) -> None:
    limited = await post(cloud, faults.Status(429, "weekly usage limit", retry_after=7))
    assert (limited.header("Retry-After"), limited.json()) == ("7", {"error": "weekly usage limit"})
    page = await post(cloud, faults.Status(502, html=True))
    assert page.header("Content-Type") == "text/html"
    assert b"stand-in" in page.body


async def test_an_answer_before_the_body_was_sent(cloud: StandInCloud) -> None:
    cloud.misbehave = [faults.Status(503, before_body=True)]
    async with peer(cloud.port) as one:
        one.send(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\nContent-Length: 9\r\n\r\n"
        )
        answer = await one.answer()
        assert (answer.status, answer.header("Connection")) == (503, "close")
        one.send(b"{}       ")
        assert await one.rest() == b""


async def test_a_slow_first_byte(cloud: StandInCloud) -> None:
    gate = asyncio.Event()
    cloud.misbehave = [faults.SlowFirstByte(gate=gate)]
    async with peer(cloud.port) as one:
        one.ask("POST", "/api/chat", chat(), KEY)
        request = await cloud.wait_for_request()
        await request.body_read.wait()
        assert request.status is None
        gate.set()
        assert (await one.answer()).lines()[-1]["done"] is True


@pytest.mark.parametrize("body", [chat(), WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("at", ["before_work", "before_head", "after_head", "mid_stream"])
async def test_hanging_until_the_client_leaves(cloud: StandInCloud, at: faults.Place, body: Any) -> None:
    cloud.misbehave = [faults.Hang(at)]
    one = await RawPeer.open(cloud.port)
    one.ask("POST", "/api/chat", body, KEY)
    request = await cloud.wait_for_request()
    await request.body_read.wait()
    if at in ("after_head", "mid_stream"):
        status, headers = await one.head()
        assert status == 200
        if at == "mid_stream" and body is WHOLE:
            length = int(dict(headers)["Content-Length"])
            assert len(await one.reader.readexactly(length // 2)) == length // 2
        elif at == "mid_stream":
            assert [json.loads(await one.chunk())["done"] for _ in range(2)] == [False, False]
    assert not request.finished.is_set()
    one.leave()
    await request.finished.wait()
    assert request.aborted
    assert len(cloud.bills) == (0 if at == "before_work" else 1)


@pytest.mark.parametrize("body", [chat(), WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("reset", [False, True])
async def test_cut_before_any_byte(cloud: StandInCloud, body: Any, reset: bool) -> None:
    for at in ("before_work", "before_head"):
        place: faults.CutPlace = "before_work" if at == "before_work" else "before_head"
        assert await broken(cloud, faults.Cut(place, reset=reset), body) == (b"", reset)
    assert [bill.outcome for bill in cloud.bills] == ["cut"]


async def test_cut_after_the_head(cloud: StandInCloud) -> None:
    got, _ = await broken(cloud, faults.Cut("after_head"))
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")


async def test_cut_between_two_records(cloud: StandInCloud) -> None:
    got, _ = await broken(cloud, faults.Cut("between_records", after_writes=3))
    assert got.count(b'"done":false}\n\r\n') == 3
    assert got.endswith(b'"done":false}\n\r\n')  # whole chunks, but never the last one


async def test_cut_in_the_middle_of_a_record(cloud: StandInCloud) -> None:
    got, _ = await broken(cloud, faults.Cut("mid_record", after_writes=1))
    _, first, second, half = got.rpartition(b"\r\n\r\n")[2].split(b"\r\n", 3)
    assert json.loads(first)["done"] is False
    assert len(half) == int(second, 16) // 2


async def test_cut_in_the_middle_of_a_body(cloud: StandInCloud) -> None:
    got, _ = await broken(cloud, faults.Cut("mid_record"), WHOLE)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    assert 0 < len(body) == length // 2


@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/v1/responses"]
)
async def test_a_clean_end_without_the_final_record(cloud: StandInCloud, path: str) -> None:
    body = chat(stream=True, max_tokens=9, prompt="x", input="x")
    good = await post(cloud, None, body, path)
    short = await post(cloud, faults.NoFinalRecord(), body, path)
    assert 0 < len(short.chunks) < len(good.chunks)
    for closing in (b'"done":true', b"[DONE]", b"message_delta", b"message_stop", b"response.completed"):
        assert closing not in short.body


@pytest.mark.parametrize("writes", [0, 3])
async def test_an_error_record_comes_last(cloud: StandInCloud, writes: int) -> None:
    answer = await post(cloud, faults.ErrorRecord(writes, "broke"))
    assert answer.status == 200
    *records, last = answer.lines()
    assert last == {"error": "broke"}
    assert len(records) == writes
    openai = await post(cloud, faults.ErrorRecord(writes, "broke"), chat(stream=True), "/v1/chat/completions")
    assert openai.events()[-1][1]["error"]["message"] == "broke"
    anthropic = await post(
        cloud, faults.ErrorRecord(writes, "broke"), chat(stream=True, max_tokens=9), "/v1/messages"
    )
    assert anthropic.events()[-1][0] == "error"


async def test_garbage(cloud: StandInCloud) -> None:
    raw, _ = await broken(cloud, faults.Garbage("http"))
    assert raw == faults.Garbage().data
    body = await post(cloud, faults.Garbage("body"), WHOLE)
    assert (body.status, body.body) == (200, faults.Garbage().data)
    stream = await post(cloud, faults.Garbage("record", b"{oops\n", after_writes=1))
    lines = stream.body.splitlines()
    assert lines[1] == b"{oops"
    assert json.loads(lines[-1])["done"] is True


async def test_wrong_content_lengths(cloud: StandInCloud) -> None:
    for by in (10, -10):
        for body in (chat(), WHOLE):
            got, _ = await broken(cloud, faults.WrongLength(by), body)
            head, _, content = got.partition(b"\r\n\r\n")
            assert int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) == len(content) + by


@pytest.mark.parametrize("kind", ["missing", "negative", "huge", "float"])
@pytest.mark.parametrize("stream", [True, False])
async def test_counts_that_are_not_to_be_believed(cloud: StandInCloud, kind: Any, stream: bool) -> None:
    wanted = {"missing": None, "negative": -3, "huge": 10**18, "float": 3.25}[kind]
    native = await post(cloud, faults.BadUsage(kind), chat(stream=stream))
    assert (native.lines()[-1] if stream else native.json()).get("eval_count") == wanted
    body = chat(stream=stream, stream_options={"include_usage": True}, max_tokens=9, input="x")
    openai = await post(cloud, faults.BadUsage(kind), body, "/v1/chat/completions")
    anthropic = await post(cloud, faults.BadUsage(kind), body, "/v1/messages")
    responses = await post(cloud, faults.BadUsage(kind), body, "/v1/responses")
    if stream:
        answers = [openai.events()[-2][1], anthropic.events()[-2][1], responses.events()[-1][1]["response"]]
    else:
        answers = [openai.json(), anthropic.json(), responses.json()]
    names = ("completion_tokens", "output_tokens", "output_tokens")
    assert [(one.get("usage") or {}).get(name) for one, name in zip(answers, names, strict=True)] == [wanted] * 3
    assert {bill.tokens_out for bill in cloud.bills} == {6}


async def test_counts_beyond_64_bits(cloud: StandInCloud) -> None:
    answer = await post(cloud, faults.BadUsage((10**30, "many")), WHOLE)
    assert (answer.json()["prompt_eval_count"], answer.json()["eval_count"]) == (10**30, "many")


async def test_a_redirect_elsewhere(cloud: StandInCloud) -> None:
    answer = await post(cloud, faults.Redirect("http://127.0.0.1:9/api/chat"))
    assert (answer.status, answer.header("Location")) == (307, "http://127.0.0.1:9/api/chat")


async def test_a_slow_drip(cloud: StandInCloud) -> None:
    seen: list[int] = []
    more = asyncio.Event()

    async def pause(number: int) -> None:
        seen.append(number)
        if len(seen) == 101:
            await more.wait()

    cloud.misbehave = [faults.Drip(1, pause=pause)]
    async with peer(cloud.port) as one:
        one.ask("POST", "/api/chat", WHOLE, KEY)
        begun = await one.reader.readexactly(100)
        more.set()
        rest = await one.reader.readuntil(b'"eval_duration":')
    assert begun.startswith(b"HTTP/1.1 200 OK\r\n")
    assert seen[: len(begun + rest)] == list(range(len(begun + rest)))


async def test_a_giant_record(cloud: StandInCloud) -> None:
    answer = await post(cloud, faults.GiantRecord(2 << 20))
    assert max(len(line) for line in answer.body.splitlines()) > 2 << 20
    assert answer.lines()[-1]["eval_count"] == 6


async def test_extra_headers(cloud: StandInCloud) -> None:
    answer = await post(cloud, faults.ExtraHeaders())
    assert [value for name, value in answer.headers if name == "Set-Cookie"] == [
        "session=stand-in; Path=/; HttpOnly",
        "tracking=stand-in",
    ]
    assert {"Strict-Transport-Security", "Alt-Svc"} <= {name for name, _ in answer.headers}


@pytest.mark.parametrize("writes", [None, 2])
async def test_a_truncated_event_in_a_stream_that_ends_well(cloud: StandInCloud, writes: int | None) -> None:
    body = chat(stream=True)
    good = await post(cloud, None, body, "/v1/chat/completions")
    short = await post(cloud, faults.TruncatedEvent(writes), body, "/v1/chat/completions")
    assert len(short.chunks) == (len(good.chunks) if writes is None else writes + 1)
    assert short.chunks[-1].startswith(b"data: {")
    assert not short.body.endswith(b"\n\n")


async def test_faults_come_from_a_queue_for_work_only(cloud: StandInCloud) -> None:
    cloud.misbehave = deque([faults.Status(500), None, (faults.ExtraHeaders(), faults.ErrorRecord(0))])
    assert (await ask(cloud.port, "GET", "/api/tags", None, KEY)).status == 200
    assert (await ask(cloud.port, "POST", "/api/chat", chat(), (("Authorization", "Bearer no"),))).status == 401
    statuses = [(await ask(cloud.port, "POST", "/api/chat", chat(), KEY)) for _ in range(4)]
    assert [answer.status for answer in statuses] == [500, 200, 200, 200]
    assert statuses[2].header("Alt-Svc")
    assert list(statuses[2].lines()[0]) == ["error"]
    assert statuses[3].lines()[-1]["done"] is True


async def test_faults_come_from_a_function_of_the_request(cloud: StandInCloud) -> None:
    def choose(request: RecordedRequest) -> faults.Fault | None:
        bad = request.method == "GET" or request.json()["messages"][0]["content"] == "bad"
        return faults.Status(503) if bad else None

    cloud.misbehave = choose
    assert (await ask(cloud.port, "GET", "/api/tags", None, KEY)).status == 503
    assert (await ask(cloud.port, "POST", "/api/chat", chat("good"), KEY)).status == 200
    assert (await ask(cloud.port, "POST", "/api/chat", chat("bad"), KEY)).status == 503


async def test_the_local_stand_in_misbehaves_too() -> None:
    async with StandInOllama(["tiny"], misbehave=[faults.Status(500), faults.Hang()]) as server:
        assert (await ask(server.port, "POST", "/api/embed", {"model": "tiny", "input": "x"})).status == 500
        one = await RawPeer.open(server.port)
        one.ask("POST", "/api/chat", chat())
        request = await server.wait_for_request(2)
        await request.body_read.wait()
        one.leave()
        await request.finished.wait()
        assert request.aborted


async def test_a_gate_and_a_fault_act_together(cloud: StandInCloud) -> None:
    gate = cloud.gate = StepGate(open_through=2)
    cloud.misbehave = [faults.Cut("between_records", after_writes=3)]
    async with peer(cloud.port) as one:
        one.ask("POST", "/api/chat", chat(), KEY)
        await gate.reached(3)
        gate.open_all()
        got = await one.rest()
    assert got.count(b'"done":false') == 3
