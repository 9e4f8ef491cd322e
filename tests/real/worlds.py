"""A sidecar between two real servers, in this process and on free ports."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from real.front import CloudFront, Relay
from real.servers import Outside, Server
from sidecar.app import Sidecar
from sidecar.core.record import CallRecord
from sidecar.settings import load
from sidecar.telemetry.log import LineWriter
from support.raw import SECONDS, Answer, ask
from support.world import HIGH, KEY, PRICES, merge


@dataclass(slots=True)
class Real:
    """`tap` stands between the sidecar and the local server, `front` between it and the cloud's."""

    sidecar: Sidecar
    local: Server
    cloud: Server
    outside: Outside
    tap: Relay
    front: CloudFront
    folder: Path
    records: asyncio.Queue[CallRecord] = field(default_factory=asyncio.Queue)

    @property
    def port(self) -> int:
        return int(self.sidecar.data.addresses[0][1])

    @property
    def booked(self) -> int:
        """Micro-USD that are settled or still reserved."""
        keeper = self.sidecar.services.keeper
        assert keeper is not None
        return keeper.standing.settled + keeper.standing.reserved

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: Any = b""
    ) -> Answer:
        return await ask(self.port, method, target, headers or {}, body)

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        return await ask(self.port, "POST", path, headers or {}, body)

    async def record(self) -> CallRecord:
        """The next inference call, once it has ended."""
        async with asyncio.timeout(SECONDS):
            return await self.records.get()

    async def load(self, model: str) -> None:
        """Has both servers hold a model in memory."""
        for port in (self.local.port, self.cloud.port):
            assert (await ask(port, "POST", "/api/generate", {}, {"model": model})).status == 200

    async def unload(self, model: str) -> None:
        """Has the local server forget a model, and with it a call for it that got stuck.

        Ollama 0.24 loses a model's only place about once in a hundred streams that their client gives up: what
        generates waits for ever to hand its next piece to a handler that is gone, and holds the place.
        """
        await ask(self.local.port, "POST", "/api/generate", {}, {"model": model, "keep_alive": 0})
        await self.unloaded(f"{model}:latest")

    async def unloaded(self, model: str) -> None:
        """Returns when the local server has the model no longer in memory: it answers first and unloads then."""
        async with asyncio.timeout(SECONDS):
            while model in [entry["name"] for entry in (await self.ask("GET", "/api/ps")).json()["models"]]:
                pass

    def audit(self) -> list[dict[str, Any]]:
        path = self.folder / "audit.log"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def check_keys(self) -> None:
        """The cloud's key is at the cloud alone, and no task header is there."""
        for request in self.tap.requests:
            assert KEY.encode() not in request.raw_head + request.raw_body
            assert KEY.encode() not in request.answer
        for request in self.front.requests:
            names = [name.decode().lower() for name, _ in request.headers]
            assert not [name for name in names if name.startswith("x-") or name in ("cookie", "traceparent")]
            assert request.header_values("authorization") == [f"Bearer {KEY}"]


@asynccontextmanager
async def between(
    folder: Path,
    local: Server,
    cloud: Server,
    outside: Outside,
    over: Mapping[str, Any] | None = None,
    *,
    tapped: bool = True,
) -> AsyncIterator[Real]:
    """A running sidecar; `over` is merged into its settings. Without the tap it is in front of the server itself."""
    async with Relay(local.port) as tap, CloudFront(cloud.port, key=KEY, prices=PRICES) as front:
        settings = merge(
            {
                "listen": {"data": ["127.0.0.1:0"], "admin": "127.0.0.1:0", "drain_seconds": 1},
                "local": {"base_url": tap.base_url if tapped else local.base_url, "gpu": {"source": "none"}},
                "ollama_cloud": {"api_key": KEY, "base_url": front.base_url, "timeout_seconds": 20},
                "state_dir": str(folder),
                "audit": {"stdout": False},
                "budget": {"wait_ms": 10_000},
                # No line per call: each log file that was written to takes a tenth of a second to close.
                "log": {"level": "error"},
            },
            over or {},
        )
        path = folder / "settings.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        descriptor = os.open(folder / "sidecar.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        log = LineWriter(descriptor)
        sidecar = Sidecar(load(path, {}), path, {}, log)
        await sidecar.start()
        try:
            real = Real(sidecar, local, cloud, outside, tap, front, folder)
            services = sidecar.services
            services.observers = (*services.observers, real.records.put_nowait)
            yield real
        finally:
            await sidecar.stop()
            log.close()
            os.close(descriptor)
            assert not tap.errors + front.errors


SAID = "Which towns are in this sentence: Ulm, Pisa."
# The dialects of a chat: name → route, and the body for a model, a text and a number of tokens.
CHATS: dict[str, str] = {
    "chat": "/api/chat",
    "generate": "/api/generate",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


def call(
    kind: str, *, model: str = "tiny", text: str = SAID, stream: bool = False, tokens: int = 12
) -> dict[str, Any]:
    """A body in one of the dialects of `CHATS`."""
    said = {"messages": [{"role": "user", "content": text}]}
    options = {"num_predict": tokens, "temperature": 0.8, "seed": 3}
    asked: dict[str, dict[str, Any]] = {
        "chat": {**said, "options": options},
        "generate": {"prompt": text, "options": options},
        "openai": {**said, "max_tokens": tokens, "seed": 3},
        "responses": {"input": text, "max_output_tokens": tokens},
        "messages": {**said, "max_tokens": tokens},
    }
    return {"model": model, "stream": stream, **asked[kind]}


__all__ = ["CHATS", "HIGH", "SAID", "Iterable", "Real", "between", "call"]
