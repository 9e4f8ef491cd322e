"""A client that leaves, in each phase of a call: the upstream hears of it, its place is free, its money is booked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from cloud_support import CHAT, DIALECTS, Dialect, all_booked, books, door, high, keeper, settled, until, went

from sidecar.core.budget import Step
from sidecar.standins import StandInCloud, StandInOllama, StepGate
from sidecar.telemetry.audit import AuditLog
from support.raw import Client, connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, World

WORST = 2457  # micro-USD of 4096 output tokens: what a call books in full, and a little for its input


def a_cloud(**more: Any) -> StandInCloud:
    return StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, **more)


async def send(client: Client, dialect: Dialect, *, stream: bool, high: bool = True) -> None:
    body = json.dumps(dialect.body("List the towns.", stream=stream)).encode()
    await client.send(request("POST", dialect.path, HIGH if high else {}, body))


async def gone(here: World) -> None:
    """Until nothing of the client's call is left."""
    await until(lambda: here.sidecar.data.open_connections == 0, "the client connection's end")
    await all_booked(here)
    await until(lambda: here.sidecar.services.local.calls == 0, "the local call's end")


def outcomes(here: World) -> list[str]:
    return [line["outcome"] for line in here.audit() if line["event"] == "ollama_cloud_execution"]


def calls(here: World) -> list[str]:
    return [line["outcome"] for line in here.log() if line["event"] == "call"]


