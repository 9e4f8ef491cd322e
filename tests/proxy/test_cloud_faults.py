"""Everything that a cloud can do wrong, in each dialect, streamed and not.

Before the first byte: the local model answers, in the client's own framing, and the money that may be billed is
booked. After it: an error record in the dialect and a proper end. The cloud is never asked twice.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cloud_support import CHAT, DIALECTS, LOCAL_MODEL, Dialect, books, calm, door, high, hurry, settled, went

from sidecar.standins import StandInCloud, StandInServer, StepGate, faults
from sidecar.standins.dialect import error_record
from sidecar.upstream.connection import UpstreamConnection
from support.raw import Answer, connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, World

BOTH, WHOLE, STREAM = (False, True), (False,), (True,)
LOCAL, BROKEN, CLOUD = "the local model answers", "an error record ends it", "the cloud's answer is good"
FREE, FULL, EXACT = "nothing is booked", "the reservation is booked", "the bill is booked"


@dataclass(frozen=True)
class Case:
    """`fault` is made anew for each call; `hangs` where only the bound on the wait ends it."""

    name: str
    fault: Callable[[], faults.Fault]
    end: str
    money: str
    streams: tuple[bool, ...] = BOTH
    reason: str = "cloud_unavailable"
    hangs: bool = False


def _status(status: int, money: str, **more: object) -> Case:
    reason = "rate_limited" if status == 429 else "cloud_unavailable"
    name = " ".join([str(status), *more])
    return Case(name, lambda: faults.Status(status, **more), LOCAL, money, reason=reason)  # type: ignore[arg-type]


CASES = (
    *(_status(status, FREE) for status in (400, 401, 402, 403, 404, 405, 413, 422, 429, 501, 503)),
    # What was begun may be billed.
    *(_status(status, FULL) for status in (408, 499, 500, 502, 504, 520, 599)),
    _status(429, FREE, retry_after=7),
    _status(429, FREE, retry_after="Wed, 21 Oct 2099 07:28:00 GMT"),
    _status(503, FREE, html=True),
    _status(401, FREE, before_body=True),
    Case("redirect", lambda: faults.Redirect("http://127.0.0.1:1/elsewhere"), LOCAL, FREE),
    Case("redirect for good", lambda: faults.Redirect("/api/chat", 308), LOCAL, FREE),
    Case("slow first byte", lambda: faults.SlowFirstByte(gate=asyncio.Event()), LOCAL, FULL, hangs=True),
    Case("hang before the work", lambda: faults.Hang("before_work"), LOCAL, FULL, hangs=True),
    Case("hang before the head", lambda: faults.Hang("before_head"), LOCAL, FULL, hangs=True),
    Case("hang after the head", lambda: faults.Hang("after_head"), LOCAL, FULL, hangs=True),
    Case("hang in a body", lambda: faults.Hang("mid_stream", 1), LOCAL, FULL, WHOLE, hangs=True),
    Case("hang in a stream", lambda: faults.Hang("mid_stream"), BROKEN, FULL, STREAM, hangs=True),
    Case("cut before the work", lambda: faults.Cut("before_work"), LOCAL, FULL),
    Case("cut before the body is read", lambda: faults.Cut("before_work", before_body=True), LOCAL, FULL),
    Case("reset before the work", lambda: faults.Cut("before_work", reset=True), LOCAL, FULL),
    Case("cut before the head", lambda: faults.Cut("before_head"), LOCAL, FULL),
    Case("cut after the head", lambda: faults.Cut("after_head"), LOCAL, FULL),
    Case("reset after the head", lambda: faults.Cut("after_head", reset=True), LOCAL, FULL),
    Case("cut in a body", lambda: faults.Cut("mid_record"), LOCAL, FULL, WHOLE),
    Case("cut in a record", lambda: faults.Cut("mid_record"), BROKEN, FULL, STREAM),
    Case("cut between records", lambda: faults.Cut("between_records"), BROKEN, FULL, STREAM),
    Case(
        "cut behind the last record", lambda: faults.Cut("between_records", after_writes=10**6), CLOUD, EXACT, STREAM
    ),
    Case("no final record", faults.NoFinalRecord, BROKEN, FULL, STREAM),
    Case("error record first", lambda: faults.ErrorRecord(0), LOCAL, FULL),
    Case("error record behind a body", lambda: faults.ErrorRecord(2), LOCAL, FULL, WHOLE),
    Case("error record last", lambda: faults.ErrorRecord(2), BROKEN, FULL, STREAM),
    Case("no HTTP", faults.Garbage, LOCAL, FULL),
    Case("no HTTP, and an end", lambda: faults.Garbage(data=b"\x16\x03\x01"), LOCAL, FULL),
    Case("HTTP/2", lambda: faults.Garbage(data=b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n\r\n"), LOCAL, FULL),
    Case("two lengths", lambda: faults.Garbage(data=_head("Content-Length: 2", "Content-Length: 3")), LOCAL, FULL),
    Case("switching protocols", lambda: faults.Garbage(data=b"HTTP/1.1 101 Sure\r\n\r\n"), LOCAL, FULL),
    Case("no content", lambda: faults.Garbage(data=b"HTTP/1.1 204 No Content\r\n\r\n"), LOCAL, FULL),
    Case("a bad chunk", lambda: faults.Garbage(data=_head("Transfer-Encoding: chunked") + b"zz\r\n"), LOCAL, FULL),
    Case("an empty answer", lambda: faults.Garbage(data=_head("Content-Length: 0")), LOCAL, FULL),
    Case("a page", lambda: faults.Garbage("body", b"<html>This is a stand-in's page.</html>"), LOCAL, FULL),
    Case("a garbage body", lambda: faults.Garbage("body"), LOCAL, FULL),
    Case("a JSON body of something else", lambda: faults.Garbage("body", b"[1, 2]\n\n"), LOCAL, FULL),
    Case("compressed", lambda: faults.ExtraHeaders((("Content-Encoding", "gzip"),)), LOCAL, FULL, STREAM),
    Case("a garbage record", lambda: faults.Garbage("record"), CLOUD, EXACT, STREAM),
    Case("more length than body", lambda: faults.WrongLength(10), LOCAL, FULL),
    Case("less length than body", lambda: faults.WrongLength(-10), LOCAL, FULL),
    Case("no usage", lambda: faults.BadUsage("missing"), CLOUD, FULL),
    Case("negative usage", lambda: faults.BadUsage("negative"), CLOUD, FULL),
    Case("huge usage", lambda: faults.BadUsage("huge"), CLOUD, FULL),
    Case("fractions as usage", lambda: faults.BadUsage("float"), CLOUD, FULL),
    Case("no output counted", lambda: faults.BadUsage((7, None)), CLOUD, FULL),
    Case("no input counted", lambda: faults.BadUsage((None, 7)), CLOUD, FULL),
    Case("nothing counted", lambda: faults.BadUsage((0, 0)), CLOUD, FULL),
    Case("text as usage", lambda: faults.BadUsage(("7", "3")), CLOUD, FULL),
    Case("a giant record", lambda: faults.GiantRecord(300_000), CLOUD, EXACT),
    Case("a truncated last event", faults.TruncatedEvent, BROKEN, FULL, STREAM),
    Case("a truncated event", lambda: faults.TruncatedEvent(2), BROKEN, FULL, STREAM),
    Case("a truncated first event", lambda: faults.TruncatedEvent(0), BROKEN, FULL, STREAM),
    Case("drip", lambda: faults.Drip(11), CLOUD, EXACT),
)


def _head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", "Content-Type: application/json", *lines, "", "")).encode()


def stamped(body: bytes) -> bool:
    """Whether a body is the local stand-in's: the cloud's names its own model."""
    return LOCAL_MODEL.encode() in body and TEXT_MODEL.encode() not in body


def check_local(dialect: Dialect, answer: Answer, reason: str, *, stream: bool) -> None:
    assert answer.status == 200
    assert went(answer) == ("local", LOCAL_MODEL, reason)
    assert answer.get("x-stand-in") == "local"
    kind = answer.get("content-type") or ""
    streams = "x-ndjson" if dialect.path.startswith("/api/") else "event-stream"
    assert (streams in kind) is stream
    assert dialect.whole(answer)
    assert dialect.models(answer) == {LOCAL_MODEL}
    assert TEXT_MODEL.encode() not in answer.body


def check_broken(dialect: Dialect, answer: Answer) -> None:
    """What came, then one error record, then a proper end: nothing is glued to anything."""
    assert answer.status == 200
    assert answer.complete, "a silent cut"
    assert went(answer) == ("cloud", TEXT_MODEL, "high_quality_extraction")
    text = answer.body.rstrip(b"\n")
    if dialect.path.startswith("/api/"):
        last = text.split(b"\n")[-1]
        record = json.loads(last)
    else:
        last = text.split(b"\n\n")[-1]
        record = json.loads(last.partition(b"data: ")[2])
        if dialect.name in ("anthropic", "responses"):
            assert last.startswith(b"event: error\ndata: ")
        else:
            assert last.startswith(b"data: ")
    assert dialect.is_error(record)
    assert dialect.message(record)
    assert b"Bearer" not in answer.body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_every_fault(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    async with books(tmp_path, {"ollama_cloud": {"breaker": {"failures": 10_000}}}, cloud=cloud) as here:
        wrong = []
        cases = [case for case in CASES if stream in case.streams]
        for number, case in enumerate(cases):
            try:
                await _play(here, dialect, case, number, stream=stream)
            except (AssertionError, ValueError) as error:
                wrong.append(f"{case.name}: {error}")
        assert not wrong, "\n".join(wrong)


async def _play(here: World, dialect: Dialect, case: Case, number: int, *, stream: bool) -> None:
    calm(here)
    cloud = here.cloud
    cloud.misbehave = [case.fault()]
    requests, bills, before = len(cloud.requests), len(cloud.bills), settled(here)
    if case.hangs:
        hurry(here, 0.05)
    try:
        answer = await high(here, dialect, f"List the towns, {number}.", stream=stream)
        got = cloud.requests[requests]
        await got.finished.wait()
        if case.end == LOCAL:
            check_local(dialect, answer, case.reason, stream=stream)
        elif case.end == BROKEN:
            check_broken(dialect, answer)
        else:
            assert went(answer) == ("cloud", TEXT_MODEL, "high_quality_extraction")
            assert answer.complete
            if case.name != "a garbage record":
                assert dialect.whole(answer)
        assert len(cloud.requests) == requests + 1, "the cloud was asked twice"
        booked, billed = settled(here) - before, sum(bill.cost_micro_usd for bill in cloud.bills[bills:])
        reserved = 4096 * PRICES[TEXT_MODEL][1] // 1_000_000
        assert booked >= billed
        if case.money == FREE:
            assert booked == 0
        elif case.money == EXACT:
            assert booked == billed > 0
        elif dialect.name != "anthropic":
            assert booked >= reserved
        else:
            assert booked >= 600  # it asks for 1000 tokens itself
    finally:
        hurry(here, 10.0)


async def test_after_a_broken_answer_the_clients_connection_goes_on(tmp_path: Path) -> None:
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    cloud.misbehave = [faults.Cut("mid_record"), faults.NoFinalRecord(), faults.ErrorRecord(2), None]
    async with books(tmp_path, cloud=cloud) as here, connect(here.port) as client:
        for good in (False, False, False, True):
            body = json.dumps(CHAT.body("Hello", stream=True)).encode()
            await client.send(request("POST", CHAT.path, HIGH, body))
            answer = await client.read("POST")
            if good:
                assert CHAT.whole(answer)
            else:
                check_broken(CHAT, answer)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_the_clouds_own_error_record_is_passed_on_as_it_came(tmp_path: Path, dialect: Dialect) -> None:
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, misbehave=[faults.ErrorRecord(3, "it broke")])
    async with books(tmp_path, cloud=cloud) as here:
        answer = await high(here, dialect, stream=True)
        record = error_record(dialect.path, "it broke")
        if dialect.name == "anthropic":
            assert answer.body.endswith(b'"message":"it broke"}}\n\n')
        else:
            assert answer.body.endswith(record)
        assert answer.body.count(b"it broke") == 1
        check_broken(dialect, answer)
        page = await here.metrics()
        assert page['ollama_sidecar_call_outcomes_total{outcome="broken"}'] == 1


async def test_nobody_there(tmp_path: Path) -> None:
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    async with books(tmp_path, cloud=cloud) as here:
        await cloud.close()
        for dialect in DIALECTS:
            for stream in BOTH:
                calm(here)
                check_local(dialect, await high(here, dialect, stream=stream), "cloud_unavailable", stream=stream)
        assert settled(here) == 0
    outcomes = [line["outcome"] for line in here.audit() if line["event"] == "ollama_cloud_execution"]
    assert outcomes == ["connect"] * 10


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async with StandInServer() as elsewhere:
        cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
        cloud.misbehave = [
            faults.Redirect(f"{elsewhere.base_url}/api/chat", status) for status in (301, 302, 303, 307, 308)
        ]
        async with books(tmp_path, {"ollama_cloud": {"breaker": {"failures": 99}}}, cloud=cloud) as here:
            for _ in range(5):
                check_local(DIALECTS[0], await high(here, DIALECTS[0]), "cloud_unavailable", stream=False)
        assert elsewhere.received == 0
        assert elsewhere.accepted == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_a_model_that_the_app_named_itself_hears_the_clouds_400_and_404(
    tmp_path: Path, dialect: Dialect, stream: bool
) -> None:
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    over = {"local": {"models": {"generation": "llama3"}}}
    async with books(tmp_path, over, cloud=cloud) as here:
        for status in (400, 404, 405, 413, 422):
            cloud.misbehave = [faults.Status(status, f"the cloud's own words {status}")]
            answer = await here.post(dialect.path, dialect.body("Hello", stream=stream, model=f"{TEXT_MODEL}-cloud"))
            assert answer.status == status
            assert went(answer) == ("cloud", TEXT_MODEL, "cloud_model_requested")
            assert f"the cloud's own words {status}" in dialect.message(answer.json())
            assert answer.complete
        # What says that the cloud cannot serve is no answer of its own: the local model gets the call.
        for status in (401, 402, 403, 408, 500, 502, 503, 504):
            cloud.misbehave = [faults.Status(status)]
            calm(here)
            answer = await here.post(dialect.path, dialect.body("Hello", stream=stream, model=f"{TEXT_MODEL}-cloud"))
            assert went(answer) == ("local", LOCAL_MODEL, "cloud_unavailable")
            assert dialect.whole(answer)
        assert settled(here) > 0
        assert door(here).breaker.state(0) == "closed"


async def test_a_cloud_that_falls_silent_in_the_middle(tmp_path: Path) -> None:
    """The bound is on the wait for a byte, not on the whole answer."""
    gate = StepGate(open_through=3)
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, gate=gate)
    async with books(tmp_path, cloud=cloud) as here:
        call = asyncio.create_task(high(here, CHAT, stream=True))
        got = await gate.reached(4)
        (connection,) = _streams(here)
        connection._check_idle()
        assert not call.done()
        connection._idle_timeout = 1e-9  # as if the ten seconds of the settings were over
        connection._check_idle()
        check_broken(CHAT, await call)
        await got.finished.wait()
        assert got.aborted


def _streams(here: World) -> list[UpstreamConnection]:
    return [
        one
        for one in gc.get_objects()
        if isinstance(one, UpstreamConnection) and one.busy and one._on_free.__self__ is door(here)._pool  # type: ignore[attr-defined]
    ]
