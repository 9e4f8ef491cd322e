"""Where a test's calls run, how that was asked for, and what must be true of each of them."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sidecar.core.record import CallRecord
from sidecar.standins import RecordedRequest, StandInCloud, StandInModel, StandInOllama, faults
from support.raw import SECONDS
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, VISION_MODEL, World, world

T = TypeVar("T")
APP_KEY = "the-app-s-own-key-9876543210"
MODEL, EYES, EMBEDDER = "llama3", "llava", "nomic-embed-text"
# All that the cloud may learn of the app's request beside its body.
_CLOUD_SEES = frozenset(
    ("host", "user-agent", "accept", "accept-encoding", "content-type", "content-length", "authorization")
)


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0\0")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PNG = _png()
PNG_BASE64 = base64.b64encode(PNG).decode()


@dataclass(frozen=True)
class Way:
    """Where calls run and by what: headers that the client is told to send, or settings of which the app knows
    nothing."""

    name: str
    location: str = "local"
    headers: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = "default_local"


_RICH = "high_quality_extraction"
LOCAL = Way("local")
BY_HEADERS = Way("cloud-by-headers", "cloud", HIGH, reason=_RICH)
BY_DEFAULTS = Way(
    "cloud-by-task-defaults",
    "cloud",
    settings={"task_defaults": {"task_type": "extraction", "quality": "high"}},
    reason=_RICH,
)
WAYS = (LOCAL, BY_HEADERS, BY_DEFAULTS)
QUALITY = {"X-Quality-Requirement": "high"}
SEES = Way("cloud-by-quality", "cloud", QUALITY, reason=_RICH)
NAMED = Way("cloud-by-name", "cloud", reason="cloud_model_requested")
EMBEDS = Way(
    "high-quality",
    headers=QUALITY,
    settings={"ollama_cloud": {"decision_strategy": "quality_optimized"}},
    reason="local_only_operation",
)
NO_MONEY = Way(
    "no-money",
    "none",
    headers=HIGH,
    settings={
        "ollama_cloud": {
            "cost_limits": {"daily_budget_usd": 0, "monthly_budget_usd": 0},
            "fallback": {"on_budget_exceeded": "error"},
        }
    },
    reason="budget_exceeded",
)
NO_CLOUD = Way(
    "no-cloud",
    "none",
    headers=HIGH,
    settings={"ollama_cloud": {"fallback": {"on_cloud_unavailable": "error"}}},
    reason="cloud_unavailable",
)
LIMITED = Way(
    "limited",
    "none",
    headers=HIGH,
    settings={"ollama_cloud": {"fallback": {"on_rate_limit": "error"}}},
    reason="rate_limited",
)
PRIVATE = Way("private", "none", reason="sensitive_data")
PRIVATE_TEXT = "CONFIDENTIAL: the figures of the third quarter"
REFUSALS = ((NO_MONEY, 429), (LIMITED, 429), (NO_CLOUD, 503), (PRIVATE, 403))


def ways(*chosen: Way) -> pytest.MarkDecorator:
    """Runs a test in these ways instead of in each of `WAYS`."""
    return pytest.mark.parametrize("place", chosen, indirect=True, ids=[way.name for way in chosen])


only_local = ways(LOCAL)
only_cloud = ways(BY_HEADERS, BY_DEFAULTS)


class Place:
    """A running sidecar whose calls all go one way."""

    def __init__(self, way: Way, running: World) -> None:
        self.way = way
        self.world = running
        self._checked = 0
        self._records: asyncio.Queue[CallRecord] = asyncio.Queue()
        services = running.sidecar.services
        services.observers = (*services.observers, self._records.put_nowait)

    @property
    def headers(self) -> dict[str, str]:
        """What a client is told to send with every call."""
        return dict(self.way.headers)

    @property
    def is_cloud(self) -> bool:
        return self.way.location == "cloud"

    @property
    def answering(self) -> StandInOllama:
        """The server that answers here."""
        return self.world.cloud if self.is_cloud else self.world.local

    async def record(self) -> CallRecord:
        """The next inference call, once it has ended."""
        async with asyncio.timeout(SECONDS):
            return await self._records.get()

    async def ended(self) -> CallRecord:
        """The next inference call, once it has ended, after a look at where it was and what was booked."""
        record = await self.record()
        assert (record.location, record.reason, record.outcome) == (self.way.location, self.way.reason, "ok")
        self.check()
        if self.is_cloud:
            bill = self.world.cloud.bills[self._checked]
            self._checked += 1
            assert (record.tokens_in, record.tokens_out) == (bill.tokens_in, bill.tokens_out)
            assert record.cost == bill.cost_micro_usd > 0
            if self._checked == len(self.world.cloud.bills):
                assert self.world.booked == self.world.cloud.billed_micro_usd
        return record

    def prepare_refusal(self) -> tuple[str, str]:
        """Makes the cloud what this way's name says. The model to ask for, and the text."""
        if self.way is NO_CLOUD:
            self.world.cloud.misbehave = [faults.Cut("before_work")]
        if self.way is LIMITED:
            self.world.cloud.misbehave = [faults.Status(429)]
        return (f"{TEXT_MODEL}-cloud", PRIVATE_TEXT) if self.way is PRIVATE else (MODEL, "Towns: Ulm, Pisa")

    async def refused(self, status: int) -> None:
        """The next inference call ended with a refusal by this way's reason, and cost nothing."""
        record = await self.record()
        assert (record.status, record.location, record.reason) == (status, "none", self.way.reason)
        assert record.outcome == "refused"
        for request in self.world.cloud.requests:
            check_at_cloud(request)
        assert not [one for one in self.world.local.requests if "/show" not in one.target and one.method == "POST"]
        assert not self.world.cloud.bills

    def check(self) -> None:
        """Whatever happened: each key only where it belongs, nothing at the cloud that was to stay here."""
        for request in self.world.cloud.requests:
            check_at_cloud(request)
        for request in self.world.local.requests:
            assert KEY.encode() not in request.raw_head + request.body
        assert not self.world.local.cloud_calls
        if not self.is_cloud:
            assert not self.world.cloud.requests
        assert self.world.booked >= self.world.cloud.billed_micro_usd

    async def left(self, request: RecordedRequest) -> CallRecord:
        """The call that a client just gave up: its upstream call is over too, and it is on the books."""
        async with asyncio.timeout(SECONDS):
            await request.closed_by_peer.wait()
            await request.finished.wait()
        assert request.aborted
        record = await self.record()
        assert record.outcome == "client_disconnect"
        self.check()
        return record


