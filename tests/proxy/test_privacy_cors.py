"""Calls from web pages: what the local server's own rules refuse never costs a cloud call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cloud_support import CHAT, DIALECTS, Dialect, books, calm, high, went

from sidecar.standins import StandInCloud, StandInOllama, faults
from sidecar.upstream.cors import KEEP_SECONDS
from support.raw import Answer, ask
from support.world import HIGH, KEY, PRICES, TEXT_MODEL

GOOD = [
    "http://localhost",
    "http://localhost:3000",
    "https://127.0.0.1:8443",
    "app://obsidian.md",
    "tauri://localhost",
]
BAD = ["https://evil.example", "null", "http://localhost.evil.example", "https://ollama.com", "HTTP://EVIL"]


def cors(answer: Answer) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in answer.fields:
        lower = name.decode().lower()
        if lower.startswith("access-control-") or lower == "vary":
            found.setdefault(lower, []).append(value.decode())
    return found


@pytest.mark.parametrize("origin", BAD)
async def test_a_page_that_the_local_server_refuses_never_causes_a_cloud_call(tmp_path: Path, origin: str) -> None:
    over = {"local": {"models": {"extraction": "llama3"}}}
    async with books(tmp_path, over) as here:
        for dialect in DIALECTS:
            for stream in (False, True):
                for model in ("llama3", f"{TEXT_MODEL}-cloud"):
                    body = dialect.body("Hello", stream=stream, model=model)
                    answer = await here.post(dialect.path, body, {**HIGH, "Origin": origin})
                    assert answer.status == 403
                    assert went(answer)[0] in ("local", "none")
                    assert not cors(answer).get("access-control-allow-origin")
        assert not here.cloud.requests


@pytest.mark.parametrize("origin", GOOD)
async def test_a_page_that_it_lets_in_gets_its_headers_on_a_cloud_answer(tmp_path: Path, origin: str) -> None:
    async with books(tmp_path) as here:
        wanted = cors(await here.chat("Hello", {"Origin": origin}))
        assert wanted == {"access-control-allow-origin": [origin], "vary": ["Origin"]}
        for dialect in DIALECTS:
            for stream in (False, True):
                body = dialect.body("Hello", stream=stream)
                answer = await here.post(dialect.path, body, {**HIGH, "Origin": origin})
                assert went(answer)[0] == "cloud"
                assert cors(answer) == wanted
                assert dialect.whole(answer)
        assert all(got.header("origin") is None for got in here.cloud.requests)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_after_a_failed_try_the_local_answers_own_headers_count_once(tmp_path: Path, dialect: Dialect) -> None:
    """A browser refuses an answer that allows its origin twice."""
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES)
    async with books(tmp_path, cloud=cloud) as here:
        for fault in (faults.Status(500), faults.Cut("before_head"), faults.Status(429)):
            calm(here)
            cloud.misbehave = [fault]
            body = dialect.body("Hello", stream=True)
            answer = await here.post(dialect.path, body, {**HIGH, "Origin": "http://localhost"})
            assert went(answer)[0] == "local"
            assert cors(answer) == {"access-control-allow-origin": ["http://localhost"], "vary": ["Origin"]}


async def test_a_refusal_can_be_read_by_the_page_that_was_let_in(tmp_path: Path) -> None:
    over = {"ollama_cloud": {"fallback": {"on_cloud_unavailable": "error"}}}
    async with books(
        tmp_path, over, cloud=StandInCloud([TEXT_MODEL], key=KEY, misbehave=[faults.Status(500)])
    ) as here:
        answer = await here.chat("Hello", {**HIGH, "Origin": "http://localhost"})
        assert (answer.status, went(answer)[0]) == (503, "none")
        assert cors(answer)["access-control-allow-origin"] == ["http://localhost"]


async def test_the_clouds_own_rules_for_pages_do_not_count(tmp_path: Path) -> None:
    headers = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"), ("Vary", "Cookie"))
    cloud = StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, misbehave=lambda _: faults.ExtraHeaders(headers))
    async with books(tmp_path, cloud=cloud) as here:
        assert cors(await high(here, CHAT)) == {}
        answer = await here.chat("Hello", {**HIGH, "Origin": "http://localhost"})
        assert cors(answer) == {"access-control-allow-origin": ["http://localhost"], "vary": ["Origin"]}


async def test_a_preflight_is_the_local_servers_business(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        asked = {"Origin": "http://localhost", "Access-Control-Request-Method": "POST", **HIGH}
        answer = await ask(here.port, "OPTIONS", CHAT.path, asked)
        assert answer.status == 204
        assert cors(answer)["access-control-allow-methods"]
        assert (await ask(here.port, "OPTIONS", CHAT.path, asked | {"Origin": BAD[0]})).status == 403
        assert not here.cloud.requests


async def test_where_nobody_says_who_may_call_the_cloud_is_closed_to_pages(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        await here.local.close()
        for origin in (GOOD[0], BAD[0]):
            answer = await here.chat("Hello", {**HIGH, "Origin": origin})
            assert (answer.status, went(answer)[0]) == (503, "none")
        assert not here.cloud.requests
        # An app that is no page does not need to be let in.
        assert went(await high(here, CHAT))[0] == "cloud"


async def test_a_rule_that_changes_counts_after_seconds(tmp_path: Path) -> None:
    local = StandInOllama(["llama3"])
    async with books(tmp_path, local=local) as here:
        headers = {**HIGH, "Origin": "http://localhost"}
        assert went(await here.chat("Hello", headers))[0] == "cloud"
        asked = [got for got in local.requests if got.method == "HEAD"]
        assert went(await here.chat("Hello", headers))[0] == "cloud"
        assert [got for got in local.requests if got.method == "HEAD"] == asked, "asked once"
        known = here.sidecar.services.local.cors.__self__._known  # type: ignore[attr-defined]
        for origin, (at, lines) in list(known.items()):
            known[origin] = (at - KEEP_SECONDS, lines)
        local.misbehave = lambda got: faults.Status(403) if got.method == "HEAD" else None
        assert went(await here.chat("Hello", headers))[0] == "local"
        assert len(here.cloud.requests) == 2


async def test_two_origins_in_one_request(tmp_path: Path) -> None:
    async with books(tmp_path) as here:
        body = json.dumps(CHAT.body("Hello")).encode()
        headers = [*HIGH.items(), ("Origin", "http://localhost"), ("Origin", "https://evil.example")]
        answer = await ask(here.port, "POST", CHAT.path, headers, body)
        assert went(answer) == ("local", "llama3", "local_only_operation")
        assert not here.cloud.requests
