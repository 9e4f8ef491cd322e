"""Places at the local server: as many at once as the settings allow, in the order of arrival, none ever lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.standins import StandInOllama, StepGate, faults
from sidecar.upstream.local import LocalSettings, LocalUpstream
from support.raw import Answer
from support.world import World, world

HERE = "http://127.0.0.1:1"


@pytest.fixture
async def upstream() -> AsyncIterator[LocalUpstream]:
    made = LocalUpstream(LocalSettings(HERE, max_concurrent=2))
    yield made
    made.close()


async def turns() -> None:
    """Lets every task that can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_without_a_limit_nobody_waits() -> None:
    upstream = LocalUpstream(LocalSettings(HERE))
    for number in range(1000):
        await upstream.enter()
        assert (upstream.calls, upstream.waiting) == (number + 1, 0)
    for _ in range(1000):
        upstream.leave()
    assert upstream.calls == 0
    upstream.close()


async def test_places_are_given_in_the_order_of_arrival(upstream: LocalUpstream) -> None:
    order: list[int] = []

    async def call(number: int) -> None:
        await upstream.enter()
        order.append(number)

    calls = [asyncio.create_task(call(number)) for number in range(6)]
    await turns()
    assert order == [0, 1]
    assert (upstream.calls, upstream.waiting) == (6, 4)
    for number in range(2, 6):
        upstream.leave()
        await turns()
        assert order == list(range(number + 1))
    upstream.leave()
    upstream.leave()
    await asyncio.gather(*calls)
    assert (upstream.calls, upstream.waiting) == (0, 0)


async def test_whoever_comes_later_does_not_overtake_those_who_wait(upstream: LocalUpstream) -> None:
    await upstream.enter()
    await upstream.enter()
    order: list[str] = []

    async def call(name: str) -> None:
        await upstream.enter()
        order.append(name)

    first = asyncio.create_task(call("first"))
    await turns()
    upstream.leave()  # the place is the first one's now, also where that has not run yet
    second = asyncio.create_task(call("second"))
    await turns()
    assert order == ["first"]
    upstream.leave()
    await turns()
    assert order == ["first", "second"]
    await asyncio.gather(first, second)


async def test_a_call_that_leaves_the_queue(upstream: LocalUpstream) -> None:
    await upstream.enter()
    await upstream.enter()
    calls = [asyncio.create_task(upstream.enter()) for _ in range(3)]
    await turns()
    calls[1].cancel()
    await turns()
    assert upstream.waiting == 2
    upstream.leave()
    await turns()
    assert (calls[0].done(), calls[1].cancelled(), calls[2].done()) == (True, True, False)
    upstream.leave()
    await turns()
    assert calls[2].done()
    assert (upstream.calls, upstream.waiting) == (2, 0)


async def test_a_place_that_is_given_to_a_call_just_when_it_leaves_is_passed_on(upstream: LocalUpstream) -> None:
    await upstream.enter()
    await upstream.enter()
    first, second = (asyncio.create_task(upstream.enter()) for _ in range(2))
    await turns()
    upstream.leave()
    first.cancel()  # its place is given, and it has not run since
    await turns()
    assert first.cancelled()
    assert second.done()
    assert (upstream.calls, upstream.waiting) == (2, 0)


async def test_a_place_that_is_given_back_just_after_a_call_left_the_queue(upstream: LocalUpstream) -> None:
    """The call has been cancelled and has not run since: whoever gives a place back finds it still in the queue."""
    await upstream.enter()
    await upstream.enter()
    first, second = (asyncio.create_task(upstream.enter()) for _ in range(2))
    await turns()
    first.cancel()
    upstream.leave()
    await turns()
    assert first.cancelled()
    assert second.done()
    assert not second.cancelled()
    assert (upstream.calls, upstream.waiting) == (2, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**32))
