"""`demo`: the real proxy between stand-ins for a local Ollama and for Ollama Cloud, shown with a dozen telling calls.

Nothing but the package is needed. The stand-ins invent their answers and say so; the proxy, its decisions, its
budget, its audit log and its figures are the real ones.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sidecar.app import Sidecar, StartError
from sidecar.settings import load
from sidecar.standins import StandInCloud, StandInModel, StandInOllama, faults
from sidecar.telemetry.log import JsonHandler, LineWriter

OLLAMA_PORT = 11434
KEY = "demo-key"
DAILY_USD = 0.02
# The table's columns, and the width from which a terminal shows it as one.
WIDTHS = (41, 8, 25, 16, 10, 8)
WIDE = sum(WIDTHS) + 2 * (len(WIDTHS) - 1)
TEXT_MODEL, VISION_MODEL = "gpt-oss:120b", "qwen3.5:397b"
# One pixel, as PNG.
_IMAGE = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
).decode()
_SCHEMA = {"type": "object", "properties": {"entities": {"type": "array", "items": {"type": "string"}}}}
_HIGH = {"X-Quality-Requirement": "high"}


@dataclass(frozen=True, slots=True)
class Shown:
    """One call of the demonstration: what it shows, and what is sent."""

    title: str
    body: dict[str, Any]
    path: str = "/api/chat"
    headers: dict[str, str] = field(default_factory=dict)
    fault: faults.Fault | None = None


def _chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "llama3", "messages": [{"role": "user", "content": text}], "stream": False, **more}


def _image() -> dict[str, Any]:
    message = {"role": "user", "content": "What is this?", "images": [_IMAGE]}
    return {"model": "llava", "messages": [message]}


CALLS = (
    Shown("a plain chat", _chat("Why is the sky blue?")),
    Shown("extraction, best quality asked for", _chat("List the towns: Ulm, Pisa.", format=_SCHEMA), headers=_HIGH),
    Shown("the same with an e-mail address in it", _chat("Who is jane@example.com?", format=_SCHEMA), headers=_HIGH),
    Shown("the same, labelled confidential", _chat("List the towns: Ulm, Pisa.", format=_SCHEMA),
          headers={**_HIGH, "X-Data-Classification": "confidential"}),
    Shown("an image to describe, best quality", _image(), headers=_HIGH),
    Shown("an answer wanted within 100 ms", _chat("Hello!"), headers={"X-Latency-Requirement-Ms": "100"}),
    Shown("an embedding", {"model": "nomic-embed-text", "input": "the sky"}, path="/api/embed"),
    Shown("OpenAI's dialect, streamed, best quality", {"model": "llama3", "stream": True,
          "messages": [{"role": "user", "content": "List the towns: Ulm, Pisa."}],
          "response_format": {"type": "json_schema", "json_schema": {"name": "towns", "schema": _SCHEMA}}},
          path="/v1/chat/completions", headers=_HIGH),
    Shown("Anthropic's dialect", {"model": "llama3", "max_tokens": 50,
          "messages": [{"role": "user", "content": "Why is the sky blue?"}]}, path="/v1/messages"),
    Shown("a cloud model named by the app itself", {**_chat("Why is the sky blue?"), "model": f"{TEXT_MODEL}-cloud"}),
    Shown("the cloud fails: the local model answers", _chat("List the towns.", format=_SCHEMA), headers=_HIGH,
          fault=faults.Status(503)),
    Shown("an image whose answer is cut short", _image(), headers=_HIGH,
          fault=faults.Cut("mid_record", after_writes=1)),
    Shown("the next image: too little is left today", _image(), headers=_HIGH),
)  # fmt: skip


async def demo(port: int, *, once: bool) -> int:
    """Runs the demonstration on `port` (0: Ollama's own, or a free one). `once` ends it after the table.

    The exit code: 0, or 130 on Ctrl-C. Raises StartError.
    """
    stop = asyncio.Event()
    code = _stop_on_signals(stop)
    local_models = [StandInModel(name) for name in ("llama3:latest", "llava:latest", "nomic-embed-text:latest")]
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(_folder())
        local = await stack.enter_async_context(StandInOllama(local_models))
        prices = {TEXT_MODEL: (150_000, 600_000), VISION_MODEL: (600_000, 3_600_000)}
        cloud = await stack.enter_async_context(StandInCloud([TEXT_MODEL, VISION_MODEL], key=KEY, prices=prices))
        log = stack.enter_context(_log_file(folder / "sidecar.log"))
        sidecar = await _start(folder, port, local, cloud, log)
        try:
            _say_where(sidecar, local, cloud, taken=port == 0)
            await _show(sidecar, cloud, stop)
            if not once and not stop.is_set():
                _say_what_next(sidecar, folder)
                await stop.wait()
        finally:
            await sidecar.stop()
    return code[0]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="ollama-sidecar-demo-")
    except OSError as error:
        raise StartError(
            f"the demo needs a folder for its files for a moment, and there is none to write to: "
            f"{error.strerror or error}. Set TMPDIR to one"
        ) from error
    with folder as name:
        yield Path(name)


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[LineWriter]:
    """The sidecar's log, which would be in the table's way on stderr."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    log = LineWriter(descriptor)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:], root.level = [JsonHandler(log)], logging.INFO
    try:
        yield log
    finally:
        root.handlers[:], root.level = before
        log.close()
        os.close(descriptor)


async def _start(folder: Path, port: int, local: StandInOllama, cloud: StandInCloud, log: LineWriter) -> Sidecar:
    """On `port`, else on Ollama's own, else on a free one. Raises StartError where `port` is taken."""
    try:
        return await _start_on(folder, port or OLLAMA_PORT, local, cloud, log)
    except StartError as error:
        if port:
            taken = str(error).partition(". ")[0]
            raise StartError(
                f"{taken}. Give --port another one, or leave it out: then a free one is found"
            ) from error
    return await _start_on(folder, 0, local, cloud, log)


async def _start_on(folder: Path, port: int, local: StandInOllama, cloud: StandInCloud, log: LineWriter) -> Sidecar:
    settings = {
        "listen": {"data": [f"127.0.0.1:{port}"], "admin": "127.0.0.1:0", "drain_seconds": 1},
        # A GPU that happens to be busy would send the plain calls to the cloud, too.
        "local": {"base_url": local.base_url, "gpu": {"source": "none"}},
        "ollama_cloud": {
            "api_key": KEY,
            "base_url": cloud.base_url,
            "cost_limits": {"daily_budget_usd": DAILY_USD, "monthly_budget_usd": 1},
            "max_output_tokens": 1024,
        },
        "state_dir": str(folder),
        "audit": {"stdout": False},
        "budget": {"wait_ms": 2000},
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    sidecar = Sidecar(load(path, {}), path, {}, log)
    await sidecar.start()
    return sidecar


def _stop_on_signals(stop: asyncio.Event) -> list[int]:
    code = [0]

    def interrupt() -> None:
        if stop.is_set():
            os._exit(130)  # the second Ctrl-C means now
        code[0] = 130
        stop.set()

    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    return code


async def _show(sidecar: Sidecar, cloud: StandInCloud, stop: asyncio.Event) -> None:
    """Sends the calls one after the other and prints a row for each as it comes."""
    show = _row if shutil.get_terminal_size((WIDE, 24)).columns >= WIDE else _narrow_row
    show("call", "where", "reason", "model", "booked $", "ms")
    show(*("-" * width for width in WIDTHS))
    admin = sidecar.admin.addresses[0][1]
    before = await asyncio.to_thread(_booked, admin)
    for call in CALLS:
        if stop.is_set():
            return
        cloud.misbehave = [call.fault] if call.fault is not None else None
        started = time.perf_counter()
        status, headers = await asyncio.to_thread(_send, sidecar.data.addresses[0][1], call)
        took = (time.perf_counter() - started) * 1000
        booked = await asyncio.to_thread(_booked, admin)
        cost, before = booked - before, booked
        where = headers.get("x-sidecar-location", f"HTTP {status}")
        reason, model = headers.get("x-sidecar-reason", ""), headers.get("x-sidecar-model", "")
        show(call.title, where, reason, model, f"{cost:.6f}" if cost else "-", f"{took:.1f}")
    billed = cloud.billed_micro_usd / 1e6
    print(f"\nBooked: {before:.6f} of the day's {DAILY_USD} USD. The stand-in cloud billed {billed:.6f}.")
    print("An answer that breaks before it tells its tokens is booked at its worst case,")
    print("as it may be billed.", flush=True)


def _row(*cells: str) -> None:
    *left, cost, took = cells
    texts = [f"{cell:<{width}}" for cell, width in zip(left, WIDTHS, strict=False)]
    print("  ".join((*texts, f"{cost:>{WIDTHS[-2]}}", f"{took:>{WIDTHS[-1]}}")), flush=True)


def _narrow_row(*cells: str) -> None:
    """The same on two lines, for a terminal that would break the row anywhere."""
    title, *rest = cells
    print(title)
    print("  " + "  ".join(f"{cell[:width]:<{width}}" for cell, width in zip(rest, WIDTHS[1:], strict=True)).rstrip())
    sys.stdout.flush()


def _send(port: int, call: Shown) -> tuple[int, dict[str, str]]:
    headers = {"Content-Type": "application/json", **call.headers}
    response, _ = _exchange(port, "POST", call.path, json.dumps(call.body), headers)
    return response.status, {name.lower(): value for name, value in response.getheaders()}


def _booked(admin: int) -> float:
    """What the sidecar has settled, in USD, as its metrics say."""
    _, page = _exchange(admin, "GET", "/metrics", None, {})
    lines = page.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("ollama_cloud_cost_usd_total "))


def _exchange(
    port: int, method: str, path: str, body: str | None, headers: dict[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def _say_where(sidecar: Sidecar, local: StandInOllama, cloud: StandInCloud, *, taken: bool) -> None:
    port = sidecar.data.addresses[0][1]
    other = f", as Ollama's own port {OLLAMA_PORT} is taken" if taken and port != OLLAMA_PORT else ""
    print(f"The sidecar serves on 127.0.0.1:{port}{other}.")
    print("Behind it are two STAND-INS with no models in them:")
    print(f"  a local Ollama on {local.base_url}, and a cloud on {cloud.base_url}.")
    print("Their answers are invented. Every decision below is the real proxy's.\n", flush=True)


def _say_what_next(sidecar: Sidecar, folder: Path) -> None:
    data, admin = sidecar.data.addresses[0][1], sidecar.admin.addresses[0][1]
    # With a schema it is an extraction, whose best quality is in the cloud.
    body = json.dumps(
        {"model": "llama3", "format": {"type": "object"}, "messages": [{"role": "user", "content": "Hi"}]}
    )
    print("\nIt stays up until Ctrl-C. Try it yourself:\n")
    print(f"  curl -i http://127.0.0.1:{data}/api/chat -H 'X-Quality-Requirement: high' \\\n    -d '{body}'")
    print(f"  curl http://127.0.0.1:{admin}/metrics")
    print(f"  cat {shlex.quote(str(folder / 'audit.log'))}")
    print(f"  cat {shlex.quote(str(folder / 'sidecar.log'))}", flush=True)
