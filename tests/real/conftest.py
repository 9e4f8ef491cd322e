"""Two real servers for the session, and a sidecar between them for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from real_ollama import binary

pytest.register_assert_rewrite("real.worlds")

from real.servers import Outside, Server  # noqa: E402 - only what is imported after it is rewritten
from real.worlds import Real, between  # noqa: E402

HOW = "NO REAL OLLAMA: tests/real is skipped; build it once with: python tools/real_ollama.py build"
_missing = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Path:
    """The real server's program."""
    program = binary()
    if not os.access(program, os.X_OK):
        request.config.stash[_missing] = True
        if os.environ.get("OLLAMA_SIDECAR_REQUIRE_REAL") == "1":
            pytest.fail(HOW.replace("is skipped", "cannot run"), pytrace=False)
        pytest.skip(HOW)
    return program


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(_missing, False):
        terminalreporter.write_line(HOW, yellow=True, bold=True)


@pytest.fixture(scope="session")
def outside(built: Path) -> Iterator[Outside]:
    with Outside() as everything:
        yield everything


@pytest.fixture(scope="session")
def local(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The local server."""
    log = tmp_path_factory.mktemp("local") / "server.log"
    with Server(("tiny", "llama3:latest"), log, outside) as server:
        yield server


@pytest.fixture(scope="session")
def cloud_ollama(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server behind the cloud's front."""
    log = tmp_path_factory.mktemp("cloud") / "server.log"
    with Server(("gpt-oss:120b", "qwen3.5:397b"), log, outside) as server:
        yield server


@pytest.fixture
async def real(local: Server, cloud_ollama: Server, outside: Outside, tmp_path: Path) -> AsyncIterator[Real]:
    """A sidecar with default settings between the two."""
    async with between(tmp_path, local, cloud_ollama, outside) as running:
        yield running


@pytest.fixture
async def bare(local: Server, cloud_ollama: Server, outside: Outside, tmp_path: Path) -> AsyncIterator[Real]:
    """The same with nothing but the sidecar before the local server."""
    async with between(tmp_path, local, cloud_ollama, outside, tapped=False) as running:
        yield running
