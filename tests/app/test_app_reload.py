"""Settings that change while calls run: in force without a restart, or not taken at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from app_support import Messages, eventually, messages

from sidecar import app
from sidecar.proxy import files
from sidecar.settings import FileWatch
from sidecar.standins import StandInCloud, StepGate
from support.process import serving
from support.raw import Answer, ask, connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, VISION_MODEL, World, merge, world

IN_FORCE = "changed settings are in force"
QUALITY = {"X-Quality-Requirement": "high"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WATCH_SECONDS", 0.02)


@asynccontextmanager
async def changing(
    folder: Path, over: Mapping[str, Any] | None = None, **how: Any
) -> AsyncIterator[tuple[World, Messages]]:
    with messages() as said:
        async with world(folder, over, **how) as here:
            yield here, said


def change(here: World, over: Mapping[str, Any]) -> None:
    here.write_settings(merge(here.settings(), over))


async def extraction(here: World, headers: Mapping[str, str] = HIGH) -> Answer:
    return await here.chat("List the towns: Ulm, Pisa.", dict(headers))


def went(answer: Answer) -> tuple[int, str | None, str | None]:
    return answer.status, answer.get("x-sidecar-location"), answer.get("x-sidecar-reason")


async def test_the_real_command_takes_a_change_up_within_its_interval(tmp_path: Path) -> None:
    async with serving(tmp_path) as (process, _, admin):
        path = tmp_path / "settings.yaml"
        settings = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(merge(settings, {"canary": {"percent": 12.5}})))
        await process.logged(IN_FORCE)
        config = (await ask(admin, "GET", "/config")).json()
        assert (config["generation"], config["settings"]["canary"]["percent"]) == (2, 12.5)
        page = (await ask(admin, "GET", "/metrics")).body.decode()
        assert "ollama_sidecar_config_reloads_total 1.0" in page
        assert 'ollama_sidecar_canary_wanted_pct{task_type="vlm"} 12.5' in page
        path.write_text("ollama_cloud: [")
        await process.logged("changed settings are not valid, the last good ones stay")
        assert await process.stop(signal.SIGINT) == 130


async def test_the_strategy_changes_with_the_next_call(tmp_path: Path) -> None:
    async with changing(tmp_path) as (here, said):
        assert went(await here.chat("Hi", QUALITY)) == (200, "local", "default_local")
        change(here, {"ollama_cloud": {"decision_strategy": "quality_optimized"}})
        await said.said(IN_FORCE)
        assert went(await here.chat("Hi", QUALITY)) == (200, "cloud", "high_quality_required")
        change(here, {"ollama_cloud": {"decision_strategy": "cost_optimized"}})
        await said.said(IN_FORCE, 2)
        assert went(await here.chat("Hi", QUALITY)) == (200, "local", "cost_optimized")


async def test_invalid_settings_are_not_taken_and_every_mistake_is_said_once(tmp_path: Path) -> None:
    async with changing(tmp_path) as (here, said):
        good = here.settings()
        change(here, {"canary": {"percent": 101}, "log": {"level": "loud"}, "listne": {}})
        for key in ("canary.percent", "log.level", "listne"):
            assert "the last good ones stay" in await said.said(f": {key}: ")
        for _ in range(5):  # it is looked at again, and not said again
            await asyncio.sleep(0.02)
        assert sum("not valid" in line for line in said.lines) == 3
        metrics = await here.metrics()
        assert metrics["ollama_sidecar_config_errors_total"] == 1
        assert metrics["ollama_sidecar_config_reloads_total"] == 0
        assert went(await extraction(here))[:2] == (200, "cloud")
        here.write_settings(good)
        await said.said("valid again, and as they were")
        change(here, {"canary": {"percent": 0}})
        await said.said(IN_FORCE)
        assert went(await extraction(here)) == (200, "local", "canary_holdback")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 3_000_000, b"[1, 2]", b"\0", None])
async def test_whatever_becomes_of_the_file_calls_go_on(tmp_path: Path, content: bytes | None) -> None:
    """An empty file is valid: all defaults. Those would be another cloud, so it is held against what was said."""
    async with changing(tmp_path) as (here, said):
        path = tmp_path / "settings.yaml"
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        await said.said("in force" if content == b"" else "the last good ones stay")
        answer = await extraction(here)
        assert answer.status == 200
        assert answer.get("x-sidecar-location") == ("local" if content == b"" else "cloud")


async def test_a_directory_that_kubernetes_swaps(tmp_path: Path) -> None:
    """A mounted ConfigMap: settings.yaml → ..data/settings.yaml, and ..data → a new directory with each change."""
    mount = tmp_path / "mount"
    mount.mkdir()

    def put(number: int, settings: Mapping[str, Any]) -> None:
        version = mount / f"..2026_{number}"
        version.mkdir()
        (version / "settings.yaml").write_text(yaml.safe_dump(dict(settings)))
        (mount / "..data_tmp").symlink_to(version.name)
        os.replace(mount / "..data_tmp", mount / "..data")

    async with changing(tmp_path) as (here, said):
        put(1, here.settings())
        (tmp_path / "settings.yaml").unlink()
        (tmp_path / "settings.yaml").symlink_to(mount / "..data" / "settings.yaml")
        put(2, merge(here.settings(), {"canary": {"percent": 0}}))
        await said.said(IN_FORCE)
        assert went(await extraction(here))[2] == "canary_holdback"
        put(3, merge(here.settings(), {"canary": {"percent": 100}}))
        await said.said(IN_FORCE, 2)
        assert went(await extraction(here))[1] == "cloud"


# The key.


def fingerprint(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


async def test_a_rotated_key_is_used_by_the_next_call_and_the_old_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    cloud = StandInCloud([TEXT_MODEL, VISION_MODEL], key=KEY, prices=PRICES)
    gate = cloud.gate = StepGate(open_through=2)
    # A file's key instead of the one of the tests' settings.
    over = {"ollama_cloud": {"api_key": None, "api_key_file": str(key_file)}}
    async with changing(tmp_path, over, cloud=cloud) as (here, said), connect(here.port) as client:
        body = b'{"model":"llama3","messages":[{"role":"user","content":"Ulm, Pisa"}]}'
        await client.send(request("POST", "/api/chat", HIGH, body))
        first = await client.head()
        old = await gate.reached(3)
        assert old.header("Authorization") == f"Bearer {KEY}"
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + 1000)
        assert (await here.metrics())["ollama_sidecar_api_key_age_seconds"] >= 1000
        cloud.key = "a-new-key-of-the-same-account"
        key_file.write_text(cloud.key)
        await said.said(IN_FORCE)
        assert (await here.metrics())["ollama_sidecar_api_key_age_seconds"] < 900
        gate.open_all()
        await client.rest(first)
        assert first.lines()[-1]["done"] is True
        assert went(await extraction(here)) == (200, "cloud", "high_quality_extraction")
        assert cloud.requests[-1].header("Authorization") == f"Bearer {cloud.key}"
    keys = [(line["action"], line["fingerprint"]) for line in here.audit() if line["event"] == "ollama_cloud_api_key"]
    assert keys == [("loaded", fingerprint(KEY)), ("rotated", fingerprint(cloud.key))]
    everything = (tmp_path / "audit.log").read_text() + (tmp_path / "sidecar.log").read_text() + "".join(said.lines)
    assert KEY not in everything
    assert cloud.key not in everything


async def test_a_change_that_is_not_the_keys_does_not_reset_its_age(tmp_path: Path) -> None:
    async with changing(tmp_path) as (here, said):
        since = here.sidecar._key_since
        change(here, {"canary": {"percent": 50}})
        await said.said(IN_FORCE)
        change(here, {"ollama_cloud": {"enabled": False}})
        await said.said(IN_FORCE, 2)
        assert went(await extraction(here)) == (200, "local", "cloud_disabled")
        change(here, {"ollama_cloud": {"enabled": True}})
        await said.said(IN_FORCE, 3)
        assert here.sidecar._key_since == since
    assert [line["action"] for line in here.audit() if line["event"] == "ollama_cloud_api_key"] == ["loaded"]


async def test_a_key_that_goes_and_comes_back_is_no_rotation(tmp_path: Path) -> None:
    async with changing(tmp_path) as (here, said):
        change(here, {"ollama_cloud": {"api_key": None}})
        await said.said(IN_FORCE)
        assert went(await extraction(here)) == (200, "local", "cloud_disabled")
        change(here, {"ollama_cloud": {"api_key": KEY}})
        await said.said(IN_FORCE, 2)
        assert went(await extraction(here))[:2] == (200, "cloud")
    assert [line["action"] for line in here.audit() if line["event"] == "ollama_cloud_api_key"] == ["loaded"]


async def test_the_cloud_is_switched_on_by_a_key_file_that_is_named_later_and_rotated_then(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    async with changing(tmp_path, {"ollama_cloud": {"api_key": None}}) as (here, said):
        assert here.sidecar.services.door is None
        assert went(await extraction(here)) == (200, "local", "cloud_disabled")
        # The settings come before the key, as two objects of a cluster may: heard of, and mended by the file alone.
        change(here, {"ollama_cloud": {"api_key_file": str(key_file)}})
        await said.said("ollama_cloud.api_key_file")
        key_file.write_text(KEY)
        await said.said(IN_FORCE)
        assert went(await extraction(here)) == (200, "cloud", "high_quality_extraction")
        here.cloud.key = "rotated-key"
        key_file.write_text("rotated-key")
        await said.said(IN_FORCE, 2)
        assert went(await extraction(here)) == (200, "cloud", "high_quality_extraction")
    actions = [line["action"] for line in here.audit() if line["event"] == "ollama_cloud_api_key"]
    assert actions == ["loaded", "rotated"]


# The budget.


async def test_caps_are_lowered_and_raised(tmp_path: Path) -> None:
    async with changing(tmp_path) as (here, said):
        assert went(await extraction(here))[1] == "cloud"
        limits = {"cost_limits": {"daily_budget_usd": 0}}
        change(here, {"ollama_cloud": limits})
        await said.said(IN_FORCE)
        assert went(await extraction(here)) == (200, "local", "budget_exceeded")
        change(here, {"ollama_cloud": {"cost_limits": {"daily_budget_usd": 5}}})
        await said.said(IN_FORCE, 2)
        assert went(await extraction(here)) == (200, "cloud", "high_quality_extraction")


# What waits for a restart.


async def test_settings_that_wait_for_a_restart_are_named_and_those_that_do_not_are_not(tmp_path: Path) -> None:
    async with changing(tmp_path) as (here, said):
        before = here.settings()
        change(
            here,
            {
                "listen": {"data": ["127.0.0.1:1"], "drain_seconds": 2, "hosts": ["app.example"]},
                "local": {"max_concurrent": 1, "models": {"generation": "llava"}},
                "budget": {"wait_ms": 77},
                "audit": {"path": str(tmp_path / "other.log")},
                "canary": {"percent": 99},
            },
        )
        named = await said.said("take a restart")
        assert named.endswith("take a restart: listen.data, local.max_concurrent, budget.wait_ms, audit.path")
        assert (await ask(here.admin, "GET", "/config")).json()["restart_needed"] == named.split(": ")[1].split(", ")
        # These were in the same file and are in force.
        assert (await ask(here.port, "GET", "/", {"Host": "app.example"})).status == 200
        chat = {"model": f"{TEXT_MODEL}-cloud", "messages": [{"role": "user", "content": "mail a@example.com"}]}
        answer = await here.post("/api/chat", chat)
        assert went(answer) == (200, "local", "sensitive_data")
        assert answer.get("x-sidecar-model") == "llava"
        here.write_settings(before)
        await said.said(IN_FORCE, 2)
        assert sum("take a restart" in line for line in said.lines) == 1, "back at what is in force, nothing waits"


async def test_the_size_of_a_body_and_the_log_level_change_without_a_restart(tmp_path: Path) -> None:
    async with changing(tmp_path) as (here, _):
        long = "x" * 2_000_000
        assert (await here.chat(long)).status == 200
        change(here, {"listen": {"max_inference_body_mb": 1}, "log": {"level": "warning"}})
        await _metric(here, "ollama_sidecar_config_reloads_total", 1)
        assert (await here.chat(long)).status == 413
        change(here, {"log": {"level": "info"}})
        await _metric(here, "ollama_sidecar_config_reloads_total", 2)
        assert (await here.chat("Hi")).status == 200
    assert [line["status"] for line in here.log() if line["event"] == "call"] == [200, 200]


async def _metric(here: World, name: str, value: float) -> None:
    async with asyncio.timeout(20):
        while (await here.metrics())[name] != value:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# Under load.


async def test_calls_during_reloads_never_fail(tmp_path: Path) -> None:
    over = {"local": {"models": {"generation": "llama3"}}}
    async with changing(tmp_path, over) as (here, said):
        stop = asyncio.Event()
        answers: list[tuple[int, str | None, str | None]] = []

        async def call() -> None:
            while not stop.is_set():
                answers.extend([went(await extraction(here, headers)) for headers in (HIGH, {})])
                answers.append(went(await here.chat("List the towns.", model=f"{TEXT_MODEL}-cloud")))

        calls = [asyncio.create_task(call()) for _ in range(4)]
        try:
            for number in range(1, 16):
                change(
                    here,
                    {
                        "ollama_cloud": {
                            "max_output_tokens": 1000 + number,
                            "decision_strategy": ("hybrid", "quality_optimized", "cost_optimized")[number % 3],
                        }
                    },
                )
                await said.said(IN_FORCE, number)
        finally:
            stop.set()
            await asyncio.gather(*calls)
        assert {status for status, _, _ in answers} == {200}
        assert {location for _, location, _ in answers} == {"local", "cloud"}
        assert here.booked >= here.cloud.billed_micro_usd > 0


async def test_the_watch_outlives_an_error_that_nobody_thought_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with changing(tmp_path) as (here, said):
        changed, broken = FileWatch.changed, [True]

        def fails_once(watch: FileWatch) -> bool:
            if broken and broken.pop():
                raise RuntimeError("canary-text")
            return changed(watch)

        monkeypatch.setattr(FileWatch, "changed", fails_once)
        await said.said("could not be taken")
        change(here, {"canary": {"percent": 0}})
        await said.said(IN_FORCE)
        assert (await here.metrics())["ollama_sidecar_config_errors_total"] == 1


async def test_a_reload_keeps_within_the_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (300, 300))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    async with world(tmp_path, {"listen": {"max_connections": 1000}}) as here:
        before = here.sidecar.data.limits.connections
        assert before == (300 - files.RESERVED) // 2
        settings = here.settings()
        settings["listen"]["body_idle_timeout_seconds"] = 77
        here.write_settings(settings)
        await eventually(lambda: here.sidecar.data.limits.body_idle_seconds == 77)
        assert here.sidecar.data.limits.connections == before
