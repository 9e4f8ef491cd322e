"""Structured logs: one JSON line per event on stderr, written off the loop in batches: a slow pipe delays no call."""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

from sidecar.core.record import CallRecord

FLUSH_SECONDS = 0.1
# Beyond this many waiting lines the reader of our stderr is gone or stuck: lines are dropped, and counted.
MAX_LINES = 10_000
CLOSE_SECONDS = 2.0
# Words that a request had a part in (a model's name that nobody knows) are cut to this length.
MAX_TEXT = 300
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineWriter:
    """Writes whole lines to a file descriptor from a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # One buffer, not a queue of lines: objects that live until another thread frees them cost the loop far more.
        self._buffer = bytearray()
        self._lines = 0
        self._swap = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def write(self, line: bytes) -> None:
        """Takes a line with its line end. Never blocks."""
        if self._lines >= MAX_LINES:
            self.dropped += 1
            return
        with self._swap:
            self._lines += 1
            self._buffer += line
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Writes what waits, for two seconds at most."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            if not self._stopping:
                time.sleep(FLUSH_SECONDS)  # a batch is worth more than a line
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._swap:
            data, self._buffer, self._lines = self._buffer, bytearray(), 0
        try:
            while data:
                data = data[self._write(data) :]
        except OSError:
            # How many of them got out is not known to the line: those that did are not counted as lost.
            self.dropped += data.count(b"\n")

    def _write(self, data: bytearray) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Whoever started us made the pipe non-blocking for itself, and so for us. This thread may wait.
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0


class JsonHandler(logging.Handler):
    """Takes the standard library's log records.

    An exception is named by its type and place, never by its text, which may quote what was being parsed.
    """

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": _message(record),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            event.update(fields)
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = record.exc_info[0].__name__
            event["at"] = _places(record.exc_info[2])
        self._writer.write(_line(event))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a library's wrong format string must not become an error of the call
        return f"{type(record.msg).__name__} with arguments that do not fit it"


def _line(event: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE, default=str)
    except TypeError:
        # Text with half a surrogate pair: a path whose bytes are no UTF-8, say. JSON's own escapes can hold it.
        return json.dumps(event, default=str).encode("ascii") + b"\n"


def _places(traceback: TracebackType | None) -> list[str]:
    places = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return places[-8:]


def timestamp(epoch: float) -> str:
    """RFC 3339 with microseconds, in UTC."""
    second = int(epoch)
    if _second[0] != second:
        _second[:] = [second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")]
    return f"{_second[1]}.{int((epoch - second) * 1_000_000):06d}Z"


# The text of the latest second: formatting it anew with every line costs more than all else in the line.
_second: list[Any] = [0, "1970-01-01T00:00:00"]


def plain(text: str) -> str:
    """A text on one line, cut where it is long: names in it may be the request's own."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class CallLog:
    """One line per inference call."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def __call__(self, record: CallRecord) -> None:
        self._writer.write(_line(call_event(record)))


def call_event(record: CallRecord) -> dict[str, Any]:
    """What the log says of a call. Times in milliseconds, cost in USD."""
    task, classification = record.task, record.classification
    event: dict[str, Any] = {
        "time": timestamp(record.started_at),
        "level": "info",
        "event": "call",
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "route": record.route,
        "status": record.status,
        "outcome": record.outcome,
        "location": record.location,
        "model": record.model,
        "reason": record.reason,
        "confidence": record.confidence,
        "strategy": record.strategy,
        "stream": record.stream,
        "tokens_in": record.tokens_in,
        "tokens_out": record.tokens_out,
        "cost_usd": record.cost / 1_000_000,
        "duration_ms": round(record.duration * 1000, 3),
        "first_byte_ms": None if record.first_byte is None else round(record.first_byte * 1000, 3),
        "bytes_out": record.bytes_out,
    }
    if task is not None:
        event["task_id"] = task.task_id
        event["task_type"] = task.task_type
        event["complexity"] = task.complexity
        event["quality"] = task.quality
        event["latency_requirement_ms"] = task.latency_ms
    if classification is not None:
        event["classification"] = classification.data_class.label
        event["classification_source"] = classification.source
        if len(classification.findings) > 1:
            found = {finding.rule for finding in classification.findings if finding.source in ("content", "body")}
            event["findings"] = sorted(found)
    if record.local_model != record.model:
        event["local_model"] = record.local_model
    if record.decided_reason != record.reason or record.decided_location != record.location:
        event["decided"] = {"location": record.decided_location, "reason": record.decided_reason}
    if record.detail:
        event["detail"] = plain(record.detail)
    if record.error:
        event["error"] = plain(record.error)
    if record.bucket is not None:
        event["bucket"] = record.bucket
    if record.fallback:
        event["fallback"] = True
    if record.capped:
        event["capped"] = True
    if record.invalid_headers:
        event["invalid_headers"] = record.invalid_headers
    if record.queued:
        event["queued_ms"] = round(record.queued * 1000, 3)
    if record.fallback or len(record.attempts) > 1:
        event["attempts"] = [
            {"location": a.location, "model": a.model, "outcome": a.outcome, "status": a.status}
            for a in record.attempts
        ]
    return event
