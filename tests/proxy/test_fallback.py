"""From the cloud to the local model or to a refusal: the breaker, the pause after a 429, what the settings want."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cloud_support import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    LOCAL_MODEL,
    OPENAI,
    Dialect,
    books,
    door,
    high,
    keeper,
    settled,
    until,
    went,
)

from sidecar.http1 import parse_response_head
from sidecar.standins import StandInCloud, StepGate, faults
from sidecar.stores.keeper import StoreError
from sidecar.upstream.breaker import CLOSED
from sidecar.upstream.cloud import RATE_MOST_SECONDS, RETRY_AFTER_MOST_SECONDS
from support.raw import connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, World, merge

BREAKER = {"ollama_cloud": {"breaker": {"failures": 3, "open_seconds": 30}}}


def a_cloud(**more: Any) -> StandInCloud:
    return StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, **more)


# The breaker. (By itself: tests/upstream/test_breaker.py.)


async def open_circuit(here: World) -> None:
    """Three failures, then the time that the circuit rests."""
    here.cloud.misbehave = [faults.Cut("before_work")] * 3
    for _ in range(3):
        assert went(await high(here, CHAT)) == ("local", LOCAL_MODEL, "cloud_unavailable")
    assert len(here.cloud.requests) == 3


def rested(here: World) -> None:
    breaker = door(here).breaker
    assert breaker._opened_at is not None
    breaker._opened_at -= 30


async def test_an_open_circuit_sends_nothing_and_one_good_probe_closes_it(tmp_path: Path) -> None:
    async with books(tmp_path, BREAKER, cloud=a_cloud()) as here:
        await open_circuit(here)
        for dialect in DIALECTS:
            answer = await high(here, dialect, stream=True)
            assert went(answer) == ("local", LOCAL_MODEL, "cloud_unavailable")
            assert dialect.whole(answer)
        assert len(here.cloud.requests) == 3
        assert (await here.metrics())['ollama_sidecar_breaker_state{state="open"}'] == 1
        rested(here)
        assert (await here.metrics())['ollama_sidecar_breaker_state{state="half_open"}'] == 1
        assert went(await high(here, CHAT))[0] == "cloud"
        assert (await here.metrics())['ollama_sidecar_breaker_state{state="closed"}'] == 1
        assert went(await high(here, CHAT))[0] == "cloud"


async def test_many_calls_at_once_are_one_probe(tmp_path: Path) -> None:
    async with books(tmp_path, BREAKER, cloud=a_cloud()) as here:
        await open_circuit(here)
        rested(here)
        gate = here.cloud.gate = StepGate()
        calls = [asyncio.create_task(high(here, CHAT, f"Call {number}")) for number in range(20)]
        await gate.reached(0)
        done, pending = set(calls), set()
        while len(pending := {call for call in calls if not call.done()}) > 1:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        assert len(here.cloud.requests) == 4
        assert done
        gate.open_all()
        places = [went(await call)[0] for call in calls]
        assert (places.count("cloud"), places.count("local")) == (1, 19)


async def test_a_failed_probe_opens_the_circuit_again(tmp_path: Path) -> None:
    async with books(tmp_path, BREAKER, cloud=a_cloud()) as here:
        await open_circuit(here)
        rested(here)
        here.cloud.misbehave = [faults.Status(503)]
        for _ in range(3):
            assert went(await high(here, CHAT))[0] == "local"
        assert len(here.cloud.requests) == 4


async def test_a_probe_whose_client_leaves_makes_room_for_the_next(tmp_path: Path) -> None:
    async with books(tmp_path, BREAKER, cloud=a_cloud()) as here:
        await open_circuit(here)
        rested(here)
        gate = here.cloud.gate = StepGate()
        async with connect(here.port) as client:
            await client.send(request("POST", CHAT.path, HIGH, b'{"model":"llama3","messages":[{"content":"x"}]}'))
            got = await gate.reached(0)
            client.leave()
        await got.finished.wait()
        gate.open_all()
        await until(lambda: not door(here).breaker._probe, "the probe's end")
        assert went(await high(here, CHAT))[0] == "cloud"


async def test_while_a_probes_long_answer_runs_others_may_go(tmp_path: Path) -> None:
    async with books(tmp_path, BREAKER, cloud=a_cloud()) as here:
        await open_circuit(here)
        rested(here)
        gate = here.cloud.gate = StepGate(open_through=2)
        probe = asyncio.create_task(high(here, CHAT, stream=True))
        await gate.reached(3)
        await until(lambda: door(here).breaker.state(0) == CLOSED, "the circuit's end")
        second = asyncio.create_task(high(here, CHAT, stream=True))
        await gate.reached(3, nth=2)
        gate.open_all()
        assert went(await probe)[0] == went(await second)[0] == "cloud"


async def test_a_status_that_is_the_calls_own_fault_is_no_failure(tmp_path: Path) -> None:
    async with books(tmp_path, BREAKER, cloud=a_cloud()) as here:
        here.cloud.misbehave = [faults.Status(status) for status in (400, 404, 422, 413, 404, 400)]
        for _ in range(6):
            assert went(await high(here, CHAT)) == ("local", LOCAL_MODEL, "cloud_unavailable")
        assert len(here.cloud.requests) == 6
        # A probe that hears it knows that the cloud is there.
        await open_circuit_from(here, 6)
        rested(here)
        here.cloud.misbehave = [faults.Status(404)]
        await high(here, CHAT)
        assert door(here).breaker.state(0) == CLOSED
        assert went(await high(here, CHAT))[0] == "cloud"


async def open_circuit_from(here: World, sent: int) -> None:
    here.cloud.misbehave = [faults.Cut("before_work")] * 3
    for _ in range(3):
        await high(here, CHAT)
    assert len(here.cloud.requests) == sent + 3


# The pause after a 429.


@pytest.mark.parametrize("value", [60, "soon", "\xb2", "a date"])
async def test_a_429_is_a_pause_for_all_calls(tmp_path: Path, value: object) -> None:
    told = value in (60, "a date")
    if value == "a date":
        value = formatdate(time.time() + 60, usegmt=True)
    cloud = a_cloud(misbehave=[faults.Status(429, retry_after=value)])  # type: ignore[arg-type]
    async with books(tmp_path, cloud=cloud) as here:
        for dialect in (CHAT, OPENAI, ANTHROPIC):
            answer = await high(here, dialect, stream=True)
            assert went(answer) == ("local", LOCAL_MODEL, "rate_limited")
            assert dialect.whole(answer)
        assert len(cloud.requests) == 1
        page = await here.metrics()
        assert page["ollama_sidecar_rate_limited"] == 1
        assert page['ollama_sidecar_fallbacks_total{reason="rate_limited"}'] == 1
        assert page['ollama_sidecar_denials_total{gate="rate_limited"}'] == 2
        assert page['ollama_sidecar_breaker_state{state="closed"}'] == 1
        left = door(here)._rate_until - asyncio.get_running_loop().time()
        assert (30 < left <= 60) if told else (0 < left <= 2)
        door(here)._rate_until -= 61
        assert went(await high(here, CHAT))[0] == "cloud"
        assert settled(here) == cloud.billed_micro_usd


async def test_pauses_grow_with_each_refusal_in_a_row_and_calls_refused_together_count_once(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        told = parse_response_head(b"HTTP/1.1 429 Too Many Requests\r\n\r\n")
        hour = parse_response_head(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\n\r\n")
        second = parse_response_head(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n\r\n")
        week = parse_response_head(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 604800\r\n\r\n")
        found = door(here)
        now = asyncio.get_running_loop().time

        def pause() -> float:
            return round(found._rate_until - now(), 6)

        for most in (2, 4, 8, 16):
            for _ in range(10):
                found.refused(told)
            assert most - 1 < pause() <= most
            found._rate_until = now()
        for _ in range(20):
            found.refused(told)
            found._rate_until -= 2 * RATE_MOST_SECONDS
        found.refused(told)
        assert RATE_MOST_SECONDS - 1 < pause() <= RATE_MOST_SECONDS
        found.refused(hour)
        found.refused(second)  # whoever asks for less does not shorten what was asked for
        assert 3599 < pause() <= 3600
        found.refused(week)
        assert RETRY_AFTER_MOST_SECONDS - 1 < pause() <= RETRY_AFTER_MOST_SECONDS
        found.succeeded()
        found._rate_until = now()
        found.refused(told)
        assert 1 < pause() <= 2


# What the settings want instead of the local model.


def fallback(**wanted: str) -> dict[str, Any]:
    return {"ollama_cloud": {"fallback": wanted, "breaker": {"failures": 2}}}


def check_refusal(dialect: Dialect, answer: Any, status: int, reason: str) -> None:
    assert answer.status == status
    assert went(answer) == ("none", None, reason)
    assert answer.get("x-request-id")
    assert answer.get("content-type") == "application/json"
    assert reason in dialect.message(answer.json())
    assert answer.get("x-stand-in") is None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_errors_instead_of_the_local_model(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    over = fallback(on_cloud_unavailable="error", on_rate_limit="error", on_budget_exceeded="error")
    async with books(tmp_path, over, cloud=a_cloud()) as here:
        here.cloud.misbehave = [faults.Status(404), faults.Status(429), faults.Cut("before_head"), faults.Status(503)]
        check_refusal(dialect, await high(here, dialect, stream=stream), 503, "cloud_unavailable")
        check_refusal(dialect, await high(here, dialect, stream=stream), 429, "rate_limited")  # by the cloud
        check_refusal(dialect, await high(here, dialect, stream=stream), 429, "rate_limited")  # by the pause
        door(here)._rate_until = 0
        for _ in range(3):  # two tries, then the open circuit
            check_refusal(dialect, await high(here, dialect, stream=stream), 503, "cloud_unavailable")
        assert len(here.cloud.requests) == 4
        assert not here.local.requests or all(got.target != dialect.path for got in here.local.requests)
        # What was to be local anyway is not touched by any of it.
        answer = await here.post(dialect.path, dialect.body("Hello", stream=stream))
        assert went(answer) == ("local", LOCAL_MODEL, "default_local")


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
@pytest.mark.parametrize("daily", [0, 0.0001], ids=["nothing left", "too little for this call"])
async def test_no_budget_is_a_refusal_where_the_settings_want_one(
    tmp_path: Path, dialect: Dialect, daily: float
) -> None:
    over = merge(fallback(on_budget_exceeded="error"), {"ollama_cloud": {"cost_limits": {"daily_budget_usd": daily}}})
    async with books(tmp_path, over) as here:
        check_refusal(dialect, await high(here, dialect, stream=True), 429, "budget_exceeded")
        answer = await here.post(dialect.path, dialect.body("Hello"))
        assert went(answer)[0] == "local"
        assert not here.cloud.requests


async def test_no_budget_is_local_else(tmp_path: Path) -> None:
    over = {"ollama_cloud": {"cost_limits": {"daily_budget_usd": 0.0001}}}
    async with books(tmp_path, over) as here:
        for dialect in DIALECTS:
            answer = await high(here, dialect, stream=True)
            assert went(answer) == ("local", LOCAL_MODEL, "budget_exceeded")
            assert dialect.whole(answer)
        assert not here.cloud.requests


@pytest.mark.parametrize("wanted", ["local", "error"])
async def test_a_store_that_cannot_say(tmp_path: Path, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with books(tmp_path, fallback(on_budget_exceeded=wanted)) as here:
        await until(lambda: keeper(here).standing.known, "the store's first answer")

        async def fail(_: object) -> None:
            raise StoreError("the disk is gone")

        monkeypatch.setattr(keeper(here)._store, "step", fail)
        answer = await high(here, CHAT)
        if wanted == "error":
            check_refusal(CHAT, answer, 503, "budget_unavailable")
        else:
            assert went(answer) == ("local", LOCAL_MODEL, "budget_unavailable")
        assert not here.cloud.requests
        monkeypatch.undo()
        assert went(await high(here, CHAT))[0] == "cloud"


# What is told of it.


async def test_log_audit_and_metrics_keep_the_first_decision(tmp_path: Path) -> None:
    async with books(tmp_path, cloud=a_cloud(misbehave=[faults.Cut("before_head")])) as here:
        answer = await here.chat("Hello", {**HIGH, "X-Request-Id": "r-1"})
        assert went(answer) == ("local", LOCAL_MODEL, "cloud_unavailable")
        page = await here.metrics()
        labels = 'location="local",model="llama3",task_type="extraction"'
        assert page[f"ollama_execution_total{{{labels}}}"] == 1
        assert sum(value for name, value in page.items() if name.startswith("ollama_execution_total")) == 1
        assert page['ollama_sidecar_fallbacks_total{reason="cloud_unavailable"}'] == 1
        assert page[f'ollama_sidecar_cloud_attempts_total{{model="{TEXT_MODEL}",outcome="lost"}}'] == 1
        reserved = settled(here)
    (call,) = [line for line in here.log() if line["event"] == "call"]
    assert call["decided"] == {"location": "cloud", "reason": "high_quality_extraction"}
    assert (call["location"], call["reason"], call["fallback"]) == ("local", "cloud_unavailable", True)
    assert [(one["location"], one["outcome"], one["status"]) for one in call["attempts"]] == [
        ("cloud", "lost", 0),
        ("local", "ok", 200),
    ]
    assert call["cost_usd"] == reserved / 1_000_000
    intent, outcome = (line for line in here.audit() if line.get("request_id") == "r-1")
    assert intent["decision_reason"] == outcome["decision_reason"] == "high_quality_extraction"
    assert (outcome["outcome"], outcome["tokens_used"], outcome["cost_usd"]) == ("lost", None, reserved / 1_000_000)


async def test_a_defect_of_ours_on_the_clouds_side_is_a_local_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("List the towns.")

    async with books(tmp_path) as here:
        monkeypatch.setattr("sidecar.upstream.cloud.cloud_body", broken)
        for dialect in DIALECTS:
            answer = await high(here, dialect, stream=True)
            assert went(answer) == ("local", LOCAL_MODEL, "cloud_unavailable")
            assert dialect.whole(answer)
        assert settled(here) == 0
        assert not here.cloud.requests
