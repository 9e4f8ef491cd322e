"""The audit log: on disk before the call leaves, one outcome behind each intent, and no cloud without it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_support import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    FIELDS,
    LOCAL_MODEL,
    Dialect,
    books,
    check_audit,
    door,
    high,
    went,
)

from sidecar.core.record import Attempt, CallRecord
from sidecar.standins import StandInCloud, faults
from sidecar.telemetry import audit
from sidecar.telemetry.audit import AuditError, AuditLog
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, VISION_MODEL, World, world

EXECUTION_FIELDS = FIELDS | {
    *("tokens_used", "tokens_in", "tokens_out", "cost_usd", "latency_ms", "outcome", "status", "reserved_usd"),
}


class Watching(StandInCloud):
    """Reads the audit log when a call arrives."""

    def __init__(self, path: Path, **more: Any) -> None:
        super().__init__([TEXT_MODEL, VISION_MODEL], key=KEY, prices=PRICES, **more)
        self.path = path
        self.seen: list[list[dict[str, Any]]] = []
        self.misbehave = self._look

    def _look(self, _: object) -> None:
        self.seen.append([json.loads(line) for line in self.path.read_text().splitlines()])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_the_intent_is_on_disk_when_the_call_arrives(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    cloud = Watching(tmp_path / "audit.log")
    headers = {
        **HIGH,
        "X-Request-Id": "r-7",
        "X-Task-Id": "t-8",
        "X-User-Id": "u-9",
        "X-Data-Classification": "internal",
    }
    async with books(tmp_path, cloud=cloud) as here:
        answer = await here.post(dialect.path, dialect.body("Hello", stream=stream), headers)
        assert went(answer)[0] == "cloud"
    (seen,) = cloud.seen
    intent, outcome = (line for line in here.audit() if line["event"] != "ollama_cloud_api_key")
    assert seen[-1] == intent
    assert set(intent) == FIELDS | {"user_id", "reserved_usd"}
    assert set(outcome) == EXECUTION_FIELDS | {"user_id"}
    assert (intent["event"], outcome["event"]) == ("ollama_cloud_intent", "ollama_cloud_execution")
    for line in (intent, outcome):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
        assert {name: line[name] for name in FIELDS - {"timestamp", "event", "trace_id"}} == {
            "request_id": "r-7",
            "task_id": "t-8",
            "task_type": "extraction",
            "data_classification": "internal",
            "cloud_model": TEXT_MODEL,
            "decision_reason": "high_quality_extraction",
        }
        assert line["user_id"] == "u-9"
        assert line["trace_id"] == answer.get("x-sidecar-trace-id")
    assert intent["timestamp"] < outcome["timestamp"]
    assert outcome["latency_ms"] >= 0
    assert outcome["tokens_used"] == outcome["tokens_in"] + outcome["tokens_out"] > 0
    assert 0 < outcome["cost_usd"] <= intent["reserved_usd"]


async def test_a_user_who_is_not_named_is_not_in_it(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        await high(here, CHAT)
    assert all("user_id" not in line for line in here.audit())


async def test_calls_that_a_gate_kept_from_the_cloud(tmp_path: Path) -> None:
    over = {"ollama_cloud": {"models": {"vision_cloud": TEXT_MODEL}}, "canary": {"by_task_type": {"generation": 0}}}
    async with books(tmp_path, over) as here:
        await here.chat("Hello", {"X-Data-Classification": "pii"}, model=f"{TEXT_MODEL}-cloud")
        await here.chat("Hello", {**HIGH, "X-Data-Classification": "pii"})  # its strategy did not want it there
        await here.chat("Hello", {**HIGH, "X-Request-Id": "no model", "X-Cloud-Model": "unheard-of:7b"})
        await here.post("/api/embed", {"model": f"{TEXT_MODEL}-cloud", "input": "x"}, {"X-User-Id": "u"})
        await here.chat("Hello", {"X-Task-Type": "vlm", "X-Quality-Requirement": "high", "X-Request-Id": "fine"})
        await here.chat("Hello")  # nobody wanted it in the cloud
    denied = [line for line in here.audit() if line["event"] == "ollama_cloud_denied"]
    assert [(line["gate"], line["decision_reason"], line["cloud_model"]) for line in denied] == [
        ("sensitive_data", "cloud_model_requested", TEXT_MODEL),
        ("no_cloud_model", "high_quality_extraction", ""),
        ("local_only_operation", "cloud_model_requested", TEXT_MODEL),
    ]
    assert denied[0]["data_classification"] == "pii"
    assert denied[2]["user_id"] == "u"
    assert set(denied[0]) == FIELDS | {"gate"}


# A log that cannot be written.


def at(path: str) -> dict[str, Any]:
    return {"audit": {"path": path}}


@pytest.mark.parametrize("path", ["/dev/full", "/proc/nowhere/audit.log", "/proc/version"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_a_disk_that_takes_nothing_closes_the_cloud(tmp_path: Path, dialect: Dialect, path: str) -> None:
    async with world(tmp_path, at(path)) as here:
        for stream in (False, True):
            answer = await high(here, dialect, stream=stream)
            assert went(answer) == ("local", LOCAL_MODEL, "cloud_unavailable")
            assert dialect.whole(answer)
        assert not here.cloud.requests
        services = here.sidecar.services
        assert services.keeper is not None
        assert services.keeper.standing.reserved == services.keeper.standing.settled == 0
        assert not services.office._open, "a permit that nobody can use is kept for ever"
        assert door(here).breaker.state(0) == "closed", "the cloud is not to blame"
        page = await here.metrics()
        assert page["ollama_sidecar_audit_failures"] >= 2
        assert page['ollama_sidecar_denials_total{gate="cloud_unavailable"}'] == 2
    errors = [line for line in here.log() if line["event"] == "call"]
    assert all(path in line["detail"] for line in errors)


async def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    async with world(tmp_path, at(str(tmp_path / "audit.log"))) as here:
        assert went(await high(here, CHAT)) == ("local", LOCAL_MODEL, "cloud_unavailable")
        (tmp_path / "audit.log").rmdir()
        assert went(await high(here, CHAT))[0] == "cloud"
    check_audit(here)


class Disk:
    """`os.write` and `os.fdatasync` of the audit log, to be told what to do. Other files are left alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 10**9
        self.sync_error = 0
        self.syncs = 0
        self.descriptors: set[int] = set()
        write, sync = os.write, os.fdatasync

        def limited(descriptor: int, data: bytes) -> int:
            if not self._is_ours(descriptor):
                return write(descriptor, data)
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(descriptor, bytes(data)[: self.room])
            self.room -= written
            return written

        def synced(descriptor: int) -> None:
            self.syncs += 1
            if self.sync_error:
                raise OSError(self.sync_error, os.strerror(self.sync_error))
            sync(descriptor)

        monkeypatch.setattr(os, "write", limited)
        monkeypatch.setattr(os, "fdatasync", synced)

    @staticmethod
    def _is_ours(descriptor: int) -> bool:
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}").endswith("audit.log")
        except OSError:
            return False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(audit, "RETRY_SECONDS", 0.01)
    yield Disk(monkeypatch)
    monkeypatch.undo()


