"""What the tests of the cloud path share: the dialects as a client sees them, and books that have to balance."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidecar.standins import StandInCloud, StandInOllama
from sidecar.stores.keeper import Keeper
from sidecar.telemetry import log
from sidecar.upstream.cloud import CloudDoor
from support.raw import SECONDS, Answer
from support.world import HIGH, World, world

LOCAL_MODEL = "llama3"
FIELDS = {
    *("timestamp", "event", "request_id", "trace_id", "task_id", "task_type", "data_classification"),
    *("cloud_model", "decision_reason"),
}
"""What every line of the audit log about a call has."""


@dataclass(frozen=True)
class Dialect:
    """One way to ask. `cap` is where its bound on output tokens stands."""

    name: str
    path: str
    cap: tuple[str, ...]

    def body(self, text: str, *, stream: bool = False, model: str = LOCAL_MODEL, **more: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model}
        if self.name == "generate":
            body["prompt"] = text
        elif self.name == "responses":
            body["input"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        if self.name == "anthropic":
            body["max_tokens"] = 1000
        body["stream"] = stream
        return body | more

    def capped(self, body: dict[str, Any], cap: int) -> dict[str, Any]:
        """The body with a bound on output tokens."""
        if len(self.cap) == 2:
            return body | {self.cap[0]: {self.cap[1]: cap}}
        return body | {self.cap[0]: cap}

    def cap_of(self, body: Any) -> Any:
        for name in self.cap:
            body = body.get(name) if isinstance(body, dict) else None
        return body

    def records(self, answer: Answer) -> list[Any]:
        """The JSON records of an answer, streamed or not. Raises where one is no JSON: a client would, too."""
        if (answer.get("content-type") or "").startswith("application/json"):
            return [answer.json()]
        if self.path.startswith("/api/"):
            assert b"\n\n" not in answer.body, "a blank line breaks clients that read each line as JSON"
            return [json.loads(line) for line in answer.body.splitlines()]
        return [json.loads(data) for _, data in answer.events() if data != "[DONE]"]

    def whole(self, answer: Answer) -> bool:
        """Whether an answer has its own last record, and no error."""
        records = self.records(answer)
        if not records or any(self.is_error(record) for record in records):
            return False
        streamed = not (answer.get("content-type") or "").startswith("application/json")
        last = records[-1]
        if self.path.startswith("/api/"):
            return last.get("done") is True
        if not streamed:
            return any(name in last for name in ("choices", "output", "content"))
        if self.name == "openai":
            return answer.body.endswith(b"data: [DONE]\n\n")
        return last["type"] in ("message_stop", "response.completed")

    def is_error(self, record: Any) -> bool:
        if self.name == "anthropic" or (self.name == "responses" and "type" in record):
            return bool(record.get("type") == "error")
        return record.get("error") is not None

    def message(self, record: Any) -> str:
        """The text of an error record, in exactly this dialect's shape."""
        if self.path.startswith("/api/"):
            assert set(record) == {"error"}
            return str(record["error"])
        if self.name == "anthropic":
            assert set(record) >= {"type", "error"}
            assert set(record["error"]) == {"type", "message"}
            return str(record["error"]["message"])
        if "error" in record and record["error"] is not None:
            assert set(record["error"]) == {"message", "type", "param", "code"}
            return str(record["error"]["message"])
        assert set(record) >= {"type", "code", "message", "param"}
        return str(record["message"])

    def models(self, answer: Answer) -> set[str]:
        """Every model that the answer names."""
        found = set()
        for record in self.records(answer):
            inner = record.get("message") if self.name == "anthropic" else record.get("response")
            for one in (record, inner):
                if isinstance(one, dict) and "model" in one:
                    found.add(one["model"])
        return found


CHAT = Dialect("chat", "/api/chat", ("options", "num_predict"))
GENERATE = Dialect("generate", "/api/generate", ("options", "num_predict"))
OPENAI = Dialect("openai", "/v1/chat/completions", ("max_tokens",))
RESPONSES = Dialect("responses", "/v1/responses", ("max_output_tokens",))
ANTHROPIC = Dialect("anthropic", "/v1/messages", ("max_tokens",))
DIALECTS = (CHAT, GENERATE, OPENAI, RESPONSES, ANTHROPIC)