def test_at_random_no_place_is_lost_and_none_is_given_twice(limit: int, seed: int) -> None:
    async def run() -> None:
        chance = random.Random(seed)
        upstream = LocalUpstream(LocalSettings(HERE, max_concurrent=limit))
        inside, most = 0, 0

        async def call() -> None:
            nonlocal inside, most
            await upstream.enter()
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1
                upstream.leave()

        calls: list[asyncio.Task[None]] = []
        for _ in range(40):
            calls.append(asyncio.create_task(call()))
            if chance.random() < 0.4:
                chance.choice(calls).cancel()
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in results), results
        assert most <= limit
        assert (upstream.calls, upstream.waiting) == (0, 0)
        upstream.close()

    asyncio.run(run())


# From outside.


async def test_calls_reach_the_server_one_by_one_in_their_order(tmp_path: Path) -> None:
    gate = StepGate()
    local = StandInOllama(["llama3"], gate=gate)
    async with world(tmp_path, {"local": {"max_concurrent": 1}}, local=local) as here:
        calls = []
        for number in range(5):
            calls.append(asyncio.create_task(here.chat(f"Call {number}")))
            while here.sidecar.services.local.calls <= number:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.001)
        await gate.reached(0)
        page = await here.metrics()
        assert (page["ollama_sidecar_local_calls"], page["ollama_sidecar_local_queue_depth"]) == (5, 4)
        assert len(chats(here)) == 1
        gate.open_all()
        answers: list[Answer] = await asyncio.gather(*calls)
        assert all(answer.status == 200 for answer in answers)
        assert [got["messages"][0]["content"] for got in chats(here)] == [f"Call {number}" for number in range(5)]
        page = await here.metrics()
        assert page["ollama_sidecar_local_queue_wait_seconds_count"] == 4
    queued = ["queued_ms" in line for line in here.log() if line["event"] == "call"]
    assert queued.count(True) == 4


def chats(here: World) -> list[Any]:
    return [got.json() for got in here.local.requests if got.target == "/api/chat"]


async def test_what_is_no_inference_does_not_wait_for_a_place(tmp_path: Path) -> None:
    gate = StepGate()
    local = StandInOllama(["llama3"], gate=gate)
    async with world(tmp_path, {"local": {"max_concurrent": 1}}, local=local) as here:
        call = asyncio.create_task(here.chat("Hello"))
        await gate.reached(0)
        assert (await here.post("/api/show", {"model": "llama3"})).status == 200
        gate.open_all()
        assert (await call).status == 200


async def test_more_calls_than_the_threshold_go_to_the_cloud(tmp_path: Path) -> None:
    gate = StepGate()
    local = StandInOllama(["llama3"], gate=gate)
    over = {
        "local": {"max_concurrent": 1},
        "ollama_cloud": {"decision_thresholds": {"batch_size_threshold": 3}},
    }
    async with world(tmp_path, over, local=local) as here:
        calls = []
        for number in range(4):
            calls.append(asyncio.create_task(here.chat("Hello")))
            while here.sidecar.services.local.calls <= number:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.001)
        answer = await here.chat("Hello")
        assert (answer.get("x-sidecar-location"), answer.get("x-sidecar-reason")) == ("cloud", "large_batch")
        gate.open_all()
        assert {(await call).get("x-sidecar-location") for call in calls} == {"local"}


async def test_places_are_given_back_however_a_call_ends(tmp_path: Path) -> None:
    local = StandInOllama(["llama3"])
    async with world(tmp_path, {"local": {"max_concurrent": 1}}, local=local) as here:
        local.misbehave = [
            faults.Status(500),
            faults.Cut("before_head"),
            faults.Cut("mid_record"),
            faults.Garbage(),
            faults.NoFinalRecord(),
        ]
        for _ in range(6):
            answer = await here.chat("Hello", stream=True)
            assert answer.status in (200, 500, 502)
        assert answer.status == 200
        assert here.sidecar.services.local.calls == 0
        await local.close()
        assert (await here.chat("Hello")).status == 503
        assert here.sidecar.services.local.calls == 0