async def test_a_disk_that_fills_up_while_a_call_is_under_way_loses_no_outcome(tmp_path: Path, disk: Disk) -> None:
    filled = asyncio.Event()

    class Filling(faults.Fault):
        async def before(self, exchange: Any) -> None:
            disk.room = 0
            filled.set()

    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, misbehave=[Filling()])
    async with books(tmp_path, cloud=cloud) as here:
        assert went(await high(here, CHAT))[0] == "cloud"
        assert filled.is_set()
        # Now the log is full: its outcome waits, and the next call stays here.
        assert went(await high(here, CHAT)) == ("local", LOCAL_MODEL, "cloud_unavailable")
        assert len(cloud.requests) == 1
        disk.room = 10**9
        assert went(await high(here, CHAT))[0] == "cloud"
    events = [line["event"].removeprefix("ollama_cloud_") for line in here.audit()]
    assert events[0] == "api_key"
    assert sorted(events[1:]) == ["denied", "execution", "execution", "intent", "intent"]


@pytest.mark.parametrize("room", [1, 40, 180])
async def test_half_a_line_is_kept_apart_from_the_next_one(tmp_path: Path, disk: Disk, room: int) -> None:
    async with world(tmp_path) as here:
        await high(here, CHAT)
        assert here.sidecar.services.audit is not None
        disk.room = room
        assert went(await high(here, CHAT))[0] == "local"
        disk.room = 10**9
        assert went(await high(here, CHAT))[0] == "cloud"
    torn = []
    for line in (tmp_path / "audit.log").read_text().splitlines():
        try:
            json.loads(line)
        except ValueError:
            torn.append(line)
    assert len(torn) <= 2
    assert all(len(line) <= room for line in torn)


async def test_half_a_line_of_a_process_that_was_killed_is_kept_apart_too(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_text('{"event":"ollama_cloud_int')
    async with world(tmp_path) as here:
        await high(here, CHAT)
    first, *others = (tmp_path / "audit.log").read_text().splitlines()
    assert first == '{"event":"ollama_cloud_int'
    assert [json.loads(line)["event"] for line in others] == [
        "ollama_cloud_api_key",
        "ollama_cloud_intent",
        "ollama_cloud_execution",
    ]


async def test_a_disk_that_cannot_sync_closes_the_cloud(tmp_path: Path, disk: Disk) -> None:
    disk.sync_error = errno.EIO
    async with books(tmp_path) as here:
        assert went(await high(here, CHAT)) == ("local", LOCAL_MODEL, "cloud_unavailable")
        assert not here.cloud.requests
        disk.sync_error = 0
        assert went(await high(here, CHAT))[0] == "cloud"


async def test_calls_at_once_share_a_sync(tmp_path: Path, disk: Disk) -> None:
    async with books(tmp_path) as here:
        await high(here, CHAT)
        before = disk.syncs
        answers = await asyncio.gather(*(high(here, CHAT, f"Call {number}") for number in range(40)))
        assert all(went(answer)[0] == "cloud" for answer in answers)
        assert 1 <= disk.syncs - before <= 40
        assert len(here.cloud.requests) == 41


async def test_a_disk_that_hangs_does_not_hang_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.05)
    goes_on = threading.Event()
    put = AuditLog._put

    def slow(log: AuditLog, batch: Any) -> Any:
        goes_on.wait(10)
        return put(log, batch)

    monkeypatch.setattr(AuditLog, "_put", slow)
    async with books(tmp_path) as here:
        answer = await high(here, CHAT, stream=True)
        assert went(answer) == ("local", LOCAL_MODEL, "cloud_unavailable")
        assert CHAT.whole(answer)
        assert not here.cloud.requests
        goes_on.set()
        monkeypatch.setattr(audit, "WAIT_SECONDS", 5.0)
        assert went(await high(here, CHAT))[0] == "cloud"
    outcomes = [line["outcome"] for line in here.audit() if line["event"] == "ollama_cloud_execution"]
    assert outcomes == ["held", "ok"], "the intent that came late has its outcome, too"