async def until(true: Callable[[], object], what: str) -> None:
    """Waits for a state that no event announces."""
    try:
        async with asyncio.timeout(SECONDS):
            while not true():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


def keeper(here: World) -> Keeper:
    found = here.sidecar.services.keeper
    assert found is not None
    return found


def door(here: World) -> CloudDoor:
    found = here.sidecar.services.door
    assert found is not None
    return found


def settled(here: World) -> int:
    return keeper(here).standing.settled


async def all_booked(here: World) -> None:
    """Waits until no reservation is open: a call whose client left books a moment later."""
    await until(lambda: keeper(here).standing.reserved == 0, "the end of every reservation")


def calm(here: World) -> None:
    """Lets the cloud be asked again at once, whatever it answered before."""
    door(here).breaker.succeeded()
    door(here)._rate_until = float("-inf")


def hurry(here: World, seconds: float) -> None:
    """Another bound on the wait for a byte of the cloud, for stand-ins that never send one."""
    door(here).settings = replace(door(here).settings, timeout_seconds=seconds)


def check_audit(here: World) -> list[dict[str, Any]]:
    """Every intent has exactly one outcome behind it, and their costs are what was settled. After the stop."""
    lines = here.audit()
    intents: Counter[str] = Counter()
    for line in lines:
        if line["event"] == "ollama_cloud_api_key":
            continue
        assert line["event"] in ("ollama_cloud_intent", "ollama_cloud_execution", "ollama_cloud_denied"), line
        assert set(line) >= FIELDS, line
        if line["event"] == "ollama_cloud_intent":
            intents[line["request_id"]] += 1
        elif line["event"] == "ollama_cloud_execution":
            intents[line["request_id"]] -= 1
            assert intents[line["request_id"]] >= 0, f"an outcome without its intent: {line}"
    assert not +intents, f"intents without an outcome: {+intents}"
    return lines


@asynccontextmanager
async def books(
    folder: Path,
    over: Mapping[str, Any] | None = None,
    *,
    local: StandInOllama | None = None,
    cloud: StandInCloud | None = None,
) -> AsyncIterator[World]:
    """A world whose books have to balance in the end, and that leaves no task and no exception behind."""
    loop = asyncio.get_running_loop()
    told: list[Mapping[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    before = asyncio.all_tasks()
    patience, log.FLUSH_SECONDS = log.FLUSH_SECONDS, 0.001  # every stop waits for the log's last batch
    try:
        async with world(folder, over, local=local, cloud=cloud) as here:
            yield here
            await all_booked(here)
            booked = settled(here)
            await until(lambda: here.sidecar.services.local.calls == 0, "the end of the local calls")
            page = await here.metrics()
            assert round(page["ollama_cloud_cost_usd_total"] * 1_000_000) == booked
            assert page["ollama_sidecar_local_calls"] == page["ollama_sidecar_local_queue_depth"] == 0
            assert not here.local.cloud_calls, "the local server went to its cloud by itself"
        assert booked >= here.cloud.billed_micro_usd, "the cloud billed more than was booked"
        lines = check_audit(here)
        told_costs = [line["cost_usd"] for line in lines if line["event"] == "ollama_cloud_execution"]
        assert sum(round(cost * 1_000_000) for cost in told_costs) == booked
        here_now = before | {asyncio.current_task()}
        await until(lambda: asyncio.all_tasks() <= here_now, f"the end of {asyncio.all_tasks() - here_now}")
        gc.collect()
        await asyncio.sleep(0)
    finally:
        log.FLUSH_SECONDS = patience
        loop.set_exception_handler(None)
    assert not told, told


async def high(here: World, dialect: Dialect, text: str = "List the towns.", **more: Any) -> Answer:
    """A call that the strategy wants in the cloud."""
    return await here.post(dialect.path, dialect.body(text, **more), HIGH)


def went(answer: Answer) -> tuple[str | None, str | None, str | None]:
    """Location, model and reason, as the headers say."""
    return answer.get("x-sidecar-location"), answer.get("x-sidecar-model"), answer.get("x-sidecar-reason")
