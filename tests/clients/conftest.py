"""One sidecar between two stand-ins per test, found by the clients as any app finds its server: by environment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("clients.places")

from clients.places import APP_KEY, WAYS, Place, opened  # noqa: E402 - only what is imported after it is rewritten


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    """Every test runs in each of `WAYS`, unless it names its own by an indirect parameter."""
    async with opened(request.param, tmp_path) as there:
        address = f"http://127.0.0.1:{there.world.port}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name in ("OLLAMA_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            monkeypatch.setenv(name, APP_KEY)
        monkeypatch.setenv("OLLAMA_HOST", address)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        yield there
