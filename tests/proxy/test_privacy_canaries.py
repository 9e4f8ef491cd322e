"""What a call brings along, and the key, show up nowhere: no log, audit line, metric, error body or settings page."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from cloud_support import CHAT, DIALECTS, Dialect, books, calm, door, high, went

from sidecar.standins import StandInCloud, StandInModel, StandInOllama, faults
from sidecar.telemetry.log import JsonHandler
from support.raw import Answer, ask, connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, World

# One word each, so that every place in which it turns up says where it came from.
CANARIES = {
    "text": "canaryprompt1",
    "email": "canarymail2@example.org",
    "token": "ghp_canary3aBcDeFgHiJkLmNoPqRsTuVwXyZ0123",
    "query": "canaryquery4",
    "cookie": "canarycookie5",
    "authorization": "canaryauth6",
    "referer": "canaryreferer7",
    "odd": "canaryodd8",
    "model": "canary model 9",
    "key": "canarykeyname10",
    "trailer": "canarytrailer11",
    "invalid": "canary invalid 12",
}
HEADERS = {
    "Cookie": f"session={CANARIES['cookie']}",
    "Authorization": f"Bearer {CANARIES['authorization']}",
    "Referer": f"http://localhost/{CANARIES['referer']}",
    "X-Odd": CANARIES["odd"],
    "X-Api-Key": CANARIES["authorization"],
}
OVER = {"ollama_cloud": {"breaker": {"failures": 10_000}}, "log": {"level": "debug"}}


def everywhere(here: World, answers: list[Answer], pages: list[bytes]) -> dict[str, bytes]:
    """All that is written, by where."""
    folder = here.folder
    ours = [answer for answer in answers if answer.status >= 400 and went(answer)[0] != "local"]
    errors = b"".join(answer.raw for answer in ours)
    heads = b"".join(answer.raw[: answer.raw.find(b"\r\n\r\n")] for answer in answers)
    return {
        "log": (folder / "sidecar.log").read_bytes(),
        "audit": (folder / "audit.log").read_bytes(),
        "budget": b"".join(path.read_bytes() for path in folder.glob("budget.db*")),
        "error bodies": errors,
        "heads": heads,
        "pages": b"".join(pages),
    }


def check_nowhere(found: dict[str, bytes], allowed: frozenset[tuple[str, str]] = frozenset()) -> None:
    for place, data in found.items():
        assert KEY.encode() not in data, f"the key is in {place}"
        for name, canary in CANARIES.items():
            if (place, name) not in allowed:
                assert canary.encode() not in data, f"{name} is in {place}"
                assert canary.split("@")[0].split(" ")[-1].encode() not in data or name in ("model", "invalid"), name


async def pages(here: World) -> list[bytes]:
    paths = ("/metrics", "/config", "/version", "/livez", "/readyz", "/", "/nothing")
    return [(await ask(here.admin, "GET", path)).raw for path in paths]


@pytest.fixture
def logged(request: pytest.FixtureRequest) -> Any:
    """Lets the standard library's log records reach the sidecar's log, as `serve` does."""
    root = logging.getLogger()
    level = root.level
    added: list[logging.Handler] = []

    def attach(here: World) -> None:
        handler = JsonHandler(here.sidecar._out)
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        added.append(handler)

    yield attach
    for handler in added:
        root.removeHandler(handler)
    root.setLevel(level)


async def test_canaries_in_good_calls_broken_calls_and_refused_ones(tmp_path: Path, logged: Any) -> None:
    answers: list[Answer] = []
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    local = StandInOllama([StandInModel("llama3", capabilities=("completion", "tools"))])
    async with books(tmp_path, OVER, local=local, cloud=cloud) as here:
        logged(here)
        for dialect in DIALECTS:
            await _play(here, dialect, answers)
        shown = await pages(here)
    found = everywhere(here, answers, shown)
    check_nowhere(found)
    for place in ("log", "audit", "error bodies", "pages"):
        assert found[place], f"there is nothing in {place}: this test shows nothing"
    assert b"Traceback" not in found["log"]


async def _play(here: World, dialect: Dialect, answers: list[Answer]) -> None:
    text, secret = CANARIES["text"], f"{CANARIES['email']} {CANARIES['token']}"
    target = f"{dialect.path}?{CANARIES['query']}={CANARIES['query']}"
    broken: list[faults.Fault] = [
        faults.Status(404),
        faults.Status(500),
        faults.Cut("before_head"),
        faults.Cut("mid_record"),
        faults.Garbage(),
        faults.ErrorRecord(0),
        faults.NoFinalRecord(),
        faults.Redirect("http://127.0.0.1:1/"),
    ]
    for stream in (False, True):
        for fault in (None, *broken):
            calm(here)
            here.cloud.misbehave = [fault]
            body = dialect.body(text, stream=stream) | {CANARIES["key"]: 1}
            answers.append(await here.post(target, body, {**HIGH, **HEADERS}))
    here.cloud.misbehave = None
    bodies: list[Any] = [
        dialect.body(secret),
        dialect.body(secret, model=f"{TEXT_MODEL}-cloud"),
        dialect.body(text, model=f"{CANARIES['model']}:cloud"),
        dialect.body(text, model=CANARIES["model"]),
        dialect.body(text, tools=[{"type": "web_search", "name": text}]),
        dialect.body(text) | {"Model": CANARIES["model"]},
        f'{{"model": "{text}'.encode(),
        f'{{"{text}": {text}}}'.encode(),
        b"\xff\xfe" + text.encode(),
        b"",
        [text],
    ]
    for body in bodies:
        answers += [await here.post(target, body, {**headers, **HEADERS}) for headers in ({}, HIGH)]
    wrong = {
        "X-Task-Type": CANARIES["invalid"],
        "X-Data-Classification": CANARIES["invalid"],
        "X-Request-Id": CANARIES["invalid"],
        "X-Cloud-Model": CANARIES["invalid"],
        "traceparent": CANARIES["odd"],
        "Content-Encoding": CANARIES["odd"],
        "Host": f"{CANARIES['odd']}.example.org",
    }
    for name, value in wrong.items():
        answers.append(await here.post(target, dialect.body(text), {**HIGH, name: value}))
    # A head that cannot be parsed, and a body that is no chunked one.
    for data in (
        request("POST", target, {}, b"").replace(b"\r\n\r\n", f"\r\nX: {text}\x01\r\n\r\n".encode()),
        request("POST", target, {}, b"").replace(b"\r\n\r\n", f"\r\n{text} : x\r\n\r\n".encode()),
        request("POST", target, {"Transfer-Encoding": "chunked"}) + f"{text}\r\n".encode(),
        f"POST {target} {text}\r\n\r\n".encode(),
    ):
        async with connect(here.port) as client:
            await client.send(data)
            answers.append(await client.read("POST"))
    trailing = f"0\r\nX-Trailer: {CANARIES['trailer']}\r\n\r\n".encode()
    async with connect(here.port) as client:
        await client.send(request("POST", target, {"Transfer-Encoding": "chunked"}) + trailing)
        answers.append(await client.read("POST"))


async def test_a_key_that_the_cloud_sends_back(tmp_path: Path) -> None:
    """In its headers it ends with us. (What it says in an answer's body is the answer.)"""
    headers = (("X-Your-Key", KEY), ("Set-Cookie", f"k={KEY}"), ("WWW-Authenticate", f"Bearer {KEY}"))
    async with books(tmp_path, OVER) as here:
        for status in (200, 401, 404):
            calm(here)
            fault: list[faults.Fault] = [faults.ExtraHeaders(headers)]
            here.cloud.misbehave = [[*fault, faults.Status(status)] if status != 200 else fault]
            model = f"{TEXT_MODEL}-cloud"
            answer = await here.post(CHAT.path, CHAT.body("Hello", model=model), HIGH)
            assert KEY.encode() not in answer.raw
        shown = await pages(here)
    check_nowhere(everywhere(here, [], shown))


async def test_the_local_server_never_gets_the_key_nor_our_headers(tmp_path: Path) -> None:
    async with books(tmp_path, OVER) as here:
        here.cloud.misbehave = lambda _: faults.Status(401)
        for dialect in DIALECTS:
            calm(here)
            assert went(await high(here, dialect, stream=True))[0] == "local"
        assert here.local.requests
        for got in here.local.requests:
            assert KEY.encode() not in got.raw_head + got.raw_body


async def test_a_key_that_is_changed_is_audited_by_its_fingerprint_alone(tmp_path: Path) -> None:
    async with books(tmp_path, OVER) as here:
        services = here.sidecar.services
        assert services.audit is not None
        services.audit.api_key("another-key-4711", "rotated")
        door(here).set_key("another-key-4711")
        here.cloud.key = "another-key-4711"
        assert went(await high(here, CHAT))[0] == "cloud"
        assert here.cloud.requests[-1].header("authorization") == "Bearer another-key-4711"
    lines = [line for line in here.audit() if line["event"] == "ollama_cloud_api_key"]
    assert [line["action"] for line in lines] == ["loaded", "rotated"]
    assert all(len(line["fingerprint"]) == 32 for line in lines)
    assert "4711" not in json.dumps(lines)
