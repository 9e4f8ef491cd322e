"""The stand-in for Ollama Cloud: its key, its routes, and that its bills add up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from standins_support import RawAnswer, RawPeer, ask, chat

from sidecar.standins import StandInCloud, StepGate, faults
from sidecar.standins.cloud import price

KEY = (("Authorization", "Bearer secret"),)
PRICES = {"tiny": (150_000, 600_000), "other:1b": (1, 3)}


@pytest.fixture
async def cloud() -> AsyncIterator[StandInCloud]:
    async with StandInCloud(["tiny", "other:1b"], key="secret", prices=PRICES, answer_tokens=10) as running:
        yield running
    assert running.errors == []


async def post(cloud: StandInCloud, path: str, body: Any) -> RawAnswer:
    return await ask(cloud.port, "POST", path, body, KEY)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Authorization", "Bearer wrong"),),
        (("Authorization", "secret"),),
        (("X-Api-Key", "secret"),),
        (*KEY, *KEY),
    ],
)
async def test_without_the_key_nothing_is_answered(cloud: StandInCloud, headers: tuple[tuple[str, str], ...]) -> None:
    answer = await ask(cloud.port, "POST", "/api/chat", chat(), headers)
    assert (answer.status, answer.json()) == (401, {"error": "unauthorized"})
    openai = await ask(cloud.port, "POST", "/v1/chat/completions", chat(), headers)
    assert openai.json()["error"]["message"] == "unauthorized"
    assert cloud.bills == []


async def test_it_knows_the_cloud_s_routes_only(cloud: StandInCloud) -> None:
    known = {
        ("POST", "/api/chat"): chat(),
        ("POST", "/api/generate"): {"model": "tiny", "prompt": "x"},
        ("GET", "/api/tags"): None,
        ("POST", "/api/show"): {"model": "tiny"},
        ("POST", "/api/web_search"): {"query": "x"},
        ("POST", "/api/web_fetch"): {"url": "x"},
        ("POST", "/v1/chat/completions"): chat(),
        ("GET", "/v1/models"): None,
        ("POST", "/v1/responses"): {"model": "tiny", "input": "x"},
        ("POST", "/v1/messages"): chat(max_tokens=5),
    }
    for (method, path), body in known.items():
        answer = await ask(cloud.port, method, path, body, KEY)
        assert (answer.status, answer.header("X-Stand-In")) == (200, "cloud")
    for method, path in (
        ("POST", "/api/embed"),
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("POST", "/v1/embeddings"),
        ("GET", "/api/ps"),
    ):
        assert (await ask(cloud.port, method, path, {}, KEY)).status == 404


async def test_web_search_and_fetch_invent_and_cost_nothing(cloud: StandInCloud) -> None:
    found = (await post(cloud, "/api/web_search", {"query": "x", "max_results": 2})).json()
    assert [list(result) for result in found["results"]] == [["title", "url", "content"]] * 2
    page = (await post(cloud, "/api/web_fetch", {"url": "https://example.com"})).json()
    assert list(page) == ["title", "content", "links"]
    assert cloud.bills == []


async def test_it_takes_base_names_only(cloud: StandInCloud) -> None:
    answer = await post(cloud, "/api/chat", chat() | {"model": "tiny:cloud"})
    assert (answer.status, answer.json()) == (404, {"error": "model 'tiny:cloud' not found"})
    assert cloud.bills == []


@pytest.mark.parametrize(
    ("path", "stream"), [(path, stream) for path in ("/api/chat", "/v1/chat/completions") for stream in (True, False)]
)
async def test_a_bill_says_what_the_answer_said(cloud: StandInCloud, path: str, stream: bool) -> None:
    answer = await post(cloud, path, chat(stream=stream, stream_options={"include_usage": True}))
    if path == "/api/chat":
        last = answer.lines()[-1]
        counted = (last["prompt_eval_count"], last["eval_count"])
    else:
        usage = (answer.events()[-2][1] if stream else answer.json())["usage"]
        counted = (usage["prompt_tokens"], usage["completion_tokens"])
    bill = cloud.bills[0]
    assert (bill.tokens_in, bill.tokens_out) == counted
    assert (bill.model, bill.request_index, bill.outcome) == ("tiny:latest", 0, "complete")
    assert bill.cost_micro_usd == price(*counted, PRICES["tiny"]) == cloud.billed_micro_usd > 0


def test_prices_round_up_apart() -> None:
    assert price(0, 0, (150_000, 600_000)) == 0
    assert price(1, 1, (150_000, 600_000)) == 2
    assert price(1_000_000, 1_000_000, (150_000, 600_000)) == 750_000
    assert price(7, 2, (1_000_000, 500_000)) == 8


@pytest.mark.parametrize("stream", [True, False])
async def test_an_aborted_request_is_billed_for_what_was_generated(cloud: StandInCloud, stream: bool) -> None:
    gate = cloud.gate = StepGate(open_through=4)
    one = await RawPeer.open(cloud.port)
    one.ask("POST", "/api/chat", chat(stream=stream), KEY)
    request = await gate.reached(5)
    assert cloud.bills == []
    one.leave()
    await request.finished.wait()
    bill = cloud.bills[0]
    assert (bill.outcome, bill.tokens_out) == ("aborted", 4)
    assert bill.tokens_in > 0
    assert cloud.billed_micro_usd == bill.cost_micro_usd


@pytest.mark.parametrize(
    ("fault", "tokens_out", "outcome"),
    [
        (faults.Status(500), None, None),
        (faults.Cut("before_work"), None, None),
        (faults.Cut("before_head"), 0, "cut"),
        (faults.Cut("after_head"), 0, "cut"),
        (faults.Cut("between_records", after_writes=3), 3, "cut"),
        (faults.Cut("mid_record", after_writes=3), 4, "cut"),
        (faults.NoFinalRecord(), 10, "complete"),
        (faults.BadUsage("missing"), 10, "complete"),
        (faults.BadUsage("negative"), 10, "complete"),
        (faults.ErrorRecord(after_writes=3), 3, "complete"),
    ],
    ids=str,
)
async def test_faults_are_billed_for_what_was_generated(
    cloud: StandInCloud, fault: faults.Fault, tokens_out: int | None, outcome: str | None
) -> None:
    cloud.misbehave = [fault]
    one = await RawPeer.open(cloud.port)
    one.ask("POST", "/api/chat", chat(), (*KEY, ("Connection", "close")))
    await one.rest()
    one.leave()
    await cloud.requests[0].finished.wait()
    assert [(bill.tokens_out, bill.outcome) for bill in cloud.bills] == (
        [] if tokens_out is None else [(tokens_out, outcome)]
    )


async def test_the_peak_doubles_the_price(cloud: StandInCloud) -> None:
    await post(cloud, "/api/chat", chat())
    cloud.price_factor = 2
    await post(cloud, "/api/chat", chat())
    assert cloud.bills[1].cost_micro_usd == 2 * cloud.bills[0].cost_micro_usd
    assert cloud.billed_micro_usd == 3 * cloud.bills[0].cost_micro_usd


async def test_usage_reports_the_bills() -> None:
    now = [1_790_821_800.0]  # 2026-10-01T02:30:00Z
    async with StandInCloud(
        ["tiny", "other:1b"], key="secret", prices=PRICES, usage_lag=60, clock=lambda: now[0]
    ) as cloud:

        async def usage(query: str = "range=24h") -> Any:
            return (await ask(cloud.port, "GET", f"/api/usage?{query}", None, KEY)).json()

        await post(cloud, "/api/chat", chat())
        assert (await usage())["totals"]["request_count"] == 0  # not yet: the report lags
        now[0] += 3600
        await post(cloud, "/api/chat", chat("another") | {"model": "other:1b"})
        now[0] += 60
        report = await usage()
        assert list(report) == ["range", "scope", "granularity", "from", "until", "totals", "buckets"]
        assert (report["from"], report["until"]) == ("2026-09-30T03:00:00Z", "2026-10-01T03:31:00Z")
        assert len(report["buckets"]) == 25
        assert report["buckets"][-1]["partial"] is True
        assert [bucket["request_count"] for bucket in report["buckets"]][-2:] == [1, 1]
        assert report["totals"] == {
            "request_count": 2,
            "usage_usd": cloud.billed_micro_usd / 1_000_000,
            "input_tokens": sum(bill.tokens_in for bill in cloud.bills),
            "cached_input_tokens": 0,
            "output_tokens": sum(bill.tokens_out for bill in cloud.bills),
        }
        grouped = (await usage("range=7d&group_by=model"))["totals"]["models"]
        assert {one["model"]: one["request_count"] for one in grouped} == {"tiny:latest": 1, "other:1b": 1}
        assert (await ask(cloud.port, "GET", "/api/usage?range=1y", None, KEY)).status == 400
        now[0] += 2 * 86_400
        assert (await usage())["totals"]["request_count"] == 0
