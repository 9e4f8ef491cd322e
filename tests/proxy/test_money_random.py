"""The bill never exceeds the cap: random calls, faults, clients that leave, restarts and kills on a small budget.

`SIDECAR_MONEY_RUNS` asks for more than the two runs of every day.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cloud_support import CHAT, DIALECTS, Dialect, all_booked, books, calm, hurry, settled, until

from sidecar.standins import RecordedRequest, StandInCloud, StandInModel, StandInOllama, faults
from sidecar.standins.ollama import Choice
from support.raw import Answer, ask, connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, World

RUNS = int(os.environ.get("SIDECAR_MONEY_RUNS", "2"))
CALLS = 320
CAP = 30_000  # micro-USD: some twelve worst cases


def a_fault(chance: random.Random) -> Choice:
    """Half of the calls are served as they should be."""
    if chance.random() < 0.5:
        return None
    place: Any = chance.choice(["before_work", "before_head", "after_head", "mid_stream"])
    cut: Any = chance.choice(["before_work", "before_head", "after_head", "mid_record", "between_records"])
    after = chance.randrange(6)
    return chance.choice(
        [
            faults.Status(chance.choice([400, 401, 402, 403, 404, 408, 429, 500, 502, 503, 504])),
            faults.Hang(place, after),
            faults.Cut(cut, after, reset=chance.random() < 0.3),
            faults.NoFinalRecord(),
            faults.ErrorRecord(after),
            faults.Garbage(chance.choice(["http", "body", "record"])),
            faults.WrongLength(chance.choice([-20, -1, 1, 20])),
            faults.BadUsage(chance.choice(["missing", "negative", "huge", "float", (0, 0)])),
            faults.GiantRecord(chance.choice([100, 70_000])),
            faults.TruncatedEvent(chance.choice([None, 0, 2])),
            faults.Redirect("http://127.0.0.1:1/"),
        ]
    )


def a_body(chance: random.Random, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
    text = "".join(
        chance.choice(["town ", "é", "漢字", "\n", "x" * 50]) for _ in range(chance.choice([0, 1, 20, 400]))
    )
    body = dialect.body(f"List {text}", stream=stream)
    if chance.random() < 0.5:
        cap = chance.choice([1, 30, 255, 256, 1000, 4096, 50_000, -1, 0])
        body = dialect.capped(body, cap)
    return body


def check_answer(dialect: Dialect, answer: Answer) -> None:
    """Something that a client of this dialect can make sense of, to its end."""
    assert answer.complete, "a silent cut"
    if answer.status >= 400:
        assert dialect.message(answer.json())
    else:
        assert answer.status == 200
        assert answer.body


async def one_call(here: World, chance: random.Random, tally: Counter[str]) -> None:
    dialect, stream = chance.choice(DIALECTS), chance.random() < 0.6
    body = json.dumps(a_body(chance, dialect, stream=stream)).encode()
    leaves_after = chance.choice([None] * 6 + [0, 1, 3])
    async with connect(here.port) as client:
        await client.send(request("POST", dialect.path, HIGH, body))
        if leaves_after is None:
            answer = await client.read("POST")
            check_answer(dialect, answer)
            tally[answer.get("x-sidecar-location") or ""] += 1
            return
        tally["left"] += 1
        if leaves_after:
            answer = await client.head()
            if answer.get("transfer-encoding"):
                for _ in range(leaves_after):
                    if await client.chunk(answer) is None:
                        break
        client.leave()


@pytest.mark.parametrize("seed", range(RUNS))
async def test_random_calls_never_cost_more_than_the_cap(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, answer_tokens=600)
    over = {"ollama_cloud": {"cost_limits": {"daily_budget_usd": CAP / 1_000_000}, "breaker": {"failures": 10_000}}}
    tally: Counter[str] = Counter()

    def misbehave(asked: RecordedRequest) -> Choice:
        return a_fault(chance) if asked.method == "POST" else None

    done = 0
    for _restart in range(3):
        cloud.misbehave = misbehave
        async with _counted(tmp_path, over, cloud) as here:
            hurry(here, 0.1)
            while done < (_restart + 1) * CALLS // 3:
                calm(here)
                many = chance.choice([1, 1, 2, 8])
                await asyncio.gather(*(one_call(here, chance, tally) for _ in range(many)))
                done += many
                assert cloud.billed_micro_usd <= CAP
            await all_booked(here)
    assert done >= 300
    assert cloud.billed_micro_usd <= CAP
    assert tally["cloud"] > 5, tally
    assert tally["local"] > 100, tally
    assert tally["left"] > 50, tally


@asynccontextmanager
async def _counted(folder: Path, over: dict[str, Any], cloud: StandInCloud) -> AsyncIterator[World]:
    """`books`, for a cloud that has bills of an earlier run and of a day's earlier sidecars."""
    (folder / "audit.log").unlink(missing_ok=True)
    billed, before = cloud.billed_micro_usd, list(cloud.bills)
    cloud.bills.clear()
    try:
        async with books(folder, over, cloud=cloud) as here:
            yield here
            assert settled(here) <= CAP - billed
    finally:
        cloud.bills[:0] = before


