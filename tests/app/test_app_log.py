"""What the running command writes to stderr, stdout and the audit log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar import app
from sidecar.standins import StandInCloud, StandInModel, StandInOllama, StepGate, faults
from sidecar.telemetry.log import LineWriter
from support.process import free_port, listens, serving, settings_file, started
from support.raw import ask, connect, request
from support.world import PRICES, TEXT_MODEL, VISION_MODEL

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
CANARY = "canary-7f3a"
KEY = f"{CANARY}-key"
HIGH = {"X-Quality-Requirement": "high"}
ALWAYS = {
    *(
        "time",
        "level",
        "event",
        "request_id",
        "trace_id",
        "route",
        "status",
        "outcome",
        "location",
        "model",
        "reason",
    ),
    *("confidence", "strategy", "stream", "tokens_in", "tokens_out", "cost_usd", "duration_ms", "first_byte_ms"),
    "bytes_out",
}
READ = {
    *("task_id", "task_type", "complexity", "quality", "latency_requirement_ms", "classification"),
    "classification_source",
}


def chat(text: str = f"List the towns: {CANARY}.", **more: Any) -> bytes:
    body = {"model": "llama3", "messages": [{"role": "user", "content": text}], "stream": False, **more}
    return json.dumps(body).encode()


async def test_one_line_per_inference_call_and_no_word_of_it(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {f"{CANARY}-key": {"type": "string"}}}
    secret = {"Authorization": f"Bearer {CANARY}-app", "Cookie": f"s={CANARY}", "X-Other": CANARY}
    cloud = StandInCloud([TEXT_MODEL, VISION_MODEL], key=KEY, prices=PRICES)
    async with StandInOllama([StandInModel("llama3:latest")]) as local, cloud:
        over = {
            "local": {"base_url": local.base_url},
            "ollama_cloud": {"api_key": KEY, "base_url": cloud.base_url},
            "listen": {"max_inference_body_mb": 1},
            "audit": {"stdout": True},
        }
        async with serving(tmp_path, over) as (process, port, _):
            calls: list[tuple[str, dict[str, str], bytes]] = [
                (f"/api/chat?token={CANARY}", secret, chat()),
                ("/api/chat", {**secret, **HIGH}, chat(format=schema)),
                ("/api/chat", HIGH, chat(f"mail {CANARY}@example.com and DE89370400440532013000", format=schema)),
                ("/api/chat", {}, f"{CANARY} is no JSON".encode()),
                ("/api/chat", {}, chat("x" * 1_100_000)),
                ("/api/chat", {}, chat(model=f"{CANARY} with blanks")),
                ("/api/chat", {}, chat(model="\ud800:cloud")),
                ("/api/chat", {}, chat(model="no-such-model:1b-cloud")),
                ("/v1/messages", {"X-Quality-Requirement": CANARY, "X-Complexity": CANARY}, chat(max_tokens=9)),
                ("/api/embed", {"Content-Encoding": "gzip"}, CANARY.encode()),
            ]
            statuses = [(await ask(port, "POST", *call)).status for call in calls]
            cloud.misbehave = [faults.Status(503, message=f"{CANARY} says the cloud")]
            statuses.append((await ask(port, "POST", "/api/chat", HIGH, chat(format=schema))).status)
            for method, path in (("GET", "/"), ("GET", f"/api/tags?{CANARY}"), ("DELETE", "/api/delete")):
                await ask(port, method, path, secret)
            events = await process.calls(len(calls) + 1)
            assert await process.stop() == 0
        assert len(process.events("call")) == len(calls) + 1, "what is no inference has no line"
        assert [event["status"] for event in events] == statuses
    out = "\n".join((*process.lines, *process.out, (tmp_path / "state" / "audit.log").read_text()))
    assert CANARY not in out
    assert all(line.startswith("{") for line in process.lines)
    for event in process.events():
        assert STAMP.fullmatch(event["time"])
        assert {"level", "event"} <= set(event)
    for event in events:
        assert set(event) >= ALWAYS
        if event["outcome"] == "ok":
            assert set(event) >= READ
    by_reason = [event["reason"] for event in events]
    assert by_reason[:4] == ["default_local", "high_quality_extraction", "sensitive_data", "unreadable_body"]
    assert events[2]["findings"]
    assert sorted(events[8]["invalid_headers"]) == ["X-Complexity", "X-Quality-Requirement"]
    assert events[-1]["decided"] == {"location": "cloud", "reason": "high_quality_extraction"}
    # stdout has the audit lines, and nothing else.
    audited = [json.loads(line) for line in process.out]
    kinds = {line["event"] for line in audited}
    assert kinds >= {"ollama_cloud_api_key", "ollama_cloud_intent", "ollama_cloud_execution"}
    assert all(kind.startswith("ollama_cloud_") for kind in kinds)
    assert process.out == (tmp_path / "state" / "audit.log").read_text().splitlines()


async def test_a_client_that_leaves_and_an_upstream_that_breaks_have_their_line_too(tmp_path: Path) -> None:
    async with StandInOllama([StandInModel("llama3:latest")]) as local:
        gate = local.gate = StepGate(open_through=2)
        async with serving(tmp_path, {"local": {"base_url": local.base_url}}) as (process, port, _):
            async with connect(port) as client:
                await client.send(request("POST", "/api/chat", {}, chat(stream=True)))
                await gate.reached(3)
                client.leave()
            assert (await process.calls(1))[0]["outcome"] == "client_disconnect"
            gate.open_all()
            local.misbehave = [faults.Cut("mid_record", after_writes=1)]
            await ask(port, "POST", "/api/chat", {}, chat(stream=True))
            assert (await process.calls(2))[1]["outcome"] == "broken"
    assert CANARY not in "\n".join(process.lines)


async def test_at_a_higher_level_only_what_matters_is_said(tmp_path: Path) -> None:
    port = free_port()
    async with StandInOllama([StandInModel("llama3:latest")]) as local:
        over = {
            "listen": {"data": [f"127.0.0.1:{port}"]},
            "local": {"base_url": local.base_url},
            "log": {"level": "error"},
        }
        path = settings_file(tmp_path, over)
        async with started("serve", "--config", str(path), home=tmp_path) as process:
            await listens(port)
            assert (await ask(port, "POST", "/api/chat", {}, chat())).status == 200
            path.write_text("canary: {percent: 200}")
            await process.logged("changed settings are not valid")
            assert await process.stop() == 0
            assert [event["level"] for event in process.events()] == ["error"]


# What nobody catches.


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    """A file for what the process would write to stderr; all that `_log_to` changes is put back."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    try:
        yield tmp_path / "stderr"
    finally:
        root.handlers[:], root.level = handlers, level
        threading.excepthook = hook
        logging.captureWarnings(capture=False)


async def test_what_nobody_catches_is_a_line_with_type_and_place_and_without_its_text(written: Path) -> None:
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    out, loop = LineWriter(descriptor), asyncio.get_running_loop()
    app._log_to(out, logging.INFO, loop)

    def fails(_: str) -> None:
        raise ValueError(CANARY)

    loop.call_soon(fails, CANARY)
    loop.call_exception_handler({"message": f"Task exception <{CANARY}>", "future": CANARY})
    thread = threading.Thread(target=fails, args=(CANARY,))
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("a library says so", DeprecationWarning, stacklevel=1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    out.close()
    os.close(descriptor)
    with open(written, encoding="utf-8") as file:  # noqa: ASYNC230
        text = file.read()
    events = [json.loads(line) for line in text.splitlines()]
    assert CANARY not in text
    assert [event.get("exception") for event in events].count("ValueError") == 2
    assert {event["level"] for event in events} == {"error", "warning"}
    assert sum("fails" in place for event in events for place in event.get("at", ())) == 2
    assert any("a library says so" in event["message"] for event in events)