async def test_a_log_that_is_moved_away_or_deleted_is_begun_anew(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await high(here, CHAT)
        (tmp_path / "audit.log").rename(tmp_path / "audit.log.1")
        cloud_saw = here.cloud.misbehave = Looking(tmp_path / "audit.log")
        assert went(await high(here, CHAT))[0] == "cloud"
        (tmp_path / "audit.log").unlink()
        assert went(await high(here, CHAT))[0] == "cloud"
        assert cloud_saw.lines == ["ollama_cloud_intent", "ollama_cloud_intent"]
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


class Looking:
    """The event of the log's last line, at each call that arrives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []

    def __call__(self, asked: Any) -> None:
        if asked.method == "POST":
            self.lines.append(json.loads(self.path.read_text().splitlines()[-1])["event"])


async def test_standard_output_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`path: "-"`: written before the call leaves, to file descriptor 1."""
    seen: list[str] = []

    def look(asked: Any) -> None:
        if asked.method == "POST":
            seen.append(capfd.readouterr().out)

    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, misbehave=look)
    async with world(tmp_path, {"audit": {"path": "-", "stdout": True}}, cloud=cloud) as here:
        assert went(await high(here, CHAT))[0] == "cloud"
    lines = [json.loads(line) for line in seen[0].splitlines()]
    assert [line["event"] for line in lines] == ["ollama_cloud_api_key", "ollama_cloud_intent"]
    (outcome,) = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert outcome["event"] == "ollama_cloud_execution"


async def test_a_closed_standard_output_closes_the_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(audit, "_STDOUT", writing)
    try:
        async with world(tmp_path, {"audit": {"path": "-", "stdout": True}}) as here:
            assert went(await high(here, CHAT)) == ("local", LOCAL_MODEL, "cloud_unavailable")
            assert not here.cloud.requests
    finally:
        os.close(writing)


async def test_beside_the_file_each_line_goes_to_standard_output_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with world(tmp_path, {"audit": {"stdout": True}}) as here:
        await high(here, CHAT)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert lines == here.audit()


async def test_more_lines_than_can_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_KEPT", 3)
    log = AuditLog("/dev/full", None)
    record, attempt = CallRecord("r", "t", "/api/chat", "ollama", 0.0), Attempt("cloud", TEXT_MODEL)
    for _ in range(10):
        log.execution(record, attempt, 0.1)
    with pytest.raises(AuditError):
        await log.intent(record, attempt)
    log.close()
    assert log.lost == 7


async def test_every_try_of_a_random_afternoon_has_its_two_lines(tmp_path: Path) -> None:
    """`books` compares; here are the outcomes that there are."""
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    async with books(tmp_path, {"ollama_cloud": {"breaker": {"failures": 99}}}, cloud=cloud) as here:
        cloud.misbehave = [
            None,
            faults.Status(500),
            faults.Cut("before_head"),
            faults.Garbage(),
            faults.NoFinalRecord(),
            faults.ErrorRecord(0),
            faults.ErrorRecord(1),
        ]
        for _ in range(7):
            await high(here, ANTHROPIC, stream=True)
        await cloud.close()
        await high(here, ANTHROPIC, stream=True)
    outcomes = [
        (line["outcome"], line["status"]) for line in here.audit() if line["event"] == "ollama_cloud_execution"
    ]
    assert outcomes == [
        ("ok", 200),
        ("status", 500),
        ("lost", 0),
        ("protocol", 0),
        ("incomplete", 200),
        ("error_record", 200),
        ("error_record", 200),
        ("connect", 0),
    ]


async def test_no_line_holds_anything_of_the_prompt(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        await _ask_for_it(here)
    assert "turquoise" not in (tmp_path / "audit.log").read_text()


async def _ask_for_it(here: World) -> None:
    for headers in (HIGH, {**HIGH, "X-Data-Classification": "pii"}):
        for dialect in DIALECTS:
            body = dialect.body("turquoise", tools=[{"type": "function", "function": {"name": "turquoise"}}])
            await here.post(dialect.path, body, headers)