# A process that is killed.


class Process:
    """`python -m sidecar serve`, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def serve(folder: Path, settings: dict[str, Any]) -> AsyncIterator[Process]:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "serve", "--config", str(path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    drain: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(30):
            while "serving on" not in (line := json.loads(await process.stderr.readline()))["message"]:
                pass
        drain = asyncio.create_task(process.stderr.read())
        yield Process(process, int(line["message"].split("serving on 127.0.0.1:")[1].split(",")[0]))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if drain is not None:
            await drain


async def test_a_sidecar_that_is_killed_again_and_again_never_spends_more_than_the_cap(tmp_path: Path) -> None:
    local = StandInOllama([StandInModel("llama3:latest")])
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, answer_tokens=600)
    async with local, cloud:
        settings = {
            "listen": {"data": ["127.0.0.1:0"], "admin": "127.0.0.1:0", "drain_seconds": 1},
            "local": {"base_url": local.base_url, "gpu": {"source": "none"}},
            "ollama_cloud": {
                "api_key": KEY,
                "base_url": cloud.base_url,
                "cost_limits": {"daily_budget_usd": 0.008},
            },
            "state_dir": str(tmp_path),
            "audit": {"stdout": False},
            "budget": {"wait_ms": 10_000},
        }
        places: list[str | None] = []
        for _life in range(4):
            async with serve(tmp_path, settings) as sidecar:
                for _ in range(6):
                    answer = await ask(sidecar.port, "POST", CHAT.path, HIGH, CHAT.body("List the towns."))
                    check_answer(CHAT, answer)
                    places.append(answer.get("x-sidecar-location"))
                async with connect(sidecar.port) as client:
                    # Killed in the middle of a call, if one still goes.
                    await client.send(
                        request("POST", CHAT.path, HIGH, json.dumps(CHAT.body("x", stream=True)).encode())
                    )
                    await client.head()
                    await sidecar.kill()
            assert cloud.billed_micro_usd <= 8000
        assert places[0] == "cloud"
        assert places[-1] == "local", "the budget was never used up: this test shows nothing"
        # The audit log of all lives is whole: each line is one, and each bill has its intent.
        lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
        intents = [line for line in lines if line["event"] == "ollama_cloud_intent"]
        assert len(intents) >= len(cloud.bills)


async def test_a_sidecar_that_is_stopped_gives_back_what_it_did_not_spend(tmp_path: Path) -> None:
    """Ten lives, one call each: what a graceful stop loses is nothing."""
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    over = {"ollama_cloud": {"cost_limits": {"daily_budget_usd": 0.003}}}  # one worst case and a little
    for _ in range(10):
        async with _counted(tmp_path, over, cloud) as here:
            answer = await here.chat("List the towns.", HIGH)
            assert answer.get("x-sidecar-location") == "cloud"
    assert len(cloud.bills) == 10


async def test_a_stop_in_the_middle_of_calls_books_them(tmp_path: Path) -> None:
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, misbehave=lambda _: faults.Hang("mid_stream", 3))
    calls: list[asyncio.Task[Answer]] = []
    async with books(tmp_path, {"listen": {"drain_seconds": 0}}, cloud=cloud) as here:
        for dialect in DIALECTS:
            body = dialect.body("Hello", stream=True)
            calls.append(asyncio.create_task(ask(here.port, "POST", dialect.path, HIGH, body)))
        await until(lambda: len(cloud.requests) == len(DIALECTS), "the calls")
        await until(lambda: all(got.status == 200 for got in cloud.requests), "their answers")
        stopping = asyncio.create_task(here.sidecar.data.drain(0))
        for dialect, call in zip(DIALECTS, calls, strict=True):
            answer = await call
            assert answer.complete
            assert dialect.is_error(dialect.records(answer)[-1])
        await stopping
        await all_booked(here)
    outcomes = [line["outcome"] for line in here.audit() if line["event"] == "ollama_cloud_execution"]
    assert outcomes == ["drained"] * len(DIALECTS)