@pytest.mark.parametrize("step", [-1, 0, 3], ids=["before the head", "at the head", "in the answer"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_while_the_cloud_works(tmp_path: Path, dialect: Dialect, stream: bool, step: int) -> None:
    gate = StepGate(open_through=step)
    async with books(tmp_path, cloud=a_cloud(gate=gate)) as here:
        async with connect(here.port) as client:
            await send(client, dialect, stream=stream)
            got = await gate.reached(step + 1)
            if stream and step > 0:
                await client.head()
            client.leave()
        await got.closed_by_peer.wait()
        await got.finished.wait()
        assert got.aborted
        await gone(here)
        assert settled(here) >= (WORST if dialect.name != "anthropic" else 600)
        assert settled(here) >= here.cloud.billed_micro_usd
        gate.open_all()
        assert went(await high(here, dialect, stream=stream))[0] == "cloud"
    assert outcomes(here) == ["client_disconnect", "ok"]
    assert calls(here) == ["client_disconnect", "ok"]


async def test_right_behind_the_last_record(tmp_path: Path) -> None:
    """The usage has come, the end of the answer has not: booked by what is known."""
    gate = StepGate()
    cloud = a_cloud(gate=gate)
    async with books(tmp_path, cloud=cloud) as here:
        async with connect(here.port) as client:
            await send(client, CHAT, stream=True)
            await gate.reached(0)
            gate.open_all()
            answer = await client.head()
            while b'"done":true' not in answer.body:
                assert await client.chunk(answer) is not None
            client.leave()
        await gone(here)
        assert cloud.billed_micro_usd <= settled(here) < WORST


async def test_while_it_connects_to_the_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with books(tmp_path, cloud=a_cloud()) as here:
        connecting, cancelled = asyncio.Event(), asyncio.Event()

        async def stuck(*_: object, **__: object) -> None:
            connecting.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.set()

        monkeypatch.setattr(door(here)._pool, "acquire", stuck)
        async with connect(here.port) as client:
            await send(client, CHAT, stream=True)
            await connecting.wait()
            client.leave()
            await cancelled.wait()
        await gone(here)
        assert settled(here) == 0
        monkeypatch.undo()
        assert went(await high(here, CHAT))[0] == "cloud"
    assert outcomes(here) == ["client_disconnect", "ok"]


async def test_while_it_waits_for_money(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with books(tmp_path, cloud=a_cloud()) as here:
        await until(lambda: keeper(here).standing.known, "the store's first answer")
        store = keeper(here)._store
        original, asked, answer = store.step, asyncio.Event(), asyncio.Event()

        async def slow(step: Step) -> Any:
            asked.set()
            await answer.wait()
            return await original(step)

        monkeypatch.setattr(store, "step", slow)
        async with connect(here.port) as client:
            await send(client, CHAT, stream=False)
            await asked.wait()
            client.leave()
        await gone(here)
        answer.set()
        assert settled(here) == 0
        assert not here.cloud.requests
        assert went(await high(here, CHAT))[0] == "cloud"
    assert outcomes(here) == ["ok"]
    assert not keeper(here)._waiting


async def test_while_it_waits_for_the_audit_logs_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is on its way and will be written, so it gets its outcome: nothing was sent."""
    async with books(tmp_path, cloud=a_cloud()) as here:
        writing, write = threading.Event(), threading.Event()
        original = AuditLog._put

        def slow(log: AuditLog, batch: Any) -> Any:
            if any(b"intent" in entry.line for entry in batch):
                writing.set()
                write.wait(10)
            return original(log, batch)

        monkeypatch.setattr(AuditLog, "_put", slow)
        loop = asyncio.get_running_loop()
        async with connect(here.port) as client:
            await send(client, CHAT, stream=True)
            await loop.run_in_executor(None, writing.wait, 10)
            client.leave()
        await gone(here)
        write.set()
        assert settled(here) == 0
        assert not here.cloud.requests
        assert not here.sidecar.services.office._open, "the permit is still good"
        assert went(await high(here, CHAT))[0] == "cloud"
    assert outcomes(here) == ["client_disconnect", "ok"]


async def test_while_the_page_s_origin_is_asked_about(tmp_path: Path) -> None:
    async with books(tmp_path, cloud=a_cloud()) as here:
        gate, arrived = asyncio.Event(), asyncio.Event()
        ask_local = here.sidecar.services.local.cors

        async def slow(origin: bytes) -> bytes | None:
            arrived.set()
            await gate.wait()
            return await ask_local(origin)

        here.sidecar.services.local.cors = slow
        async with connect(here.port) as client:
            body = json.dumps(CHAT.body("Hello")).encode()
            await client.send(request("POST", CHAT.path, {**HIGH, "Origin": "http://localhost"}, body))
            await arrived.wait()
            client.leave()
        await gone(here)
        gate.set()
        assert settled(here) == 0
        assert not here.cloud.requests


# At the local server.


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_while_it_waits_for_a_place_at_the_local_server(tmp_path: Path, stream: bool) -> None:
    gate = StepGate()
    local = StandInOllama(["llama3"], gate=gate)
    async with books(tmp_path, {"local": {"max_concurrent": 1}}, local=local) as here:
        upstream = here.sidecar.services.local
        first = asyncio.create_task(here.chat("first"))
        await gate.reached(0)
        async with connect(here.port) as second, connect(here.port) as third:
            await send(second, CHAT, stream=stream, high=False)
            await until(lambda: upstream.waiting == 1, "the second in the queue")
            await send(third, CHAT, stream=stream, high=False)
            await until(lambda: upstream.waiting == 2, "the third in the queue")
            second.leave()
            await until(lambda: upstream.waiting == 1, "the second's place")
            gate.open_all()
            assert CHAT.whole(await first)
            assert CHAT.whole(await third.read("POST"))
        await until(lambda: upstream.calls == 0, "all places")
        assert [got.target for got in local.requests].count(CHAT.path) == 2
    assert sorted(calls(here)) == ["client_disconnect", "ok", "ok"]


@pytest.mark.parametrize("step", [-1, 3])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_while_the_local_server_works(tmp_path: Path, dialect: Dialect, stream: bool, step: int) -> None:
    gate = StepGate(open_through=step)
    async with books(tmp_path, {"local": {"max_concurrent": 1}}, local=StandInOllama(["llama3"], gate=gate)) as here:
        async with connect(here.port) as client:
            await send(client, dialect, stream=stream, high=False)
            got = await gate.reached(step + 1)
            client.leave()
        await got.closed_by_peer.wait()
        await got.finished.wait()
        assert got.aborted
        await gone(here)
        gate.open_all()
        answer = await here.post(dialect.path, dialect.body("Hello", stream=stream))
        assert dialect.whole(answer), "its place was not given back"
    assert calls(here) == ["client_disconnect", "ok"]


async def test_while_the_local_server_is_asked_about_a_model(tmp_path: Path) -> None:
    """The question goes on for the others who wait for it."""
    local = StandInOllama(["llama3"])
    asked = asyncio.Event()
    async with books(tmp_path, local=local) as here:
        gate = asyncio.Event()

        async def pause(got: Any) -> None:
            asked.set()
            await gate.wait()

        hold_shows(local, pause)
        async with connect(here.port) as client:
            await send(client, CHAT, stream=False, high=False)
            await asked.wait()
            second = asyncio.create_task(here.chat("Hello"))
            await until(lambda: len(here.sidecar.services.local.models._asking) == 1, "the question")
            client.leave()
            await until(lambda: here.sidecar.data.open_connections == 1, "the client's end")
        gate.set()
        assert CHAT.whole(await second)
        assert [got.target for got in local.requests].count("/api/show") == 1


def hold_shows(local: StandInOllama, pause: Any) -> None:
    """Makes /api/show wait."""
    original = local._answer

    async def held(exchange: Any, path: str, query: str) -> Any:
        if path == "/api/show":
            await pause(exchange.request)
        return await original(exchange, path, query)

    local._answer = held  # type: ignore[method-assign]


async def test_a_crowd_that_leaves_at_once(tmp_path: Path) -> None:
    """Forty calls in every phase, all gone at the same moment: the books balance, see `books`."""
    gate = StepGate(open_through=2)
    over = {
        "local": {"max_concurrent": 2},
        "ollama_cloud": {"decision_thresholds": {"batch_size_threshold": 100}},
    }
    async with books(tmp_path, over, cloud=a_cloud(gate=gate)) as here:
        here.local.gate = StepGate(open_through=1)
        clients = []
        for number in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            client = Client(reader, writer)
            clients.append(client)
            dialect = DIALECTS[number % len(DIALECTS)]
            await send(client, dialect, stream=number % 3 > 0, high=number % 2 == 0)
        await gate.reached(3, nth=20)
        await until(lambda: here.sidecar.services.local.calls == 20, "the local ones")
        for client in clients:
            client.leave()
            with contextlib.suppress(ConnectionError):
                await client.writer.wait_closed()
        await gone(here)
        for got in here.cloud.requests:
            await got.finished.wait()
            assert got.aborted
        gate.open_all()
    assert outcomes(here) == ["client_disconnect"] * 20
