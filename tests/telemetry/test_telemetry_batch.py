"""Records on their way to the observers: none is lost, none comes twice, and all come in order."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.record import CallRecord
from sidecar.telemetry.batch import MOST, Batch


def record(number: int) -> CallRecord:
    return CallRecord(str(number), "t", "/api/chat", "ollama", 0.0)


async def test_records_come_by_themselves_in_order() -> None:
    seen: list[str] = []
    came = asyncio.Event()

    def observe(one: CallRecord) -> None:
        seen.append(one.request_id)
        came.set()

    batch = Batch([observe])
    for number in range(3):
        batch(record(number))
    assert not seen
    async with asyncio.timeout(10):
        await came.wait()
    assert seen == ["0", "1", "2"]


@pytest.mark.parametrize("count", [1, MOST - 1, MOST, MOST + 1, 3 * MOST + 5])
async def test_a_full_batch_does_not_wait_and_a_flush_passes_the_rest(count: int) -> None:
    seen: list[str] = []
    batch = Batch([lambda one: seen.append(one.request_id)])
    for number in range(count):
        batch(record(number))
    assert len(seen) == count // MOST * MOST
    batch.flush()
    assert seen == [str(number) for number in range(count)]
    batch.flush()
    assert len(seen) == count


async def test_an_observer_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def fails(one: CallRecord) -> None:
        if one.request_id == "1":
            raise RuntimeError("no")

    batch = Batch([fails, lambda one: seen.append(one.request_id)])
    for number in range(3):
        batch(record(number))
    batch.flush()
    assert seen == ["0", "1", "2"]
    assert [entry.message for entry in caplog.records] == ["a call could not be recorded"]