def check_at_cloud(request: RecordedRequest) -> None:
    """The head of a request at the cloud is the sidecar's own, with the cloud's key in it and no other."""
    names = {name.decode().lower() for name, _ in request.headers}
    assert names - {"anthropic-version"} <= _CLOUD_SEES
    assert request.header_values("authorization") == [f"Bearer {KEY}"]
    assert APP_KEY.encode() not in request.raw_head + request.body


@asynccontextmanager
async def opened(way: Way, folder: Path) -> AsyncIterator[Place]:
    local = StandInOllama(
        [
            StandInModel(f"{MODEL}:latest", capabilities=("completion", "tools")),
            StandInModel(f"{EYES}:latest", capabilities=("completion", "vision")),
            StandInModel(f"{EMBEDDER}:latest", capabilities=("embedding",)),
        ]
    )
    cloud = StandInCloud(
        [
            StandInModel(TEXT_MODEL, capabilities=("completion", "tools")),
            StandInModel(VISION_MODEL, capabilities=("completion", "tools", "vision")),
        ],
        key=KEY,
        prices=PRICES,
    )
    # No line per call: each log file that was written to takes a tenth of a second to close.
    settings = {"log": {"level": "error"}, **way.settings}
    async with world(folder, settings, local=local, cloud=cloud) as running:
        yield Place(way, running)


async def collect(into: list[T], stream: Awaitable[AsyncIterator[T]]) -> None:
    """Reads a stream to its end, or to the error that ends it."""
    async for part in await stream:
        into.append(part)  # noqa: PERF401 - what came before an error counts


async def run(app: Callable[[], T]) -> T:
    """A synchronous app, as it runs beside the sidecar: in a thread of its own."""
    async with asyncio.timeout(2 * SECONDS):
        return await asyncio.to_thread(app)
