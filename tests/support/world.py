"""A sidecar between a stand-in local Ollama and a stand-in cloud, in this process and on free ports."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sidecar.app import Sidecar
from sidecar.settings import load
from sidecar.standins import StandInCloud, StandInModel, StandInOllama
from sidecar.telemetry.log import LineWriter
from support.raw import Answer, ask

KEY = "test-cloud-key-0123456789"
TEXT_MODEL, VISION_MODEL = "gpt-oss:120b", "qwen3.5:397b"
PRICES = {TEXT_MODEL: (150_000, 600_000), VISION_MODEL: (600_000, 3_600_000)}
HIGH = {"X-Task-Type": "extraction", "X-Quality-Requirement": "high"}


@dataclass(slots=True)
class World:
    """`port` and `admin` are the sidecar's; `folder` holds its settings, log, audit log and budget."""

    sidecar: Sidecar
    local: StandInOllama
    cloud: StandInCloud
    folder: Path

    @property
    def port(self) -> int:
        return int(self.sidecar.data.addresses[0][1])

    @property
    def admin(self) -> int:
        return int(self.sidecar.admin.addresses[0][1])

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Answer:
        return await ask(self.port, "POST", path, headers, body)

    async def chat(self, text: str = "Hello", headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
        """A chat in Ollama's own dialect, not streamed unless `stream=True`."""
        body = {"model": "llama3", "messages": [{"role": "user", "content": text}], "stream": False, **more}
        return await self.post("/api/chat", body, headers or {})

    async def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name and labels as they are written."""
        page = await ask(self.admin, "GET", "/metrics")
        rows = (row.rpartition(" ") for row in page.body.decode().splitlines() if row and not row.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")

    def settings(self) -> dict[str, Any]:
        value: dict[str, Any] = yaml.safe_load((self.folder / "settings.yaml").read_text(encoding="utf-8"))
        return value

    def audit(self) -> list[dict[str, Any]]:
        """The audit log's lines so far."""
        path = self.folder / "audit.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def log(self) -> list[dict[str, Any]]:
        """The log's lines, after the sidecar has stopped."""
        return [json.loads(line) for line in (self.folder / "sidecar.log").read_text().splitlines()]

    @property
    def booked(self) -> int:
        """Micro-USD that are settled or still reserved, by the sidecar's own books."""
        keeper = self.sidecar.services.keeper
        assert keeper is not None
        standing = keeper.standing
        return standing.settled + standing.reserved


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merged key by key, all else replaced."""
    merged = dict(base)
    for key, value in over.items():
        mine = merged.get(key)
        merged[key] = merge(mine, value) if isinstance(mine, dict) and isinstance(value, Mapping) else value
    return merged


@asynccontextmanager
async def world(
    folder: Path,
    over: Mapping[str, Any] | None = None,
    *,
    local: StandInOllama | None = None,
    cloud: StandInCloud | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """A running sidecar. `over` is merged into its settings; stand-ins of your own are started here, too."""
    names = ("llama3:latest", "llava:latest", "nomic-embed-text:latest")
    local = local or StandInOllama([StandInModel(name) for name in names])
    cloud = cloud or StandInCloud([TEXT_MODEL, VISION_MODEL], key=KEY, prices=PRICES)
    async with local, cloud:
        settings = merge(
            {
                "listen": {"data": ["127.0.0.1:0"], "admin": "127.0.0.1:0", "drain_seconds": 1},
                "local": {"base_url": local.base_url, "gpu": {"source": "none"}},
                "ollama_cloud": {"api_key": KEY, "base_url": cloud.base_url, "timeout_seconds": 10},
                "state_dir": str(folder),
                "audit": {"stdout": False},
                # Wide enough for a disk that is busy with other tests; how long it takes is not what they are about.
                "budget": {"wait_ms": 10_000},
            },
            over or {},
        )
        path = folder / "settings.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        descriptor = os.open(folder / "sidecar.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        log = LineWriter(descriptor)
        sidecar = Sidecar(load(path, env or {}), path, env or {}, log)
        await sidecar.start()
        try:
            yield World(sidecar, local, cloud, folder)
        finally:
            await sidecar.stop()
            log.close()
            os.close(descriptor)
            assert not local.errors, local.errors
            assert not cloud.errors, cloud.errors
