"""The local server as a way to the cloud: no call gets there that it would take to its own cloud by itself.

The stand-in keeps a list of every request that a real server would have taken there; `books` checks that it is empty.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cloud_support import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    GENERATE,
    LOCAL_MODEL,
    OPENAI,
    RESPONSES,
    Dialect,
    books,
    until,
    went,
)

from sidecar.standins import Answer as StandInAnswer
from sidecar.standins import Exchange, StandInCloud, StandInModel, StandInOllama, StepGate, faults
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.models import MOST_SECONDS
from support.raw import Answer, ask, connect, request
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, World, world

HERE = {"local": {"models": {"generation": LOCAL_MODEL, "extraction": LOCAL_MODEL}}}
PII = {"X-Data-Classification": "pii"}
ALIAS = StandInModel("summarizer", size=300, remote_host="https://ollama.com:443", remote_model=TEXT_MODEL)
INFERENCE = {
    *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions"),
    *("/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/audio/transcriptions", "/v1/images/generations"),
    *("/api/experimental/web_search", "/api/experimental/web_fetch"),
}


def served(here: World) -> list[Any]:
    """The inference calls that reached the local server."""
    return [got for got in here.local.requests if got.target.partition("?")[0] in INFERENCE]


def check_refused(dialect: Dialect, answer: Answer, status: int, reason: str) -> None:
    assert answer.status == status
    assert went(answer) == ("none", None, reason)
    assert dialect.message(answer.json())


# By its name.

NAMES = [
    f"{TEXT_MODEL}-cloud",
    f"{TEXT_MODEL}:cloud",
    f"{TEXT_MODEL}-CLOUD",
    "GPT-OSS:120B-Cloud",
    f"  {TEXT_MODEL}-cloud\t",
    f"{TEXT_MODEL}: cloud ",
    f"\u00a0{TEXT_MODEL}-cloud\u2003",
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_cloud_name_goes_through_our_own_door(tmp_path: Path, name: str) -> None:
    async with books(tmp_path, HERE) as here:
        for dialect in DIALECTS:
            for stream in (False, True):
                answer = await here.post(dialect.path, dialect.body("Hello", model=name, stream=stream))
                assert went(answer) == ("cloud", TEXT_MODEL, "cloud_model_requested")
                assert here.cloud.requests[-1].json()["model"] == TEXT_MODEL
                assert dialect.whole(answer)
        assert not served(here)


@pytest.mark.parametrize("strategy", ["cost_optimized", "quality_optimized", "hybrid"])
async def test_in_every_strategy_and_with_no_canary(tmp_path: Path, strategy: str) -> None:
    over = {**HERE, "ollama_cloud": {"decision_strategy": strategy}, "canary": {"percent": 0}}
    async with books(tmp_path, over) as here:
        headers = {"X-Latency-Requirement-Ms": "1", "X-Quality-Requirement": "low"}
        answer = await here.chat("Hello", headers, model=NAMES[0])
        assert went(answer) == ("cloud", TEXT_MODEL, "cloud_model_requested")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_where_a_gate_objects_the_local_model_gets_it_with_its_name_alone_edited(
    tmp_path: Path, name: str, stream: bool
) -> None:
    async with books(tmp_path, HERE) as here:
        for dialect in DIALECTS:
            body = json.dumps(
                dialect.body("Call me", model=name, stream=stream) | {"odd": [1.50, "é"]}, indent=2
            ).encode()
            answer = await here.post(dialect.path, body, {**PII, "X-Odd": "kept"})
            assert went(answer) == ("local", LOCAL_MODEL, "sensitive_data")
            assert dialect.whole(answer)
            got = served(here)[-1]
            assert got.body == body.replace(json.dumps(name).encode(), json.dumps(LOCAL_MODEL).encode())
            assert got.header("x-odd") == "kept"
        assert not here.cloud.requests


GATES: dict[str, tuple[Mapping[str, Any], Mapping[str, str], str, int]] = {
    "sensitive": ({}, PII, "sensitive_data", 403),
    "off": ({"ollama_cloud": {"enabled": False}}, {}, "cloud_disabled", 403),
    "no money": ({"ollama_cloud": {"cost_limits": {"daily_budget_usd": 0.0001}}}, {}, "budget_exceeded", 429),
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_without_a_local_model_it_is_refused_by_the_gates_reason(
    tmp_path: Path, dialect: Dialect, gate: str
) -> None:
    over, headers, reason, status = GATES[gate]
    if gate == "off":
        async with world(tmp_path, over) as here:  # without a cloud there are no books to balance
            answer = await here.post(dialect.path, dialect.body("Hello", model=NAMES[0], stream=True), headers)
            check_refused(dialect, answer, status, reason)
            assert not here.local.cloud_calls
            assert not here.cloud.requests
        return
    async with books(tmp_path, over) as here:
        answer = await here.post(dialect.path, dialect.body("Hello", model=NAMES[0], stream=True), headers)
        check_refused(dialect, answer, status, reason)
        assert not here.cloud.requests
        assert not served(here)


async def test_an_unpriced_model_and_a_route_that_the_cloud_does_not_have(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        check_refused(CHAT, await here.chat("Hello", model="somebody/unheard-of:7b-cloud"), 403, "unpriced_model")
        for path, body in (
            ("/api/embed", {"model": NAMES[0], "input": "Hello"}),
            ("/api/embeddings", {"model": NAMES[0], "prompt": "Hello"}),
            ("/v1/completions", {"model": NAMES[0], "prompt": "Hello"}),
            ("/v1/embeddings", {"model": NAMES[0], "input": "Hello"}),
            ("/v1/images/generations", {"model": NAMES[0], "prompt": "Hello"}),
            ("/v1/images/edits", {"model": NAMES[0], "prompt": "Hello", "image": "x"}),
        ):
            answer = await here.post(path, body)
            assert answer.status == 403
            assert went(answer) == ("none", None, "local_only_operation")
            assert OPENAI.message(answer.json()) if path.startswith("/v1") else CHAT.message(answer.json())
        # Loading a model is nothing that a cloud does.
        check_refused(CHAT, await here.post("/api/chat", {"model": NAMES[0]}), 403, "local_only_operation")
        check_refused(
            GENERATE,
            await here.post("/api/generate", {"model": NAMES[0], "keep_alive": 0}),
            403,
            "local_only_operation",
        )
        assert not here.cloud.requests
        assert not served(here)


@pytest.mark.parametrize(
    "name", ["cloud", "llama3:local", "cloud:7b", "llama3:clouds", "my-cloud/llama3", "x:y-cloud/z"]
)
async def test_names_that_are_local_stay_local(tmp_path: Path, name: str) -> None:
    local = StandInOllama([LOCAL_MODEL, "cloud", "cloud:7b", "llama3:clouds", "my-cloud/llama3"])
    async with books(tmp_path, local=local) as here:
        answer = await here.chat("Hello", model=name)
        assert went(answer)[0] == "local"
        assert served(here)[-1].json()["model"] == name
        assert not here.cloud.requests


async def test_a_local_model_that_the_settings_name_and_that_is_none_is_never_asked(tmp_path: Path) -> None:
    over = {"local": {"models": {"generation": "summarizer"}}}
    async with books(tmp_path, over, local=StandInOllama([LOCAL_MODEL, ALIAS])) as here:
        answer = await here.chat("Hello", PII, model=NAMES[0])
        assert answer.status == 403
        assert went(answer)[0] == "none"
        assert not served(here)


# By what the server says of it.


class OneSided(StandInOllama):
    """Tells of an alias in /api/show alone, or in /api/tags alone."""

    def __init__(self, where: str) -> None:
        super().__init__([LOCAL_MODEL, ALIAS])
        self.where = where

    async def _answer(self, exchange: Exchange, path: str, query: str) -> StandInAnswer:
        answer = await super()._answer(exchange, path, query)
        hidden = {"show": "/api/tags", "tags": "/api/show"}.get(self.where)
        if path == hidden:
            text = answer.body.replace(b'"remote_host"', b'"x"').replace(b'"remote_model"', b'"y"')
            answer.body = text
        return answer


@pytest.mark.parametrize("where", ["show", "tags", "both"])
@pytest.mark.parametrize("name", ["summarizer", "summarizer:latest", "Summarizer", "library/summarizer"])
async def test_an_alias_is_a_cloud_model_by_whichever_answer_says_so(tmp_path: Path, where: str, name: str) -> None:
    async with books(tmp_path, HERE, local=OneSided(where)) as here:
        for dialect in DIALECTS:
            answer = await here.post(dialect.path, dialect.body("Hello", model=name, stream=True))
            if where == "tags" or "/" not in name:
                assert went(answer) == ("cloud", TEXT_MODEL, "cloud_model_requested")
            answer = await here.post(dialect.path, dialect.body("Hello", model=name), PII)
            assert went(answer)[0] == "local"
        assert not here.local.cloud_calls
        answer = await here.post("/api/embed", {"model": name, "input": "Hello"})
        assert went(answer)[0] != "cloud"


async def test_an_alias_whose_host_alone_is_told(tmp_path: Path) -> None:
    class HostAlone(StandInOllama):
        async def _answer(self, exchange: Exchange, path: str, query: str) -> StandInAnswer:
            answer = await super()._answer(exchange, path, query)
            answer.body = answer.body.replace(b'"remote_model"', b'"y"')
            return answer

    async with books(tmp_path, local=HostAlone([LOCAL_MODEL, ALIAS])) as here:
        check_refused(CHAT, await here.chat("Hello", model="summarizer"), 403, "unpriced_model")
        assert not served(here)


MAKERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "create": ("POST", "/api/create", {"model": "new", "from": f"{TEXT_MODEL}-cloud", "stream": False}),
    "create, streamed": ("POST", "/api/create", {"model": "new", "from": f"{TEXT_MODEL}-cloud"}),
    "create at a host": (
        "POST",
        "/api/create",
        {"model": "new", "from": TEXT_MODEL, "remote_host": "https://ollama.com"},
    ),
    "copy": ("POST", "/api/copy", {"source": "summarizer", "destination": "new"}),
    "an odd path": ("POST", "/api/%63opy", {"source": "summarizer", "destination": "new"}),
}


@pytest.mark.parametrize("how", MAKERS)
async def test_an_alias_that_is_made_through_us_counts_at_once(tmp_path: Path, how: str) -> None:
    method, path, body = MAKERS[how]
    async with books(tmp_path, HERE, local=StandInOllama([LOCAL_MODEL, "new", ALIAS])) as here:
        assert went(await here.chat("Hello", model="new")) == ("local", "new", "default_local")
        made = await ask(here.port, method, path, {}, body)
        assert made.status == 200
        assert went(await here.chat("Hello", model="new")) == ("cloud", TEXT_MODEL, "cloud_model_requested")
        deleted = await ask(here.port, "DELETE", "/api/delete", {}, {"model": "new"})
        assert deleted.status == 200
        assert (await here.chat("Hello", model="new")).status == 404
        pulled = await here.post("/api/pull", {"model": "new"})
        assert pulled.status == 200
        assert went(await here.chat("Hello", model="new"))[0] == "local"


async def test_while_an_alias_is_made_nothing_that_was_known_counts(tmp_path: Path) -> None:
    gate = StepGate()
    local = StandInOllama([LOCAL_MODEL, "new"], gate=gate)
    async with books(tmp_path, HERE, local=local) as here:
        gate.open_all()
        assert went(await here.chat("Hello", model="new"))[0] == "local"
        gate = local.gate = StepGate()
        body = {"model": "new", "from": f"{TEXT_MODEL}-cloud"}
        making = asyncio.create_task(here.post("/api/create", body))
        await gate.reached(1)  # made, and not yet told
        assert went(await here.chat("Hello", model="new")) == ("cloud", TEXT_MODEL, "cloud_model_requested")
        gate.open_all()
        assert (await making).status == 200
        assert went(await here.chat("Hello", model="new"))[0] == "cloud"


@pytest.mark.parametrize("where", ["show", "tags", "both"])
async def test_an_alias_that_is_made_behind_our_back_counts_after_five_seconds(tmp_path: Path, where: str) -> None:
    local = OneSided(where)
    local.models.remove("summarizer")
    local.models.add(StandInModel("summarizer"))
    async with books(tmp_path, HERE, local=local) as here:
        assert went(await here.chat("Hello", model="summarizer"))[0] == "local"
        local.models.add(ALIAS)
        models = here.sidecar.services.local.models
        asked_at, known = models._known["summarizer"]
        models._known["summarizer"] = (asked_at - MOST_SECONDS, known)
        models._tags_at -= MOST_SECONDS
        assert went(await here.chat("Hello", model="summarizer")) == ("cloud", TEXT_MODEL, "cloud_model_requested")


async def test_what_was_known_before_a_long_wait_for_a_place_says_nothing(tmp_path: Path) -> None:
    """The alias is made behind our back while the call waits at max_concurrent."""
    gate = StepGate()
    local = StandInOllama([LOCAL_MODEL, "summarizer"], gate=gate)
    async with books(tmp_path, {"local": {"max_concurrent": 1}}, local=local) as here:
        first = asyncio.create_task(here.chat("first"))
        await gate.reached(0)
        second = asyncio.create_task(here.chat("second", model="summarizer"))
        await until(lambda: here.sidecar.services.local.waiting == 1, "the queue")
        local.models.add(ALIAS)
        models = here.sidecar.services.local.models
        models._known.clear()  # five seconds pass
        models._tags_at = float("-inf")
        gate.open_all()
        assert went(await first)[0] == "local"
        answer = await second
        check_refused(CHAT, answer, 403, "cloud_model_requested")
        assert went(await here.chat("third"))[0] == "local", "its place was not given back"


# A server that cannot say, or says nothing of use.


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_a_local_server_that_is_down(tmp_path: Path, dialect: Dialect) -> None:
    async with books(tmp_path) as here:
        await here.local.close()
        answer = await here.post(dialect.path, dialect.body("Hello", stream=True))
        check_refused(dialect, answer, 503, "default_local")
        # The cloud serves what is the cloud's all the same.
        assert went(await here.post(dialect.path, dialect.body("Hello"), HIGH))[0] == "cloud"
        assert went(await here.post(dialect.path, dialect.body("Hello", model=NAMES[0])))[0] == "cloud"


class Saying(StandInOllama):
    """Answers one route with something of a test's own."""

    def __init__(self, path: str, status: int, body: bytes = b"{}") -> None:
        super().__init__([LOCAL_MODEL])
        self.said = {path: (status, body)}

    async def _answer(self, exchange: Exchange, path: str, query: str) -> StandInAnswer:
        if path in self.said:
            await exchange.read_body()
            status, body = self.said[path]
            return StandInAnswer(status, [("Content-Type", "application/json")], body)
        return await super()._answer(exchange, path, query)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/api/show", 500, b"{}"),
        ("/api/show", 502, b"<html>"),
        ("/api/show", 401, b"{}"),
        ("/api/show", 403, b""),
        ("/api/show", 429, b"{}"),
        ("/api/show", 307, b""),
        ("/api/show", 200, b"<html>"),
        ("/api/show", 200, b"[]"),
        ("/api/show", 200, b""),
        ("/api/tags", 500, b"{}"),
    ],
)
async def test_an_answer_that_does_not_tell_where_a_model_runs_keeps_calls_from_it(
    tmp_path: Path, dialect: Dialect, path: str, status: int, body: bytes
) -> None:
    async with books(tmp_path, local=Saying(path, status, body)) as here:
        check_refused(
            dialect, await here.post(dialect.path, dialect.body("Hello", stream=True)), 502, "default_local"
        )
        assert not served(here)
        # Nothing of it is kept: once the server tells, calls go there.
        assert isinstance(here.local, Saying)
        here.local.said.clear()
        assert went(await here.post(dialect.path, dialect.body("Hello")))[0] == "local"


