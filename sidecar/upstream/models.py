"""What the local Ollama says of its models: whether one really runs there, and how large it is.

A local name can stand for a model that the local server itself would run on Ollama's cloud (`remote_host`). So the
server is asked about every name before it gets a call, and what it said counts for a few seconds only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sidecar.core.models import short
from sidecar.upstream.connection import UpstreamError
from sidecar.upstream.fetch import fetch_json
from sidecar.upstream.pool import Pool

# The contract's bound on how old an answer may be, and the age at which it is asked anew beside the calls.
MOST_SECONDS = 5.0
REFRESH_SECONDS = 3.0
# How old a list of all models may be for a new answer: together with that answer's own age it stays below the bound.
TAGS_SECONDS = MOST_SECONDS - REFRESH_SECONDS
ASK_SECONDS = 10.0
MAX_NAMES = 1000
# Ollama takes names of up to 350 bytes; a longer one is asked for, never kept.
MAX_NAME = 1024
# What an answer about a model says something with: it is there, its name is none, it is not, or nobody can be asked
# because the server is no Ollama.
_TELLING = frozenset((200, 400, 404, 405))


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One name at the local server. `remote_model` is set where it runs on the cloud; `size` in bytes, if known."""

    name: str
    exists: bool
    remote_model: str = ""
    size: int | None = None

    @property
    def gigabytes(self) -> float | None:
        """GB = 10⁹ bytes."""
        return None if self.size is None else self.size / 1e9


class LocalModels:
    """Answers about names, cached; concurrent questions about one name are one."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, tuple[float, LocalModel]] = {}
        self._asking: dict[str, asyncio.Task[LocalModel]] = {}
        self._tags: dict[str, dict[str, Any]] = {}
        self._tags_at = float("-inf")
        self._status: tuple[float, bool] = (float("-inf"), False)
        self._changing = 0
        self._generation = 0

    def cached(self, name: str) -> LocalModel | None:
        """What is known of a name and fresh; None where `ask` has to find out. Refreshes ahead of time."""
        entry = self._known.get(name)
        if entry is None or self._changing:
            return None
        age = self._loop.time() - entry[0]
        if age >= MOST_SECONDS:
            return None
        if age >= REFRESH_SECONDS and name not in self._asking:
            self._start(name)
        return entry[1]

    async def ask(self, name: str) -> LocalModel:
        """What the server says of a name now. Raises UpstreamError where it cannot be asked."""
        task = self._asking.get(name)
        if task is None or self._changing:
            task = self._start(name)
        return await asyncio.shield(task)

    async def cloud_disabled(self) -> bool:
        """Whether the server says that it never uses its cloud. False where it does not say."""
        at, disabled = self._status
        if self._loop.time() - at < MOST_SECONDS:
            return disabled
        try:
            status, value = await fetch_json(self._pool, "GET", "/api/status", seconds=ASK_SECONDS)
        except UpstreamError:
            return False
        cloud = value.get("cloud") if status == 200 and isinstance(value, dict) else None
        disabled = isinstance(cloud, dict) and cloud.get("disabled") is True
        self._status = (self._loop.time(), disabled)
        return disabled

    def known_names(self) -> frozenset[str]:
        """The server's models as it lists them, for labels; empty until it was asked."""
        return frozenset(self._tags)

    def changing(self) -> None:
        """A call that may change the models begins: nothing that is known counts until `changed`."""
        self._changing += 1
        self._forget()

    def changed(self) -> None:
        """That call ended."""
        self._changing -= 1
        self._forget()

    def doubt(self) -> None:
        """The server may not be the one that was asked: nothing that is known counts."""
        self._forget()
        self._status = (float("-inf"), False)

    def _forget(self) -> None:
        self._generation += 1
        self._known.clear()
        self._asking.clear()
        self._tags_at = float("-inf")

    def _start(self, name: str) -> asyncio.Task[LocalModel]:
        task = self._loop.create_task(self._find_out(name))
        task.add_done_callback(_ignore)
        self._asking[name] = task
        return task

    async def _find_out(self, name: str) -> LocalModel:
        try:
            while True:
                generation, asked_at = self._generation, self._loop.time()
                if self._changing or asked_at - self._tags_at >= TAGS_SECONDS:
                    await self._read_tags()
                asked = {"model": _as_go_reads(name)}
                status, shown = await fetch_json(self._pool, "POST", "/api/show", asked, seconds=ASK_SECONDS)
                if generation == self._generation:
                    break  # else the models changed while they were asked about
            model = self._combine(name, status, shown)
            if not self._changing and len(name) <= MAX_NAME:
                if len(self._known) >= MAX_NAMES:
                    self._known.clear()
                # As old as the older of the two answers.
                self._known[name] = (min(asked_at, self._tags_at), model)
            return model
        finally:
            if self._asking.get(name) is asyncio.current_task():
                del self._asking[name]

    def _combine(self, name: str, status: int, shown: Any) -> LocalModel:
        """One reading of both answers: either of them can say that a model is remote, and one has to say that it is
        not. Raises UpstreamError where the server told nothing of the model."""
        listed = self._tags.get(short(name), {})
        entries = [entry for entry in (shown if status == 200 else None, listed) if isinstance(entry, dict)]
        told = [entry.get(key) for key in ("remote_model", "remote_host") for entry in entries]
        remote = next((value if isinstance(value, str) else "other" for value in told if value), "")
        if not remote and (status not in _TELLING or (status == 200 and not isinstance(shown, dict))):
            raise UpstreamError("protocol", f"its answer ({status}) does not tell where a model runs", sent=True)
        size = listed.get("size")
        return LocalModel(name, status == 200, remote, size if isinstance(size, int) else None)

    async def _read_tags(self) -> None:
        generation, asked_at = self._generation, self._loop.time()
        status, value = await fetch_json(self._pool, "GET", "/api/tags", seconds=ASK_SECONDS)
        if status >= 500:
            raise UpstreamError("protocol", f"the local server answered {status} about its models", sent=True)
        models = value.get("models") if status == 200 and isinstance(value, dict) else None
        found: dict[str, dict[str, Any]] = {}
        for entry in models if isinstance(models, list) else []:
            for key in ("name", "model"):
                if isinstance(entry, dict) and isinstance(entry.get(key), str):
                    found[short(entry[key])] = entry
        if generation == self._generation:
            self._tags, self._tags_at = found, asked_at


def _as_go_reads(name: str) -> str:
    """A half of a surrogate pair, which JSON can say and no encoding can, is U+FFFD to Ollama."""
    return name.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _ignore(task: asyncio.Task[LocalModel]) -> None:
    # Whoever waits gets the error; a refresh ahead of time has nobody: the call that needs the answer will ask.
    if not task.cancelled():
        task.exception()
