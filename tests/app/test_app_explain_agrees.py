"""What `explain` says of a request is what the running sidecar does with it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sidecar.explain import Given, explain
from sidecar.settings import load
from support.raw import ask
from support.world import TEXT_MODEL, VISION_MODEL, world

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"towns": {"type": "array", "items": {"type": "string"}}}}
HIGH = {"X-Quality-Requirement": "high"}
NAMED = f"{TEXT_MODEL}-cloud"


@dataclass(frozen=True)
class Case:
    """One request under settings, and where it is to go."""

    name: str
    body: Any
    location: str
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/api/chat"
    over: Mapping[str, Any] = field(default_factory=dict)


def chat(text: str = "List the towns: Ulm, Pisa.", **more: Any) -> dict[str, Any]:
    return {"model": "llama3", "messages": [{"role": "user", "content": text}], "stream": False, **more}


def extraction(text: str = "List the towns: Ulm, Pisa.", **more: Any) -> dict[str, Any]:
    return chat(text, format=SCHEMA, **more)


def openai(**more: Any) -> dict[str, Any]:
    response = {"type": "json_schema", "json_schema": {"name": "towns", "schema": SCHEMA}}
    return {
        "model": "llama3",
        "messages": [{"role": "user", "content": "Ulm, Pisa"}],
        "response_format": response,
        **more,
    }


def anthropic(**more: Any) -> dict[str, Any]:
    return {"model": "llama3", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}], **more}


def cloud(**more: Any) -> dict[str, Any]:
    return {"ollama_cloud": more}


LOCAL_MODELS = {"local": {"models": {"generation": "llama3", "extraction": "llava"}}}
QUALITY = cloud(decision_strategy="quality_optimized")
ERROR = {"on_budget_exceeded": "error", "on_cloud_unavailable": "error"}
EXTRACTED = "high_quality_extraction"
ASKED = "cloud_model_requested"

CASES = (
    Case("a plain chat", chat(), "local", "default_local"),
    Case("best quality for an extraction", extraction(), "cloud", EXTRACTED, HIGH),
    Case("best quality for a chat", chat(), "local", "default_local", HIGH),
    Case("a header makes it an extraction", chat(), "cloud", EXTRACTED, {**HIGH, "X-Task-Type": " Extraction "}),
    Case("in a hurry", extraction(), "local", "low_latency_required", {"X-Latency-Requirement-Ms": "100"}),
    Case("quality before hurry", extraction(), "cloud", EXTRACTED, {**HIGH, "X-Latency-Requirement-Ms": "1"}),
    Case("a wrong quality", extraction(), "local", "default_local", {"X-Quality-Requirement": "best"}),
    Case("a wrong latency", extraction(), "local", "default_local", {"X-Latency-Requirement-Ms": "-5"}),
    Case("a wrong task type", extraction(), "cloud", EXTRACTED, {**HIGH, "X-Task-Type": "nonsense"}),
    # Data classes.
    Case("an e-mail address", extraction("Who is jane@example.com?"), "local", "sensitive_data", HIGH),
    Case("a confidential header", extraction(), "local", "sensitive_data", {**HIGH, "X-Data-Classification": "PII"}),
    Case("an internal header", extraction(), "cloud", EXTRACTED, {**HIGH, "X-Data-Classification": "internal"}),
    Case("a class that is none", extraction(), "local", "sensitive_data", {**HIGH, "X-Data-Classification": "x"}),
    Case("an empty class", extraction(), "local", "sensitive_data", {**HIGH, "X-Data-Classification": ""}),
    Case("a pod that is confidential", extraction(), "local", "sensitive_data", HIGH,
         over={"classification": {"default": "confidential"}}),
    Case("a key in two cases", b'{"model":"llama3","Model":"llama3","format":{"type":"object"},'
         b'"messages":[{"role":"user","content":"x"}]}', "local", "sensitive_data", HIGH),
    Case("audio in it", openai(messages=[{"role": "user", "content": [
        {"type": "input_audio", "input_audio": {"data": "AP8A/wD/AP8A", "format": "wav"}}]}]),
        "local", "sensitive_data", HIGH, path="/v1/chat/completions"),
    # Images.
    Case("an image", {"model": "llava", "stream": False,
                      "messages": [{"role": "user", "content": "What?", "images": [PNG]}]}, "cloud", EXTRACTED, HIGH),
    Case("images are confidential here", {"model": "llava", "stream": False, "prompt": "What?", "images": [PNG]},
         "local", "sensitive_data", HIGH, path="/api/generate", over={"classification": {"images": "confidential"}}),
    Case("an image by its URL", openai(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}]),
        "local", "local_only_operation", HIGH, path="/v1/chat/completions"),
    # Dialects and routes.
    Case("OpenAI's chat", openai(), "cloud", EXTRACTED, HIGH, path="/v1/chat/completions"),
    Case("Anthropic's messages", anthropic(), "local", "default_local", HIGH, path="/v1/messages"),
    Case("Anthropic's, as an extraction", anthropic(), "cloud", EXTRACTED, {**HIGH, "X-Task-Type": "extraction"},
         path="/v1/messages"),
    Case("an embedding", {"model": "nomic-embed-text", "input": "sky"}, "local", "default_local", HIGH, "/api/embed"),
    Case("an embedding that is said to be an extraction", {"model": "nomic-embed-text", "input": "sky"}, "local",
         "local_only_operation", {**HIGH, "X-Task-Type": "extraction"}, path="/api/embed"),
    Case("old completions", {"model": "llama3", "prompt": "Hi"}, "local", "local_only_operation",
         {**HIGH, "X-Task-Type": "extraction"}, path="/v1/completions"),
    Case("a path in another spelling", extraction(), "local", "local_only_operation", HIGH, path="/api//chat"),
    Case("a body in gzip", gzip.compress(json.dumps(extraction()).encode()), "local", "local_only_operation",
         {**HIGH, "Content-Encoding": "gzip"}),
    Case("nothing but loading", {"model": "llama3"}, "local", "local_only_operation",
         {**HIGH, "X-Task-Type": "extraction"}, path="/api/generate"),
    Case("what is no JSON", b"nonsense", "none", "unreadable_body"),
    Case("a coding that nobody knows", b"xx", "none", "unreadable_body", {"Content-Encoding": "br"}),
    Case("a body that is too large", extraction("x" * 1_100_000), "none", "bad_request", HIGH,
         over={"listen": {"max_inference_body_mb": 1}}),
    # Cloud models.
    Case("a model of the cloud by name", chat(model=NAMED), "cloud", ASKED),
    Case("the same in another spelling", chat(model=f" {TEXT_MODEL}:CLOUD "), "cloud", ASKED),
    Case("a cloud model with what must stay", chat("a@example.com", model=NAMED), "none", "sensitive_data"),
    Case("the same with a local model for it", chat("a@example.com", model=NAMED), "local", "sensitive_data",
         over=LOCAL_MODELS),
    Case("a cloud model in a query", chat(), "cloud", ASKED, path=f"/api/chat?model={NAMED}"),
    Case("a cloud model in gzip", gzip.compress(json.dumps(chat(model=NAMED)).encode()), "none",
         "local_only_operation", {"Content-Encoding": "gzip"}, over=LOCAL_MODELS),
    Case("a cloud model in zstd", zstandard.compress(json.dumps(chat(model=NAMED)).encode()), "none",
         "local_only_operation", {"Content-Encoding": "zstd"}),
    Case("a cloud model that nobody has a price of", chat(model="no-such:1b-cloud"), "none", "unpriced_model"),
    Case("two models, one of them the cloud's", b'{"model":"llama3","model":"%b",'
         b'"messages":[{"role":"user","content":"x"}]}' % NAMED.encode(), "none", "sensitive_data",
         over=LOCAL_MODELS),
    Case("an embedding by a cloud model", {"model": NAMED, "input": "sky"}, "none", "local_only_operation",
         path="/api/embed"),
    Case("a header names the cloud model", extraction(), "cloud", EXTRACTED, {**HIGH, "X-Cloud-Model": VISION_MODEL}),
    Case("a header names none of the catalogue", extraction(), "local", "no_cloud_model",
         {**HIGH, "X-Cloud-Model": "nobody-knows:1b"}),
    Case("more than the model can take", extraction(), "local", "no_cloud_model", HIGH,
         over=cloud(catalogue={TEXT_MODEL: {"context_length": 1}})),
    Case("web tools", anthropic(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "none",
         "unpriced_model", path="/v1/messages"),
    Case("the local server's own door to a search", {"query": "sky"}, "none", "unpriced_model",
         path="/api/experimental/web_search"),
    # Strategies.
    Case("quality_optimized, quality", chat(), "cloud", "high_quality_required", HIGH, over=QUALITY),
    Case("quality_optimized, complexity", chat("x" * 20_000), "cloud", "high_complexity", over=QUALITY),
    Case("quality_optimized, else", chat(), "local", "default_local", over=QUALITY),
    Case("cost_optimized", extraction(), "local", "cost_optimized", HIGH,
         over=cloud(decision_strategy="cost_optimized")),
    Case("the settings ask for quality", extraction(), "cloud", EXTRACTED,
         over={"task_defaults": {"by_model": {"llama3": {"quality": "high"}}}}),
    # Gates.
    Case("the cloud is off", extraction(), "local", "cloud_disabled", HIGH, over=cloud(enabled=False)),
    Case("named, and the cloud is off", chat(model=NAMED), "none", "cloud_disabled", over=cloud(enabled=False)),
    Case("nobody is in the canary", extraction(), "local", "canary_holdback", HIGH, over={"canary": {"percent": 0}}),
    Case("named, canary aside", chat(model=NAMED), "cloud", ASKED, over={"canary": {"percent": 0}}),
    Case("a part of the canary, in", extraction("beta"), "cloud", EXTRACTED, HIGH, over={"canary": {"percent": 50}}),
    Case("a part of the canary, out", extraction("alpha"), "local", "canary_holdback", HIGH,
         over={"canary": {"percent": 50}}),
    Case("a canary by header", extraction(), "local", "canary_holdback", {**HIGH, "X-Session": "s-0"},
         over={"canary": {"percent": 50, "sticky_header": "X-Session"}}),
    # Money.
    Case("no budget", extraction(), "local", "budget_exceeded", HIGH,
         over=cloud(cost_limits={"daily_budget_usd": 0})),
    Case("no budget, and a refusal is wanted", extraction(), "none", "budget_exceeded", HIGH,
         over=cloud(cost_limits={"daily_budget_usd": 0}, fallback=ERROR)),
    Case("no budget, wanted or not: it would be local anyway", chat(), "local", "budget_exceeded",
         over=cloud(cost_limits={"daily_budget_usd": 0}, fallback=ERROR)),
    Case("a budget for a shorter answer", extraction(), "cloud", EXTRACTED, HIGH,
         over=cloud(cost_limits={"daily_budget_usd": 0.001})),
    Case("a budget for no answer at all", extraction(), "local", "budget_exceeded", HIGH,
         over=cloud(cost_limits={"daily_budget_usd": 0.0001})),
    Case("the same, and a refusal is wanted", extraction(), "none", "budget_exceeded", HIGH,
         over=cloud(cost_limits={"daily_budget_usd": 0.0001}, fallback=ERROR)),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "_") for case in CASES])
async def test_explain_says_what_happens(case: Case, tmp_path: Path) -> None:
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    async with world(tmp_path, case.over) as here:
        answer = await ask(here.port, "POST", case.path, case.headers, body)
        settings = load(tmp_path / "settings.yaml", {}).settings
        sent_to_cloud = bool(here.cloud.requests)
    headers = [f"{name}: {value}" for name, value in case.headers.items()]
    report = explain(settings, Given(headers, case.path, body))
    decision = report["decision"]
    really = answer.get("x-sidecar-location"), answer.get("x-sidecar-reason"), answer.get("x-sidecar-model") or ""
    assert really[:2] == (case.location, case.reason), answer.body
    assert (decision["location"], decision["reason"], decision["model"]) == really
    assert sent_to_cloud == (case.location == "cloud")
    assert answer.status == 200 if case.location == "cloud" else answer.status >= 400 or case.location == "local"


async def test_what_is_no_inference_passes_through(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        settings = load(tmp_path / "settings.yaml", {}).settings
        for path in ("/api/show", "/api/nothing", "/", "/v1/models"):
            answer = await ask(here.port, "POST", path, {}, b'{"model":"llama3"}')
            assert answer.get("x-sidecar-location") is None
            report = explain(settings, Given((), path, b'{"model":"llama3"}'))
            assert report["decision"]["reason"] == "passed_through"
        for host, status in (("evil.example", 403), ("app.localhost", 200)):
            answer = await ask(here.port, "POST", "/api/show", {"Host": host}, b'{"model":"llama3"}')
            report = explain(settings, Given((f"Host: {host}",), "/api/show", b""))
            assert answer.status == status
            assert (report["decision"]["location"] == "none") == (status == 403)
