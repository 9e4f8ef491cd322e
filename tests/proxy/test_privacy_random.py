"""Secrets planted at random places, in random encodings, under faults and reloads: none reaches the cloud.

The assertion is on every byte that the stand-in cloud received. `SIDECAR_PRIVACY_CALLS` asks for more than the calls
of every day, `SIDECAR_PRIVACY_SEED` for others.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cloud_support import DIALECTS, Dialect, all_booked, books, calm, hurry, until

from sidecar import app
from sidecar.standins import RecordedRequest, StandInCloud, StandInModel, StandInOllama, faults
from sidecar.standins.ollama import Choice
from support.raw import connect, request
from support.world import KEY, PRICES, TEXT_MODEL, VISION_MODEL, World, merge

CALLS = int(os.environ.get("SIDECAR_PRIVACY_CALLS", "2400"))
SEED = int(os.environ.get("SIDECAR_PRIVACY_SEED", "1"))
RELOAD_EVERY = 160
LETTERS = "abcdefghijkmnopqrstuvwxyz"


def _luhn(digits: str) -> str:
    total = sum(sum(divmod(int(d) * (1 + i % 2), 10)) for i, d in enumerate(reversed(digits), 1))
    return digits + str(-total % 10)


def _word(chance: random.Random, length: int) -> str:
    return "".join(chance.choices(LETTERS, k=length))


def _email(chance: random.Random) -> str:
    return f"{_word(chance, 6)}.{_word(chance, 7)}@{_word(chance, 9)}.example.org"


def _card(chance: random.Random) -> str:
    digits = _luhn("4" + "".join(chance.choices("0123456789", k=14)))
    return " ".join(digits[i : i + 4] for i in range(0, 16, 4))


def _token(chance: random.Random) -> str:
    alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789"
    return "ghp_" + "".join(chance.choices(alphabet, k=36))


def _keyword(chance: random.Random) -> str:
    return f"This offer for {_word(chance, 10)} is confidential."


def _own_keyword(chance: random.Random) -> str:
    return f"Projekt Nordlicht needs {_word(chance, 10)} by noon"


def _label(chance: random.Random) -> str:
    return f"Classification: confidential\nThe plant in {_word(chance, 10)} closes"


KINDS: tuple[Callable[[random.Random], str], ...] = (_email, _card, _token, _keyword, _own_keyword, _label)


def _spaced(text: str) -> str:
    """Format characters between the letters: invisible, and gone for whoever reads it."""
    return "\u200b".join(text) if "\n" not in text else text.replace(" ", "\u2060 ")


def _wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


ENCODINGS: tuple[Callable[[str], str], ...] = (
    str,
    str,
    _spaced,
    _wide,
    lambda text: "".join(f"&#{ord(c)};" for c in text),
    lambda text: html.escape(text).replace("@", "&commat;"),
    lambda text: quote(text, safe=""),
    lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    lambda text: base64.b64encode(f"see {text} there".encode()).decode(),
    lambda text: text.encode().hex(),
    lambda text: json.dumps({"note": text}),
    lambda text: json.dumps(json.dumps(text)),
)


@dataclass
class Plan:
    """One call. `hidden` are the strings that must not be in anything that the cloud received."""

    dialect: Dialect
    body: Any
    headers: list[tuple[str, str]]
    hidden: list[str] = field(default_factory=list)
    query: str = ""
    coding: str = ""
    chunked: bool = False
    sensitive: bool = False


def _in_the_body(chance: random.Random, dialect: Dialect, body: dict[str, Any], text: str) -> None:
    """Puts a text into one of the places where a body may have one."""
    places: list[Callable[[], object]] = [
        lambda: body.__setitem__(_word(chance, 6), text),
        lambda: body.__setitem__(_word(chance, 6), {"deep": [1, {"er": [text]}]}),
        lambda: body.__setitem__("metadata", {text: "a key"}),
        lambda: body.__setitem__("user", text),
        lambda: body.__setitem__("tools", [_tool(dialect, text)]),
    ]
    if dialect.name == "generate":
        places += [partial(body.__setitem__, name, text) for name in ("prompt", "system", "suffix", "template")]
        places.append(lambda: body.__setitem__("format", {"type": "object", "title": text}))
    elif dialect.name == "responses":
        places += [
            lambda: body.__setitem__("input", text),
            lambda: body.__setitem__("instructions", text),
            lambda: body.__setitem__("input", [{"role": "user", "content": _parts(chance, "input_text", text)}]),
            lambda: body.__setitem__("input", [{"type": "function_call_output", "call_id": "c", "output": text}]),
        ]
    else:
        messages = body["messages"]
        places += [
            lambda: messages.append({"role": "user", "content": text}),
            lambda: messages.insert(0, {"role": "user", "content": f"Before. {text}"}),
            lambda: messages.append({"role": "assistant", "content": text, "name": "x"}),
            lambda: messages[0].__setitem__("name", text),
        ]
        if dialect.name in ("openai", "anthropic"):
            places += [lambda: messages.append({"role": "user", "content": _parts(chance, "text", text)})] * 2
        if dialect.name == "anthropic":
            places.append(lambda: body.__setitem__("system", [{"type": "text", "text": text}]))
            result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]}
            places.append(lambda: messages.append({"role": "user", "content": [result]}))
    chance.choice(places)()


def _tool(dialect: Dialect, text: str) -> dict[str, Any]:
    if dialect.name == "anthropic":
        return {"name": "look", "description": text, "input_schema": {"type": "object"}}
    if dialect.name == "responses":
        return {"type": "function", "name": "look", "description": text, "parameters": {"type": "object"}}
    return {"type": "function", "function": {"name": "look", "description": text, "parameters": {"type": "object"}}}


def _parts(chance: random.Random, kind: str, text: str) -> list[dict[str, str]]:
    """The text in one part or in several: a model reads them one behind the other."""
    cut = chance.randrange(len(text)) if chance.random() < 0.6 else 0
    return [{"type": kind, "text": part} for part in (text[:cut], text[cut:]) if part]


HEADERS = (
    *("X-Task-Id", "X-User-Id", "X-Request-Id", "User-Agent", "Cookie", "Authorization", "X-Api-Key", "X-Anything"),
    *("Anthropic-Version", "Anthropic-Beta", "OpenAI-Organization", "Accept", "Accept-Language", "Content-Type"),
    *("Referer", "X-Forwarded-For", "baggage", "tracestate", "X-Task-Type", "X-Complexity", "X-Cloud-Model"),
)


def a_plan(chance: random.Random) -> Plan:
    dialect = chance.choice(DIALECTS)
    body = dialect.body(f"List the towns of {_word(chance, 8)}.", stream=chance.random() < 0.5)
    quality = chance.choice(["high", "high", "high", "low"])
    plan = Plan(dialect, body, [("X-Task-Type", "extraction"), ("X-Quality-Requirement", quality)])
    if chance.random() < 0.2:
        body["model"] = chance.choice([f"{TEXT_MODEL}-cloud", f"{VISION_MODEL}:cloud", "summarizer"])
    where = chance.random()
    if where < 0.45:
        secret = chance.choice(KINDS)(chance)
        told = chance.choice(ENCODINGS)(secret)
        _in_the_body(chance, dialect, body, told)
        plan.hidden += [secret, told]
        plan.sensitive = True
    elif where < 0.6:
        marker = _word(chance, 20)
        _in_the_body(chance, dialect, body, marker)
        value = chance.choice(["pii", "confidential", " PII ", "Confidential", "secret", "", "public, pii", "none"])
        plan.headers.append(("X-Data-Classification", value))
        if chance.random() < 0.3:
            plan.headers.insert(0, ("x-data-classification", "public"))
        plan.hidden.append(marker)
        plan.sensitive = True
    elif where < 0.75:
        secret = chance.choice((_email, _token))(chance)
        plan.headers.append((chance.choice(HEADERS), secret))
        plan.hidden.append(secret)
    elif where < 0.8:
        secret = _token(chance)
        plan.query = f"?{_word(chance, 3)}={secret}"
        plan.hidden.append(secret)
    if chance.random() < 0.3:
        plan.headers.append(("X-Data-Classification", chance.choice(["public", "internal"])))
    plan.coding = chance.choice(["", "", "", "", "", "gzip"])
    plan.chunked = chance.random() < 0.2
    return plan


def _wire(chance: random.Random, plan: Plan) -> bytes:
    data = json.dumps(plan.body, ensure_ascii=chance.random() < 0.5).encode()
    headers = list(plan.headers)
    if plan.coding:
        data = gzip.compress(data)
        headers.append(("Content-Encoding", plan.coding))
    target = plan.dialect.path + plan.query
    wire = request("POST", target, headers, data, chunked=plan.chunked)
    if plan.chunked and chance.random() < 0.3:
        secret = _token(chance)
        plan.hidden.append(secret)
        wire = wire[:-2] + f"X-Trailer: {secret}\r\n\r\n".encode()
    return wire


async def one_call(here: World, chance: random.Random, plan: Plan, tally: Counter[str]) -> None:
    async with connect(here.port) as client:
        await client.send(_wire(chance, plan))
        if chance.random() < 0.05:
            client.leave()
            tally["left"] += 1
            return
        answer = await client.read("POST")
    place = answer.get("x-sidecar-location") or "?"
    tally[place] += 1
    tally[answer.get("x-sidecar-reason") or "?"] += 1
    if plan.sensitive:
        assert place != "cloud", plan
        tally["sensitive"] += 1


def a_fault(chance: random.Random) -> Choice:
    if chance.random() < 0.7:
        return None
    status = chance.choice([400, 401, 404, 408, 429, 500, 502, 503])
    return chance.choice(
        [
            faults.Status(status),
            faults.Cut("before_head"),
            faults.Cut("mid_record"),
            faults.Garbage("body"),
            faults.ErrorRecord(1),
            faults.NoFinalRecord(),
            faults.Hang("after_head"),
        ]
    )


BASE: dict[str, Any] = {
    "classification": {"default": "public", "keywords": {"confidential": ["Projekt Nordlicht"]}},
    "local": {"models": {"extraction": "llama3", "generation": "llama3"}},
    "ollama_cloud": {
        "breaker": {"failures": 10_000},
        "cost_limits": {"daily_budget_usd": 1000, "monthly_budget_usd": 1000},
    },
}
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"classification": {"default": "internal"}},
    {"classification": {"default": "confidential"}},
    {"classification": {"keywords": {"strict": True}}},
    {"classification": {"images": "confidential"}},
    {"ollama_cloud": {"decision_strategy": "quality_optimized"}},
    {"ollama_cloud": {"decision_strategy": "cost_optimized"}},
    {"ollama_cloud": {"enabled": False}},
    {"ollama_cloud": {"fallback": {"on_cloud_unavailable": "error", "on_rate_limit": "error"}}},
    {"ollama_cloud": {"max_output_tokens": 300}},
    {"canary": {"percent": 50}},
)


async def reload(here: World, change: dict[str, Any], started: dict[str, Any]) -> None:
    before = here.sidecar.services.policy.generation
    here.write_settings(merge(started, change))
    await until(lambda: here.sidecar.services.policy.generation > before, "the changed settings")


@pytest.fixture
def quick_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WATCH_SECONDS", 0.01)


@pytest.mark.usefixtures("quick_reloads")
async def test_no_planted_secret_reaches_the_cloud(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    tally: Counter[str] = Counter()
    hidden: list[str] = []
    alias = StandInModel("summarizer", remote_host="https://ollama.com:443", remote_model=TEXT_MODEL)
    local = StandInOllama([StandInModel("llama3", capabilities=("completion", "tools", "insert")), alias])
    cloud = StandInCloud([TEXT_MODEL, VISION_MODEL], key=KEY, prices=PRICES)

    def misbehave(asked: RecordedRequest) -> Choice:
        return a_fault(chance) if asked.method == "POST" else None

    cloud.misbehave = misbehave
    async with books(tmp_path, BASE, local=local, cloud=cloud) as here:
        started = here.settings()
        current: dict[str, Any] = {}
        hurry(here, 0.2)
        done = 0
        while done < CALLS:
            if done // RELOAD_EVERY > (done - 8) // RELOAD_EVERY and done:
                # In the middle of calls, as it comes.
                change = chance.choice([one for one in CHANGES if one != current])
                reloading = asyncio.create_task(reload(here, change, started))
                current = change
            else:
                reloading = asyncio.create_task(asyncio.sleep(0))
            calm(here)
            plans = [a_plan(chance) for _ in range(8)]
            await asyncio.gather(*(one_call(here, chance, plan, tally) for plan in plans))
            await reloading
            hurry(here, 0.2)
            for plan in plans:
                hidden += plan.hidden
            done += len(plans)
        await all_booked(here)
        received = b"\n".join([got.raw_head + got.raw_body + repr(got.trailers).encode() for got in cloud.requests])
        plain = received.decode("utf-8", "replace")
        decoded = plain.encode().decode("unicode_escape", "replace")
        leaked = [text for text in hidden if text in plain or text in decoded]
        assert not leaked, leaked[:5]
        assert len(hidden) > CALLS // 2
    assert tally["sensitive"] > CALLS // 3, tally
    assert tally["cloud"] > CALLS // 25, tally
    assert tally["sensitive_data"] > CALLS // 10, tally
    assert tally["cloud_unavailable"] > 3, tally


@pytest.mark.usefixtures("quick_reloads")
@pytest.mark.parametrize("phase", ["the money", "the audit log", "the connection"])
async def test_settings_that_turn_stricter_hold_for_calls_that_wait(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was decided under the old settings, and has not left yet, does not leave."""
    waits, goes_on = asyncio.Event(), asyncio.Event()
    async with books(tmp_path, BASE) as here:
        started = here.settings()
        services = here.sidecar.services
        assert services.keeper is not None
        assert services.audit is not None
        assert services.door is not None
        owner, name = {
            "the money": (services.keeper, "reserve"),
            "the audit log": (services.audit, "intent"),
            "the connection": (services.door._pool, "acquire"),
        }[phase]
        original = getattr(owner, name)

        async def slow(*given: Any, **named: Any) -> Any:
            waits.set()
            await goes_on.wait()
            return await original(*given, **named)

        monkeypatch.setattr(owner, name, slow)
        call = asyncio.create_task(
            here.chat("Nothing of note.", {"X-Task-Type": "extraction", "X-Quality-Requirement": "high"})
        )
        await waits.wait()
        await reload(here, {"classification": {"default": "confidential"}}, started)
        goes_on.set()
        answer = await call
        assert answer.get("x-sidecar-location") == "local"
        assert answer.get("x-sidecar-reason") == "cloud_unavailable"
        assert not here.cloud.requests
