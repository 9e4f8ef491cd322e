"""A pooled connection that came back belongs to the next call: whoever had it before has no more say over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.wire import nothing_left_behind
from support.world import HIGH, world


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


@pytest.mark.parametrize("where", ["local", "cloud"])
async def test_streams_that_end_leave_calls_that_begin_alone(tmp_path: Path, where: str) -> None:
    """Many ends and beginnings in the same turns of the loop, on one pool."""
    over = {"ollama_cloud": {"decision_thresholds": {"batch_size_threshold": 1000}}}
    async with world(tmp_path, over) as here:

        async def chats(number: int) -> None:
            for turn in range(6):
                answer = await here.chat(f"{number} {turn}", HIGH if where == "cloud" else {}, stream=True)
                assert answer.status == 200, answer.body
                assert answer.get("x-sidecar-location") == where
                assert answer.complete

        await asyncio.gather(*map(chats, range(24)))
