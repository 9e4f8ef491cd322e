"""The stand-in for a local Ollama beyond inference: its models, blobs, status, and who may ask what."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest
from standins_support import ask, chat, peer

from sidecar.standins import StandInModel, StandInOllama

ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
NONE = "sha256:" + "0" * 64


@pytest.fixture
async def server() -> AsyncIterator[StandInOllama]:
    models = [
        StandInModel("tiny", capabilities=("completion", "tools")),
        StandInModel("thinker", capabilities=("completion", "thinking")),
        StandInModel("embedder", capabilities=("embedding",)),
        StandInModel("painter", capabilities=("image",)),
        StandInModel("alias", remote_host="https://ollama.com:443", remote_model="gpt-oss:120b"),
    ]
    async with StandInOllama(models) as running:
        yield running
    assert running.errors == []


async def test_models_are_listed_and_shown(server: StandInOllama) -> None:
    listed = (await ask(server.port, "GET", "/api/tags")).json()["models"]
    by_name = {model["name"]: model for model in listed}
    assert list(by_name["tiny:latest"]) == ["name", "model", "modified_at", "size", "digest", "details"]
    assert by_name["alias:latest"]["remote_model"] == "gpt-oss:120b"
    shown = (await ask(server.port, "POST", "/api/show", {"model": "TINY:latest"})).json()
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["llama.context_length"] == 8192
    remote = (await ask(server.port, "POST", "/api/show", {"name": "alias"})).json()
    assert (remote["remote_host"], remote["model_info"]) == ("https://ollama.com:443", {})
    openai = (await ask(server.port, "GET", "/v1/models")).json()
    assert {model["id"] for model in openai["data"]} == set(by_name)
    one = (await ask(server.port, "GET", "/v1/models/tiny")).json()
    assert list(one) == ["id", "object", "created", "owned_by"]
    assert (one["id"], one["owned_by"]) == ("tiny", "library")


async def test_copy_create_pull_and_delete_change_the_table(server: StandInOllama) -> None:
    port = server.port
    copied = await ask(port, "POST", "/api/copy", {"source": "tiny", "destination": "two"})
    assert (copied.status, copied.body, copied.header("Content-Length")) == (200, b"", "0")
    assert "two" in server.models
    assert (await ask(port, "POST", "/api/copy", {"source": "no", "destination": "x"})).status == 404
    assert (await ask(port, "DELETE", "/api/delete", {"model": "two"})).body == b""
    assert (await ask(port, "DELETE", "/api/delete", {"model": "two"})).json() == {"error": "model 'two' not found"}
    pulled = await ask(port, "POST", "/api/pull", {"model": "new"})
    assert pulled.lines()[0] == {"status": "pulling manifest"}
    assert pulled.lines()[-1] == {"status": "success"}
    assert [list(line) for line in pulled.lines()[2:3]] == [["status", "digest", "total", "completed"]]
    made = await ask(port, "POST", "/api/create", {"model": "mine", "from": "tiny", "stream": False})
    assert (made.header("Content-Type"), made.json()) == ("application/json", {"status": "success"})
    await ask(port, "POST", "/api/create", {"model": "far", "from": "gpt-oss:120b-cloud"})
    far = server.models.find("far")
    assert far is not None
    assert (far.remote_model, far.remote_host) == ("gpt-oss:120b", "https://ollama.com:443")
    assert {"new", "mine"} <= {model.name.removesuffix(":latest") for model in server.models}
    server.unpullable.add("gone")
    refused = await ask(port, "POST", "/api/pull", {"model": "gone"})
    assert list(refused.lines()[-1]) == ["error"]
    assert (await ask(port, "POST", "/api/pull", {"model": "gone", "stream": False})).status == 500
    assert (await ask(port, "POST", "/api/push", {"model": "tiny"})).lines()[-1] == {"status": "success"}


async def test_blobs_are_checked_against_their_digest(server: StandInOllama) -> None:
    port = server.port
    assert (await ask(port, "HEAD", f"/api/blobs/{ABC}")).status == 404
    wrong = await ask(port, "POST", f"/api/blobs/{NONE}", b"abc")
    assert (wrong.status, wrong.json()) == (
        400,
        {"error": f'digest mismatch, expected "{NONE}", got "{ABC}"'},
    )
    assert (await ask(port, "POST", f"/api/blobs/{ABC}", b"abc")).status == 201
    assert (await ask(port, "POST", f"/api/blobs/{ABC}", b"abc")).status == 200
    assert (await ask(port, "HEAD", f"/api/blobs/{ABC}")).header("Content-Length") is None
    assert (await ask(port, "POST", "/api/blobs/bad", b"")).json() == {"error": "invalid digest format"}
    made = await ask(port, "POST", "/api/create", {"model": "mine", "files": {"a.gguf": ABC}})
    assert made.lines()[-1] == {"status": "success"}
    missing = await ask(port, "POST", "/api/create", {"model": "no", "files": {"a.gguf": NONE}})
    assert "no such file" in missing.lines()[-1]["error"]
    assert hashlib.sha256(b"abc").hexdigest() == ABC.removeprefix("sha256:")


async def test_status_version_and_root(server: StandInOllama) -> None:
    assert (await ask(server.port, "GET", "/api/status")).json() == {"cloud": {"disabled": False, "source": "none"}}
    assert (await ask(server.port, "GET", "/api/version")).json() == {"version": "0.24.0"}
    assert (await ask(server.port, "HEAD", "/")).status == 200
    server.cloud_disabled = True
    assert (await ask(server.port, "GET", "/api/status")).json() == {"cloud": {"disabled": True, "source": "env"}}


async def test_what_would_reach_the_cloud_is_noted(server: StandInOllama) -> None:
    said = chat(max_tokens=5)
    search = [{"type": "web_search_20250305", "name": "web_search"}]
    statuses = [
        (await ask(server.port, "POST", path, body)).status
        for path, body in (
            ("/api/chat", said | {"model": "gpt-oss:120b-cloud"}),
            ("/v1/chat/completions", said | {"model": "x:Cloud "}),
            ("/api/generate", {"model": "alias", "prompt": "x"}),
            ("/api/experimental/web_search", {"query": "x"}),
            ("/v1/messages", said | {"tools": search}),
        )
    ]
    assert statuses == [401, 401, 401, 401, 200]
    assert len(server.cloud_calls) == 5
    server.cloud_disabled = True
    refused = await ask(server.port, "POST", "/v1/chat/completions", said | {"model": "x:cloud"})
    assert (refused.status, refused.json()) == (
        403,
        {"error": "ollama cloud is disabled: remote model is unavailable"},
    )
    assert len(server.cloud_calls) == 5


async def test_unknown_routes_methods_and_spellings(server: StandInOllama) -> None:
    unknown = await ask(server.port, "GET", "/nope")
    assert (unknown.status, unknown.body, unknown.header("Content-Type")) == (
        404,
        b"404 page not found",
        "text/plain",
    )
    wrong = await ask(server.port, "PUT", "/api/tags")
    assert (wrong.status, wrong.body, wrong.header("Allow")) == (405, b"405 method not allowed", "HEAD, GET")
    for target, status, location in (
        ("/api/tags/", 301, "/api/tags"),
        ("//api/tags?x=1", 307, "/api/tags?x=1"),
        ("/api/x/../tags", 307, "/api/tags"),
    ):
        moved = await ask(server.port, "GET", target)
        assert (moved.status, moved.header("Location")) == (status, location)
    assert (await ask(server.port, "GET", "/api/%76ersion")).status == 200
    assert (await ask(server.port, "GET", "http://localhost/api/version?x")).status == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("app://x", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://localhost.evil.example", 403),
    ],
)
async def test_origins(server: StandInOllama, origin: str, status: int) -> None:
    plain = await ask(server.port, "GET", "/api/version", headers=(("Origin", origin),))
    assert plain.status == status
    assert plain.header("Access-Control-Allow-Origin") == (origin if status == 200 else None)
    flight = await ask(server.port, "OPTIONS", "/api/chat", headers=(("Origin", origin),))
    assert flight.status == (204 if status == 200 else 403)
    assert flight.header("Allow") == "POST"


async def test_foreign_hosts_are_refused(server: StandInOllama) -> None:
    for host, status in (("evil.example", 403), ("ollama.internal:80", 200), ("10.0.0.7", 200), ("8.8.8.8", 403)):
        async with peer(server.port) as one:
            one.send(f"GET /api/version HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await one.answer()).status == status


async def test_pictures_and_speech(server: StandInOllama) -> None:
    painted = (await ask(server.port, "POST", "/v1/images/generations", {"model": "painter", "prompt": "x"})).json()
    assert painted["data"][0]["b64_json"].startswith("iVBOR")
    nothing = await ask(server.port, "POST", "/v1/images/generations", {"model": "tiny", "prompt": "x"})
    assert (nothing.status, nothing.body) == (200, b"")
    form = (
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nnope\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--B--\r\n'
    )
    headers = (("Content-Type", "multipart/form-data; boundary=B"),)
    assert (await ask(server.port, "POST", "/v1/audio/transcriptions", form, headers)).status == 404
    # The query comes before the form, as in Go.
    heard = await ask(server.port, "POST", "/v1/audio/transcriptions?model=tiny", form, headers)
    assert "stand-in" in heard.json()["text"]
