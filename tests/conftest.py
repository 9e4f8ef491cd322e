"""Fixtures for all tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from support.world import World, world


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that `serve` uses."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """A sidecar with default settings between two stand-ins."""
    async with world(tmp_path) as running:
        yield running
