"""The log: one JSON line per event, never in the way of a call, never with a text of the call."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.classification import Classification, DataClass, Finding
from sidecar.core.record import Attempt, CallRecord
from sidecar.core.task import Task
from sidecar.telemetry import log
from sidecar.telemetry.log import CallLog, JsonHandler, LineWriter, call_event, plain, timestamp

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
F_SETPIPE_SZ = 1031


@contextmanager
def pipe(size: int = 0) -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        if size:
            with suppress(OSError):
                fcntl.fcntl(writer, F_SETPIPE_SZ, size)
        yield reader, writer
    finally:
        for end in (reader, writer):
            with suppress(OSError):
                os.close(end)


class Lines:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.dropped = 0

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    def events(self) -> list[dict[str, Any]]:
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in self.lines)
        return [json.loads(line) for line in self.lines]


# The writer.


def test_lines_come_out_whole_and_in_order() -> None:
    with pipe() as (reader, writer):
        out = LineWriter(writer)
        for number in range(500):
            out.write(b"%d\n" % number)
        out.close()
        os.close(writer)
        with open(reader, "rb", closefd=False) as end:
            assert end.read().split() == [b"%d" % number for number in range(500)]
    assert out.dropped == 0


def test_lines_of_many_threads_are_neither_lost_nor_mixed() -> None:
    with pipe(1 << 20) as (reader, writer):
        out = LineWriter(writer)

        def write(name: int) -> None:
            for number in range(300):
                out.write(b"%d:%d\n" % (name, number))

        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        out.close()
        os.close(writer)
        with open(reader, "rb", closefd=False) as end:
            assert sorted(end.read().split()) == sorted(b"%d:%d" % (n, i) for n in range(8) for i in range(300))


def test_a_full_pipe_blocks_nobody_and_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_LINES", 100)
    monkeypatch.setattr(log, "CLOSE_SECONDS", 0.01)
    with pipe(4096) as (reader, writer):
        out = LineWriter(writer)
        for _ in range(5000):
            out.write(b"x" * 1000 + b"\n")
        assert out.dropped > 4000
        out.close()  # returns, though nothing has been read
        os.set_blocking(reader, False)
        thread = out._thread
        assert thread is not None
        while thread.is_alive():  # it goes on where it is read, and ends before its descriptor does
            with suppress(BlockingIOError):
                os.read(reader, 1 << 20)
            thread.join(0.01)


def test_a_pipe_that_somebody_made_non_blocking_gets_every_line() -> None:
    """A parent that sets O_NONBLOCK on its own end sets it on ours: both are one open file."""
    with pipe(4096) as (reader, writer):
        os.set_blocking(writer, False)
        out = LineWriter(writer)
        lines = [b"%04d " % number + b"x" * 200 + b"\n" for number in range(400)]
        for line in lines:
            out.write(line)
        found = b""
        while len(found) < sum(map(len, lines)):
            found += os.read(reader, 1 << 16)
        out.close()
        assert found == b"".join(lines)
        assert out.dropped == 0


def test_a_reader_that_is_gone_is_counted_and_nothing_else() -> None:
    with pipe() as (reader, writer):
        os.close(reader)
        out = LineWriter(writer)
        out.write(b"one\n")
        out.write(b"two\n")
        out.close()
        assert out.dropped == 2


def test_a_writer_that_never_wrote_closes_at_once() -> None:
    out = LineWriter(99)
    out.close()
    assert threading.active_count() < 100


# The standard library's records.


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, Lines]]:
    lines = Lines()
    handler = JsonHandler(lines)  # type: ignore[arg-type]
    made = logging.getLogger("sidecar.test")
    made.propagate = False
    made.addHandler(handler)
    yield made, lines
    made.removeHandler(handler)


def test_a_record_is_one_line(logger: tuple[logging.Logger, Lines]) -> None:
    made, lines = logger
    made.warning("the %s\nis %d", "answer", 42, extra={"fields": {"request_id": "r1", "n": 1.5}})
    (event,) = lines.events()
    assert STAMP.fullmatch(event.pop("time"))
    assert event == {
        "level": "warning",
        "event": "log",
        "logger": "sidecar.test",
        "message": "the answer\nis 42",
        "request_id": "r1",
        "n": 1.5,
    }


def test_an_exception_is_told_by_type_and_place_and_without_its_text(logger: tuple[logging.Logger, Lines]) -> None:
    made, lines = logger

    def inner() -> None:
        raise ValueError("canary-text")

    try:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("canary-outer") from error
    except RuntimeError:
        made.exception("it failed")
    (event,) = lines.events()
    assert event["exception"] == "RuntimeError"
    assert event["level"] == "error"
    assert event["at"] == [f"{Path(__file__).name}:{_line_of('raise RuntimeError')} {_name()}"]
    assert b"canary" not in lines.lines[0]


def _name() -> str:
    return sys._getframe(1).f_code.co_name


def _line_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


def test_a_wrong_format_string_is_a_line_and_no_error() -> None:
    lines = Lines()
    handler = JsonHandler(lines)  # type: ignore[arg-type]
    for text, arguments in (("%d of %s", ("canary",)), ("%(x)s", ({"y": "canary"},))):
        handler.handle(logging.LogRecord("library", logging.ERROR, __file__, 1, text, arguments, None))
    assert [event["message"] for event in lines.events()] == ["str with arguments that do not fit it"] * 2
    assert b"canary" not in b"".join(lines.lines)


def test_what_is_no_text_can_be_logged(logger: tuple[logging.Logger, Lines]) -> None:
    """A path whose bytes are no UTF-8 is such a text."""
    made, lines = logger
    made.warning("cannot read %s", os.fsdecode(b"/a\xff"), extra={"fields": {"path": Path("/b"), "more": {1, 2}}})
    (event,) = lines.events()
    assert event["message"] == "cannot read /a\udcff"
    assert event["path"] == "/b"


# Calls.


def record(**more: Any) -> CallRecord:
    made = CallRecord("r1", "t" * 32, "/api/chat", "ollama", 1795500000.123456)
    for name, value in more.items():
        setattr(made, name, value)
    return made


TASK = Task("task-1", "extraction", "low", "high", 1000, None, "user-1", {})


def test_a_call_is_one_line_with_every_documented_field() -> None:
    lines = Lines()
    classification = Classification(
        DataClass.PII,
        "content",
        (
            Finding("pod-default", DataClass.PUBLIC, "default"),
            Finding("email", DataClass.PII, "content", "messages[0].content", 3, 9),
        ),
    )
    made = record(
        task=TASK,
        classification=classification,
        location="local",
        model="llama3",
        local_model="llama3",
        status=200,
        reason="sensitive_data",
        decided_reason="sensitive_data",
        decided_location="local",
        confidence=1.0,
        strategy="hybrid",
        tokens_in=3,
        tokens_out=4,
        duration=0.0123456,
        first_byte=0.005,
        bytes_out=99,
    )
    CallLog(lines)(made)  # type: ignore[arg-type]
    (event,) = lines.events()
    assert event == {
        "time": "2026-11-24T06:00:00.123456Z",
        "level": "info",
        "event": "call",
        "request_id": "r1",
        "trace_id": "t" * 32,
        "route": "/api/chat",
        "status": 200,
        "outcome": "ok",
        "location": "local",
        "model": "llama3",
        "reason": "sensitive_data",
        "confidence": 1.0,
        "strategy": "hybrid",
        "stream": False,
        "tokens_in": 3,
        "tokens_out": 4,
        "cost_usd": 0.0,
        "duration_ms": 12.346,
        "first_byte_ms": 5.0,
        "bytes_out": 99,
        "task_id": "task-1",
        "task_type": "extraction",
        "complexity": "low",
        "quality": "high",
        "latency_requirement_ms": 1000,
        "classification": "pii",
        "classification_source": "content",
        "findings": ["email"],
    }


def test_a_call_that_turned_local_tells_both_decisions_and_its_tries() -> None:
    made = record(
        location="local",
        reason="cloud_unavailable",
        decided_location="cloud",
        decided_reason="high_quality_extraction",
        fallback=True,
        detail="the cloud answered 503",
        cost=1234,
        bucket=17,
        capped=True,
        queued=0.25,
        invalid_headers=("X-Complexity",),
        attempts=[Attempt("cloud", "gpt-oss:120b", "status", 503), Attempt("local", "llama3", "ok", 200)],
    )
    event = call_event(made)
    assert event["decided"] == {"location": "cloud", "reason": "high_quality_extraction"}
    assert [attempt["outcome"] for attempt in event["attempts"]] == ["status", "ok"]
    assert (event["cost_usd"], event["bucket"], event["queued_ms"], event["capped"]) == (0.001234, 17, 250.0, True)
    assert event["invalid_headers"] == ("X-Complexity",)


@given(st.text(), st.text())
def test_whatever_a_detail_says_the_line_is_one_line_of_json(detail: str, error: str) -> None:
    lines = Lines()
    CallLog(lines)(record(detail=detail, error=error))  # type: ignore[arg-type]
    (event,) = lines.events()
    for name, text in (("detail", detail), ("error", error)):
        assert (name in event) == bool(text)
        assert event.get(name, "").isprintable()


@given(st.text(max_size=2000))
def test_a_plain_text_is_short_and_on_one_line(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    if text.isprintable() and len(text) <= log.MAX_TEXT:
        assert shown == text


@given(st.floats(min_value=0, max_value=4e9, allow_nan=False))
def test_a_timestamp_is_rfc_3339_with_microseconds(epoch: float) -> None:
    text = timestamp(epoch)
    assert STAMP.fullmatch(text)
    told = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
    assert abs(told - epoch) < 2e-6
