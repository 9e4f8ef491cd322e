"""The audit log: a line before each cloud call, on disk before the call leaves; a line after it; a line per denial.

Lines are appended by one thread, in order. Those that a call waits for are synced; what came in the meantime shares
that sync. A log that cannot be written closes the cloud, and lines of calls that were sent wait until it can.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sidecar.core.record import Attempt, CallRecord
from sidecar.telemetry.log import LineWriter, timestamp

INTENT = "ollama_cloud_intent"
EXECUTION = "ollama_cloud_execution"
DENIED = "ollama_cloud_denied"
API_KEY = "ollama_cloud_api_key"


# How long a call waits for its line to be on disk, and how often lines that could not be written are tried again.
WAIT_SECONDS = 5.0
RETRY_SECONDS = 1.0
# So many lines wait for a disk that takes none; beyond it the oldest are lost, and counted.
MAX_KEPT = 10_000
_STDOUT = 1


class AuditError(Exception):
    """A line that did not reach the disk. The text names the file and the reason.

    `pending` says that it may still get there: the log was too slow, it has not failed.
    """

    def __init__(self, message: str, *, pending: bool = False) -> None:
        super().__init__(message)
        self.pending = pending


@dataclass(slots=True)
class _Entry:
    line: bytes
    written: asyncio.Future[None] | None

    @property
    def awaited(self) -> bool:
        """Whether a call still waits for it: a line that failed while its call waits is of no use any more."""
        return self.written is not None and not self.written.done()


class AuditLog:
    """Appends to `path` (None: standard output alone, where "written" is the promise, not "on disk").

    `failures` counts writes that failed, `lost` lines that were given up.
    """

    def __init__(self, path: str | None, stdout: LineWriter | None) -> None:
        self._path = path
        self._stdout = stdout if path is not None else None
        self._loop = asyncio.get_running_loop()
        self._entries: deque[_Entry] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._descriptor = -1 if path is not None else _STDOUT
        self._inode = (0, 0)
        self._torn = False
        self.failures = 0
        self.lost = 0
        self.last_error = ""

    # Events.

    async def intent(self, record: CallRecord, attempt: Attempt) -> None:
        """Says what is about to be sent. Raises AuditError where that cannot be written: then nothing may be sent."""
        written = self._loop.create_future()
        self._append(self._event(INTENT, record, attempt), written)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await written
        except TimeoutError:
            raise AuditError(f"{self._name}: it takes no line for {WAIT_SECONDS:g} s now", pending=True) from None

    def execution(self, record: CallRecord, attempt: Attempt, latency: float) -> None:
        """Says what came of it. `latency` in seconds."""
        event = self._event(EXECUTION, record, attempt)
        known = attempt.tokens_in is not None and attempt.tokens_out is not None
        event["tokens_used"] = (attempt.tokens_in or 0) + (attempt.tokens_out or 0) if known else None
        event["tokens_in"] = attempt.tokens_in
        event["tokens_out"] = attempt.tokens_out
        event["cost_usd"] = attempt.cost / 1_000_000
        event["latency_ms"] = round(latency * 1000, 3)
        event["outcome"] = attempt.outcome
        event["status"] = attempt.status
        self._append(event, None)

    def denied(self, record: CallRecord, gate: str, model: str) -> None:
        """Says that a gate kept a call from the cloud."""
        self._append(self._event(DENIED, record, Attempt("cloud", model, outcome="denied")) | {"gate": gate}, None)

    def api_key(self, key: str, action: str) -> None:
        """Says which key is in use, by the first half of its SHA-256. `action` is `loaded` or `rotated`."""
        fingerprint = hashlib.sha256(key.encode()).hexdigest()[:32]
        event = {"timestamp": timestamp(time.time()), "event": API_KEY, "action": action, "fingerprint": fingerprint}
        self._append(event, None)

    def close(self) -> None:
        """Writes what waits."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(WAIT_SECONDS)
            if self._thread.is_alive():
                return  # it hangs in a write: the file is its own to close
        self._shut()

    # Inside.

    @staticmethod
    def _event(name: str, record: CallRecord, attempt: Attempt) -> dict[str, Any]:
        task, classification = record.task, record.classification
        event: dict[str, Any] = {
            "timestamp": timestamp(time.time()),
            "event": name,
            "request_id": record.request_id,
            "trace_id": record.trace_id,
            "task_id": task.task_id if task else "",
            "task_type": task.task_type if task else "",
            "data_classification": classification.data_class.label if classification else "",
            "cloud_model": attempt.model,
            "decision_reason": record.decided_reason,
        }
        if task is not None and task.user_id is not None:
            event["user_id"] = task.user_id
        if attempt.reserved:
            event["reserved_usd"] = attempt.reserved / 1_000_000
        return event

    def _append(self, event: dict[str, Any], written: asyncio.Future[None] | None) -> None:
        line = orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
        if self._stdout is not None:
            self._stdout.write(line)
        self._entries.append(_Entry(line, written))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
            self._thread.start()
        self._wake.set()

    @property
    def _name(self) -> str:
        return self._path or "standard output"

    def _run(self) -> None:
        kept: list[_Entry] = []
        while not self._stopping or self._entries:
            self._wake.wait(RETRY_SECONDS if kept else None)
            self._wake.clear()
            batch = kept + [self._entries.popleft() for _ in range(len(self._entries))]
            if batch:
                kept = self._put(batch)
        if kept:
            self._put(kept)

    def _put(self, batch: list[_Entry]) -> list[_Entry]:
        """Writes lines and tells those that wait for them; gives back the lines to try again."""
        whole, error = self._write([entry.line for entry in batch], sync=any(entry.awaited for entry in batch))
        waiting = [(entry.written, at < whole) for at, entry in enumerate(batch) if entry.written is not None]
        failed = [] if not error else [entry for entry in batch[whole:] if not entry.awaited]
        if waiting:
            self._loop.call_soon_threadsafe(_resolve, waiting, error)
        self.lost += max(len(failed) - MAX_KEPT, 0)
        return [_Entry(entry.line, None) for entry in failed[-MAX_KEPT:]]

    def _write(self, lines: list[bytes], *, sync: bool) -> tuple[int, str]:
        """How many lines are written whole, and what kept the rest from it, or all from being synced."""
        written = 0
        data = b"".join(lines)
        try:
            regular = self._path is None or self._open(self._path)
            if self._torn:
                os.write(self._descriptor, b"\n")  # keeps what was cut off apart from what comes
                self._torn = False
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            if sync and self._path is not None and regular:
                _sync(self._descriptor)
        except OSError as error:
            self.failures += 1
            self.last_error = f"{self._name}: {error.strerror or error}"
            whole = data.count(b"\n", 0, written)
            self._torn = self._torn or (written > 0 and data[written - 1] != 0x0A)
            return whole, self.last_error
        return len(lines), ""

    def _open(self, path: str) -> bool:
        """Opens the file where it is not open, or was moved or deleted since. Answers whether it is a file at all."""
        try:
            there = os.stat(path)
        except FileNotFoundError:
            there = None
        if self._descriptor >= 0 and there is not None and (there.st_dev, there.st_ino) == self._inode:
            return stat.S_ISREG(there.st_mode)
        self._shut()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        found = os.fstat(self._descriptor)
        self._inode = (found.st_dev, found.st_ino)
        regular = stat.S_ISREG(found.st_mode)
        # A process that was killed may have left half a line.
        self._torn = regular and found.st_size > 0 and os.pread(self._descriptor, 1, found.st_size - 1) != b"\n"
        if there is None:
            folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)  # else a power cut may take the new file's name with it
            finally:
                os.close(folder)
        return regular

    def _shut(self) -> None:
        if self._path is not None and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _sync(descriptor: int) -> None:
    os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)


def _resolve(waiting: list[tuple[asyncio.Future[None], bool]], error: str) -> None:
    """`waiting` has for each line whether it was written, if not synced; an empty `error` says that all went well."""
    for future, written in waiting:
        if future.done():
            continue
        if error:
            future.set_exception(AuditError(error, pending=written))
        else:
            future.set_result(None)