@pytest.mark.parametrize(("path", "status"), [("/api/show", 404), ("/api/show", 405), ("/api/tags", 404)])
async def test_a_server_that_is_no_ollama_has_no_cloud(tmp_path: Path, path: str, status: int) -> None:
    async with books(tmp_path, local=Saying(path, status, b"404 page not found")) as here:
        assert went(await here.chat("Hello"))[0] == "local"


async def test_tags_of_any_shape_do_no_harm(tmp_path: Path) -> None:
    for number, body in enumerate(
        [b"[]", b'{"models":null}', b'{"models":[1,null,{"name":7},{"model":"llama3","size":"x"}]}', b"\xff", b"{"]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with books(folder, local=Saying("/api/tags", 200, body)) as here:
            assert went(await here.chat("Hello"))[0] == "local"


# By a reading of the body that is not everybody's.


def raw(*members: str) -> bytes:
    return ("{" + ",".join(members) + ',"messages":[{"role":"user","content":"Hello"}],"stream":false}').encode()


CLOUDY, LOCALLY = f'"{TEXT_MODEL}-cloud"', f'"{LOCAL_MODEL}"'
READINGS = [
    raw(f'"model":{CLOUDY}', f'"model":{LOCALLY}'),
    raw(f'"model":{LOCALLY}', f'"model":{CLOUDY}'),
    raw(f'"Model":{CLOUDY}', f'"model":{LOCALLY}'),
    raw(f'"model":{LOCALLY}', f'"MODEL":{CLOUDY}'),
    raw(f'"Model":{CLOUDY}'),
    raw(f'"mOdEl":{CLOUDY}'),
    raw(f'"mode\\u006c":{CLOUDY}'),
    raw(f'"model":{LOCALLY}', f'"mode\\u006C":{CLOUDY}'),
    raw('"model":"gpt-oss:120b-clou\\u0064"'),
    b"\xef\xbb\xbf" + raw(f'"model":{CLOUDY}'),
    raw(f'"model":{LOCALLY}') + raw(f'"model":{CLOUDY}'),
    raw(f'"model":{CLOUDY}') + b" trailing",
    raw(f'"model":{CLOUDY}', '"x":NaN'),
    raw(f'"model":{CLOUDY}', '"x":"\x01"'),
    raw(f'"model":{CLOUDY}', '"x":"\\ud800"'),
    raw(f'"model":{CLOUDY}').replace(b"Hello", b"\xff\xfe"),
    raw(f'"x":{"[" * 3000}{"]" * 3000}', f'"model":{CLOUDY}'),
]


@pytest.mark.parametrize("number", range(len(READINGS)))
@pytest.mark.parametrize("path", [CHAT.path, OPENAI.path, ANTHROPIC.path])
async def test_a_body_that_any_reader_could_take_for_a_cloud_call(tmp_path: Path, number: int, path: str) -> None:
    dialect = next(one for one in DIALECTS if one.path == path)
    async with books(tmp_path, HERE) as here:
        for headers in ({}, HIGH, PII):
            answer = await here.post(path, READINGS[number], headers)
            if answer.status >= 400:
                assert answer.status in (400, 403)
                assert dialect.message(answer.json())
                assert went(answer)[0] in ("none", "local")
            else:
                assert went(answer)[0] in ("local", "cloud")
            for got in served(here):
                assert got.json()["model"] == LOCAL_MODEL


async def test_a_name_that_is_half_a_character(tmp_path: Path) -> None:
    """JSON can say it, no encoding can; to Ollama it is a name that is not there."""
    async with books(tmp_path) as here:
        answer = await here.post(CHAT.path, raw('"model":"\\ud800"'))
        assert answer.status == 400
        assert went(answer)[0] == "local"


async def test_a_name_of_a_megabyte_is_asked_for_and_not_kept(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        answer = await here.chat("Hello", model="x" * 1_000_000)
        assert answer.status in (400, 404)
        assert not here.sidecar.services.local.models._known


# Compressed, in a form, in the query.

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("dialect", [OPENAI, RESPONSES, ANTHROPIC, CHAT], ids=lambda d: d.name)
async def test_a_compressed_body_is_read_and_goes_on_as_it_came(
    tmp_path: Path, dialect: Dialect, coding: str
) -> None:
    """The stand-in does not decompress: what it answers is its own affair, what it got is ours."""
    pack = PACKERS[coding]
    async with books(tmp_path) as here:
        encoded = {"Content-Encoding": coding}
        body = pack(json.dumps(dialect.body("Hello")).encode())
        for headers in (encoded, encoded | HIGH):
            await here.post(dialect.path, body, headers)
            assert served(here)[-1].body == body
            assert served(here)[-1].header("content-encoding") == coding
        before = len(served(here))
        cloudy = pack(json.dumps(dialect.body("Hello", model=NAMES[0])).encode())
        check_refused(dialect, await here.post(dialect.path, cloudy, encoded), 403, "local_only_operation")
        check_refused(dialect, await here.post(dialect.path, b"nothing", encoded), 400, "unreadable_body")
        twice = {"Content-Encoding": f"{coding}, {coding}"}
        check_refused(dialect, await here.post(dialect.path, pack(body), twice), 400, "unreadable_body")
        assert len(served(here)) == before
        assert not here.cloud.requests


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("model", [LOCAL_MODEL, NAMES[0]])
async def test_a_compressed_body_that_is_cut_or_has_more_behind_it(tmp_path: Path, coding: str, model: str) -> None:
    async with books(tmp_path) as here:
        body = PACKERS[coding](json.dumps(OPENAI.body("Hello", model=model)).encode())
        wrong = []
        for name, broken in (("cut", body[:-3]), ("more", body + b"x"), ("half", body[: len(body) // 2])):
            answer = await here.post(OPENAI.path, broken, {"Content-Encoding": coding})
            if (answer.status, went(answer)[0]) not in ((400, "none"), (403, "none")):
                wrong.append(name)
        assert not wrong
        assert not served(here)


async def test_a_bomb_is_refused(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        bomb = zstandard.ZstdCompressor().compress(b" " * (300 << 20))
        answer = await here.post(OPENAI.path, bomb, {"Content-Encoding": "zstd"})
        check_refused(OPENAI, answer, 400, "unreadable_body")


async def test_a_secret_in_a_compressed_body_is_found(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        body = gzip.compress(json.dumps(CHAT.body("Write to bob@example.org")).encode())
        await here.post(CHAT.path, body, {"Content-Encoding": "gzip", **HIGH})
        assert not here.cloud.requests
    (call,) = [line for line in here.log() if line["event"] == "call"]
    assert call["classification"] == "pii"


UNREADABLE = [
    b"nothing that anybody could read",
    b"{",
    b'{"model":',
    b'["' + b"\\" * 3,
    b"\x28\xb5\x2f\xfd",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_what_cannot_be_read_is_refused_unless_the_servers_cloud_is_off(
    tmp_path: Path, dialect: Dialect, body: bytes
) -> None:
    async with books(tmp_path) as here:
        check_refused(dialect, await here.post(dialect.path, body), 400, "unreadable_body")
        check_refused(dialect, await here.post(dialect.path, body, HIGH), 400, "unreadable_body")
        assert not served(here)
        here.local.cloud_disabled = True
        here.sidecar.services.local.models._status = (0.0, False)  # five seconds pass
        answer = await here.post(dialect.path, body, HIGH)
        assert (answer.status, went(answer)[0]) == (400, "local"), "the server's own words"
        assert served(here)[-1].body == body
        assert not here.cloud.requests


def form(fields: list[tuple[str, str]], audio: bytes = b"RIFF....") -> tuple[bytes, dict[str, str]]:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields
    ]
    parts.append(
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + audio + b"\r\n--b--\r\n"
    )
    return b"".join(parts), {"Content-Type": "multipart/form-data; boundary=b"}


SPEECH = "/v1/audio/transcriptions"


async def test_a_form_is_read_for_its_model(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        body, headers = form([("model", LOCAL_MODEL), ("language", "en")])
        answer = await here.post(SPEECH, body, headers)
        assert went(answer)[0] == "local"
        assert served(here)[-1].body == body
        for fields in (
            [("model", NAMES[0])],
            [("model", LOCAL_MODEL), ("model", NAMES[0])],
            [("model", NAMES[0]), ("model", LOCAL_MODEL)],
            [("Model", NAMES[0]), ("model", LOCAL_MODEL)],
        ):
            body, headers = form(fields)
            answer = await here.post(SPEECH, body, headers)
            check_refused(OPENAI, answer, 403, went(answer)[2] or "")
        assert len(served(here)) == 1
        broken = await here.post(SPEECH, b"--b\r\nno form at all", headers)
        assert broken.status in (400, 403)
        assert len(served(here)) == 1


@pytest.mark.parametrize(
    "query",
    [
        f"model={NAMES[0]}",
        f"Model={NAMES[0]}",
        f"x=1&model={NAMES[0]}",
        f"mode%6c={NAMES[0]}",
        "model=gpt-oss%3A120b-cloud",
    ],
)
async def test_a_model_in_the_query_counts_too(tmp_path: Path, query: str) -> None:
    async with books(tmp_path) as here:
        body, headers = form([("model", LOCAL_MODEL)])
        assert (await here.post(f"{SPEECH}?{query}", body, headers)).status == 403
        assert (await here.chat("Hello", {})).status == 200
        answer = await here.post(f"{CHAT.path}?{query}", CHAT.body("Hello"))
        assert went(answer)[0] != "local"
        assert [got.target for got in served(here)] == [CHAT.path]


# What searches the web.

TOOLS: list[dict[str, Any]] = [
    {"type": "web_search_20250305", "name": "web_search"},
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "web_search"},
    {"type": "web_search_preview"},
    {"type": " WEB_SEARCH "},
]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool["type"])
@pytest.mark.parametrize("dialect", [ANTHROPIC, RESPONSES], ids=lambda d: d.name)
async def test_a_tool_that_searches_the_web(tmp_path: Path, dialect: Dialect, tool: dict[str, Any]) -> None:
    local = StandInOllama([StandInModel(LOCAL_MODEL, capabilities=("completion", "tools"))])
    async with books(tmp_path, HERE, local=local) as here:
        for model in (LOCAL_MODEL, NAMES[0]):
            for headers in ({}, HIGH):
                body = dialect.body("Hello", model=model, tools=[{"type": "function", "name": "x"}, tool])
                answer = await here.post(dialect.path, body, headers)
                check_refused(dialect, answer, 403, "unpriced_model")
            check_refused(dialect, await here.post(dialect.path, body, PII), 403, "sensitive_data")
        assert not served(here)
        assert not here.cloud.requests
        # A server whose cloud is off cannot search: its model gets the call, and the cloud does not search for it.
        local.cloud_disabled = True
        here.sidecar.services.local.models._status = (0.0, False)
        for headers in ({}, HIGH):
            body = dialect.body("Hello", tools=[tool])
            assert went(await here.post(dialect.path, body, headers))[:2] == ("local", LOCAL_MODEL)
        assert not here.cloud.requests


@pytest.mark.parametrize(
    "tools",
    [
        '"Tools":[{"type":"web_search"}]',
        '"tools":[{"Type":"web_search"}]',
        '"TOOLS":[{"TYPE":"Web_Search"}]',
        '"tools":[],"tools":[{"type":"web_search"}]',
        '"tools":[{"type":"x","type":"web_search"}]',
        '"tools":[{"type":"web_search","type":"x"}]',
        '"tool\\u0073":[{"type":"web\\u005fsearch"}]',
    ],
)
@pytest.mark.parametrize("dialect", [ANTHROPIC, RESPONSES], ids=lambda d: d.name)
async def test_a_web_tool_that_not_every_reader_finds(tmp_path: Path, dialect: Dialect, tools: str) -> None:
    local = StandInOllama([StandInModel(LOCAL_MODEL, capabilities=("completion", "tools"))])
    async with books(tmp_path, HERE, local=local) as here:
        text = json.dumps(dialect.body("Hello"))
        answer = await here.post(dialect.path, f"{text[:-1]},{tools}}}".encode())
        assert answer.status == 403
        assert not here.cloud.requests
        assert not served(here)


@pytest.mark.parametrize("path", ["/api/experimental/web_search", "/api/experimental/web_fetch"])
@pytest.mark.parametrize(
    "body",
    [
        {"query": "the weather", "url": "https://example.com"},
        {"query": "write to bob@example.org", "url": "https://example.org/bob@example.org"},
        {"model": LOCAL_MODEL, "query": "x"},
        {},
        [],
        b"",
        b"no JSON",
    ],
)
async def test_the_servers_own_web_search_is_a_cloud_call(tmp_path: Path, path: str, body: Any) -> None:
    async with books(tmp_path, HERE) as here:
        for headers in ({}, HIGH):
            answer = await here.post(path, body, headers)
            assert answer.status in (400, 403)
            assert went(answer)[0] == "none"
            assert CHAT.message(answer.json())
        assert not here.cloud.requests
        assert not served(here)
        here.local.cloud_disabled = True
        here.sidecar.services.local.models._status = (0.0, False)
        answer = await here.post(path, body)
        assert went(answer)[0] == "local"


# By a path that not every reader takes for the same.

ODD_PATHS = [
    "/api/%63hat",
    "/api//chat",
    "//api/chat",
    "/api/./chat",
    "/api/x/../chat",
    "/api/chat/",
    "/API/Chat",
    "/api/chat%2f",
    "/%61%70%69/chat",
    "/api/chat%20",
    "/api/chat%3Fx",
    "/api%2fchat",
    "\\api\\chat",
]


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_an_odd_path_is_judged_as_the_route_that_it_could_be(tmp_path: Path, path: str) -> None:
    async with books(tmp_path) as here:
        body = json.dumps(CHAT.body("Hello", model=NAMES[0])).encode()
        target = path if path.startswith("/") else f"/{path}"
        for headers in ({}, HIGH):
            answer = await here.post(target, body, headers)
            assert answer.status == 403, "it names a cloud model, and the cloud has no such path"
        assert not here.cloud.requests
        assert not [got for got in here.local.requests if got.body == body]
        answer = await here.post(target, CHAT.body("Hello"), HIGH)
        assert went(answer)[0] == "local"
        assert not here.cloud.requests


async def test_an_absolute_target_is_its_path(tmp_path: Path) -> None:
    async with books(tmp_path) as here, connect(here.port) as client:
        body = json.dumps(CHAT.body("Hello", model=NAMES[0])).encode()
        await client.send(request("POST", f"http://localhost:11434{CHAT.path}", PII, body))
        check_refused(CHAT, await client.read("POST"), 403, "sensitive_data")


async def test_a_cloud_that_turns_a_named_model_down_is_not_asked_by_way_of_the_local_server(tmp_path: Path) -> None:
    cloud = StandInCloud([], key=KEY, prices=PRICES)
    async with books(tmp_path, cloud=cloud) as here:
        answer = await here.chat("Hello", model=NAMES[0])
        assert (answer.status, went(answer)[0]) == (404, "cloud")
        await cloud.close()
        check_refused(CHAT, await here.chat("Hello", model=NAMES[0]), 503, "cloud_unavailable")
        check_refused(CHAT, await here.chat("Hello", model="summarizer:cloud"), 403, "unpriced_model")


# What was known before a wait says nothing any more.


class _HoldThenCut(faults.Fault):
    """Breaks off without an answer once the gate is open."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    async def before(self, exchange: Exchange) -> Any:
        await self._gate.wait()
        return await faults.Cut("before_work").before(exchange)


def _now(here: World) -> None:
    """As if the server were as quick as a closed connection: what is lost counts as lost at once."""
    for connection in _connections(here):
        connection._sent_at = float("inf")


def _connections(here: World) -> list[UpstreamConnection]:
    pool = here.sidecar.services.local.pool
    return [
        one
        for one in gc.get_objects()
        if isinstance(one, UpstreamConnection) and one._on_free.__self__ is pool  # type: ignore[attr-defined]
    ]


async def test_a_call_that_is_sent_again_asks_again_where_its_model_runs(tmp_path: Path) -> None:
    gate, held = asyncio.Event(), list[Any]()

    def play(got: Any) -> Any:
        if got.target == CHAT.path and got.json()["messages"][0]["content"] == "my plan" and not held:
            held.append(got)
            return _HoldThenCut(gate)
        return None

    local = StandInOllama([StandInModel(LOCAL_MODEL), ALIAS], misbehave=play)
    async with world(tmp_path, local=local) as here:
        assert (await here.chat("warm")).status == 200
        call = asyncio.create_task(here.chat("my plan", PII))
        await until(lambda: held, "the call at the server")
        copied = await ask(here.port, "POST", "/api/copy", {}, {"source": ALIAS.name, "destination": LOCAL_MODEL})
        assert copied.status == 200
        _now(here)
        gate.set()
        answer = await call
        assert answer.status == 403
        assert not local.cloud_calls


async def test_a_search_that_is_sent_again_asks_again_whether_the_cloud_is_off(tmp_path: Path) -> None:
    gate, held = asyncio.Event(), list[Any]()

    def play(got: Any) -> Any:
        if got.target == RESPONSES.path and not held:
            held.append(got)
            return _HoldThenCut(gate)
        return None

    local = StandInOllama([StandInModel(LOCAL_MODEL)], misbehave=play, cloud_disabled=True)
    async with world(tmp_path, local=local) as here:
        assert (await here.chat("warm")).status == 200
        body = {"model": LOCAL_MODEL, "input": "my plan", "tools": [{"type": "web_search"}]}
        call = asyncio.create_task(here.post(RESPONSES.path, body, PII))
        await until(lambda: held, "the call at the server")
        local.cloud_disabled = False
        _now(here)
        gate.set()
        assert (await call).status == 403
        assert len([got for got in local.requests if got.target == RESPONSES.path]) == 1


async def test_a_call_is_checked_when_its_connection_is_there(tmp_path: Path) -> None:
    local = StandInOllama([StandInModel(LOCAL_MODEL), ALIAS])
    async with world(tmp_path, local=local) as here:
        assert (await here.chat("warm")).status == 200
        pool = here.sidecar.services.local.pool
        real, asked, go = pool._connect, asyncio.Event(), asyncio.Event()

        async def slow() -> UpstreamConnection:
            if not asked.is_set():
                asked.set()
                await go.wait()
            return await real()

        pool._connect = slow  # type: ignore[method-assign]
        for connection in pool._idle[:]:
            connection.close()
        call = asyncio.create_task(here.chat("my plan", PII))
        await asked.wait()
        copied = await ask(here.port, "POST", "/api/copy", {}, {"source": ALIAS.name, "destination": LOCAL_MODEL})
        assert copied.status == 200
        go.set()
        assert (await call).status == 403
        assert not local.cloud_calls


@pytest.mark.parametrize("query", [f"model={TEXT_MODEL}-cloud", "x=1&MODEL=a", "mod%65l=a"])
async def test_a_query_that_names_a_model_is_not_taken_along_to_another(tmp_path: Path, query: str) -> None:
    async with books(tmp_path, HERE) as here:
        body = CHAT.body("Hello", model=NAMES[0])
        answer = await here.post(f"{CHAT.path}?{query}", body, PII)
        check_refused(CHAT, answer, 403, "sensitive_data")
        assert not served(here)
