"""The money of one call, however it ends: one booking, one outcome in the audit log, no open reservation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from cloud_support import CHAT, DIALECTS, LOCAL_MODEL, OPENAI, Dialect, books, door, high, keeper, settled, went

from sidecar.core.budget import Reservation
from sidecar.standins import StandInCloud, faults
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.pool import Pool
from support.world import HIGH, KEY, PRICES, TEXT_MODEL, World, merge, world

IN, OUT = PRICES[TEXT_MODEL]


def a_cloud(**more: Any) -> StandInCloud:
    return StandInCloud([TEXT_MODEL], key=KEY, prices=PRICES, **more)


def budget(daily: float, **more: Any) -> dict[str, Any]:
    return {"ollama_cloud": {"cost_limits": {"daily_budget_usd": daily}, **more}}


@pytest.fixture
def bookings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every end of a reservation: what it was, and what was booked. None ends twice."""
    ended: list[tuple[int, int]] = []
    settle = Reservation.settle

    def watched(reservation: Reservation, actual: int) -> bool:
        assert reservation.open, "a reservation ended twice"
        ended.append((reservation.amount, actual))
        return settle(reservation, actual)

    monkeypatch.setattr(Reservation, "settle", watched)
    return ended


# A crash of ours, at every stage of a cloud call: whether the call had left by then, and its answer had begun.

STAGES = {
    "the money is reserved": ("sidecar.proxy.cloud_call._reserve", False, False),
    "what the lease affords": ("sidecar.proxy.cloud_call.affordable_output", False, False),
    "a ticket is taken": ("sidecar.upstream.cloud.CloudDoor.admit", False, False),
    "the permit is issued": ("sidecar.core.permit.PermitOffice.issue", False, False),
    "the intent is written": ("sidecar.telemetry.audit.AuditLog.intent", False, False),
    "the call is made up": ("sidecar.proxy.cloud_call.CloudCall", False, False),
    "the permit is redeemed": ("sidecar.core.permit.PermitOffice.redeem", False, False),
    "the body is edited": ("sidecar.upstream.cloud.cloud_body", False, False),
    "a connection is got": ("sidecar.upstream.pool.Pool.acquire", False, False),
    "the head is written": ("sidecar.upstream.cloud.CloudDoor._head", False, False),
    "the call is sent": ("sidecar.upstream.connection.UpstreamConnection.send", True, False),
    "the answer is awaited": ("sidecar.upstream.connection.UpstreamConnection.response", True, False),
    "the answer is looked at": ("sidecar.proxy.cloud_call._relay", True, False),
    "the answer is begun": ("sidecar.proxy.cloud_call._begin", True, False),
    "the answer is taken": ("sidecar.upstream.connection.UpstreamConnection.attach", True, True),
    "the answer's end is noted": ("sidecar.proxy.cloud_call._note", True, True),
    "success is told": ("sidecar.upstream.cloud.CloudDoor.succeeded", True, True),
    "the ticket is given back": ("sidecar.upstream.cloud.CloudDoor.leave", True, True),
}


class CrashError(Exception):
    """A defect that nobody foresaw."""


def crash_once(monkeypatch: pytest.MonkeyPatch, where: str, here: World) -> list[object]:
    """Makes a function raise at its next use for the cloud. What serves the local server, too, goes on there."""
    owner, _, name = where.rpartition(".")
    original = monkeypatch_target(owner, name)
    pool = door(here)._pool
    crashed: list[object] = []

    def crashes(*given: Any, **named: Any) -> Any:
        first = given[0] if given else None
        of_the_cloud = first is pool if isinstance(first, Pool) else True
        if isinstance(first, UpstreamConnection):
            of_the_cloud = first._on_free.__self__ is pool  # type: ignore[attr-defined]
        if crashed or not of_the_cloud:
            return original(*given, **named)
        crashed.append(first)
        raise CrashError

    monkeypatch.setattr(where, crashes)
    return crashed


def monkeypatch_target(owner: str, name: str) -> Any:
    return getattr(resolve_name(owner), name)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_crash_at_any_stage_books_once_and_the_app_hears_of_it(
    tmp_path: Path, stage: str, stream: bool, bookings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, sent, begun = STAGES[stage]
    over = budget(0.002) if stage == "what the lease affords" else {}
    async with books(tmp_path, over, cloud=a_cloud()) as here:
        crashed = crash_once(monkeypatch, where, here)
        answer = await high(here, CHAT, stream=stream)
        assert crashed
        assert keeper(here).standing.reserved == 0
        assert len(bookings) == (0 if stage == "the money is reserved" else 1)
        if begun and (stream or stage != "the answer is taken"):
            assert went(answer)[0] == "cloud" or answer.status == 500
        else:
            assert went(answer) == ("local", LOCAL_MODEL, "cloud_unavailable")
            assert CHAT.whole(answer)
        assert (settled(here) > 0) is sent
        if not sent:
            assert not here.cloud.requests
        # The next call is none the worse for it.
        assert CHAT.whole(await high(here, CHAT, stream=stream))


@pytest.mark.parametrize("where", ["telemetry.metrics.Metrics.attempt", "telemetry.audit.AuditLog.execution"])
async def test_what_cannot_be_recorded_is_booked_and_answered_all_the_same(
    tmp_path: Path, where: str, bookings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, cloud=a_cloud()) as here:
        crashed = crash_once(monkeypatch, f"sidecar.{where}", here)
        answer = await high(here, CHAT, stream=True)
        assert crashed
        assert CHAT.whole(answer)
        assert went(answer)[0] == "cloud"
        assert settled(here) == here.cloud.billed_micro_usd == bookings[0][1]


async def test_an_observer_that_fails_costs_nobody_an_answer(tmp_path: Path) -> None:
    async with books(tmp_path, cloud=a_cloud()) as here:
        services, seen = here.sidecar.services, []

        def fails(_: object) -> None:
            raise CrashError

        services.observers = (fails, *services.observers, lambda record: seen.append(record.location))
        for headers in (HIGH, {}):
            answer = await here.post(CHAT.path, CHAT.body("Hello", stream=True), headers)
            assert answer.complete
            assert CHAT.whole(answer)
        assert seen == ["cloud", "local"]


# Caps on the output.


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_the_cap_is_lowered_to_what_is_left_and_not_under_256(
    tmp_path: Path, dialect: Dialect, stream: bool, bookings: list[tuple[int, int]]
) -> None:
    """A call of some 300 input tokens costs up to 45 + 154 micro-USD with 256 tokens, and 2503 with 4096."""
    async with books(tmp_path, budget(0.0009), cloud=a_cloud(answer_tokens=5000)) as here:
        caps = []
        while True:
            body = dialect.body("List the towns.", stream=stream)
            body.pop("max_tokens", None)
            answer = await here.post(dialect.path, body, HIGH)
            if went(answer)[0] == "local":
                break
            received = here.cloud.requests[-1]
            caps.append(dialect.cap_of(received.json()))
            assert here.cloud.bills[-1].tokens_out == caps[-1], "the cap is what ends the answer"
            amount, booked = bookings[-1]
            assert booked == here.cloud.bills[-1].cost_micro_usd <= amount
        assert went(answer) == ("local", LOCAL_MODEL, "budget_exceeded")
        assert caps
        assert all(256 <= cap < 4096 for cap in caps)
        assert caps == sorted(caps, reverse=True)
        assert here.cloud.billed_micro_usd <= 900
        # A call that asks for less than 256 tokens itself may still fit.
        small = dialect.capped(dialect.body("Hi", stream=stream), 16)
        answer = await here.post(dialect.path, small, HIGH)
        if went(answer)[0] == "cloud":
            assert dialect.cap_of(here.cloud.requests[-1].json()) == 16
        page = await here.metrics()
        assert page[f'ollama_sidecar_output_capped_total{{model="{TEXT_MODEL}"}}'] == len(caps)
    calls = [line for line in here.log() if line["event"] == "call" and line["location"] == "cloud"]
    assert [call.get("capped", False) for call in calls][: len(caps)] == [True] * len(caps)


async def test_an_answer_that_the_apps_own_cap_ended_is_not_counted_as_ours(tmp_path: Path) -> None:
    async with books(tmp_path, cloud=a_cloud(answer_tokens=5000)) as here:
        for dialect in DIALECTS:
            answer = await here.post(dialect.path, dialect.capped(dialect.body("Hello"), 20), HIGH)
            assert went(answer)[0] == "cloud"
            assert here.cloud.bills[-1].tokens_out == 20
        assert not any(name.startswith("ollama_sidecar_output_capped_total{") for name in await here.metrics())
        answer = await here.post(CHAT.path, CHAT.capped(CHAT.body("Hello"), 100_000), HIGH)
        assert here.cloud.bills[-1].tokens_out == 4096
        page = await here.metrics()
        assert page[f'ollama_sidecar_output_capped_total{{model="{TEXT_MODEL}"}}'] == 1


async def test_max_output_tokens_is_a_setting(tmp_path: Path) -> None:
    async with books(tmp_path, {"ollama_cloud": {"max_output_tokens": 300}}, cloud=a_cloud()) as here:
        for dialect in DIALECTS:
            body = dialect.body("Hello")
            await here.post(dialect.path, body, HIGH)
            assert dialect.cap_of(here.cloud.requests[-1].json()) == 300


@pytest.mark.parametrize("answers", [1, 3, 128])
async def test_each_of_several_answers_is_paid_for(
    tmp_path: Path, answers: int, bookings: list[tuple[int, int]]
) -> None:
    async with books(tmp_path, cloud=a_cloud()) as here:
        await high(here, OPENAI, n=answers)
        assert here.cloud.requests[-1].json()["max_tokens"] == 4096
        assert bookings[-1][0] >= answers * 4096 * OUT // 1_000_000


async def test_a_number_of_answers_that_is_none_stays_local(tmp_path: Path) -> None:
    async with books(tmp_path, cloud=a_cloud()) as here:
        for answers in (0, -1, 129, 10**9, "3", 1.5):
            assert went(await high(here, OPENAI, n=answers)) == ("local", LOCAL_MODEL, "local_only_operation")
        assert not here.cloud.requests


# The reservation is never less than the bill.


async def test_peak_prices_up_to_the_factor_stay_within_the_reservation(
    tmp_path: Path, bookings: list[tuple[int, int]]
) -> None:
    pricing = {TEXT_MODEL: {"input_per_1m": 0.15, "output_per_1m": 0.6, "price_factor_max": 3}}
    async with world(tmp_path, {"ollama_cloud": {"pricing": pricing}}, cloud=a_cloud(price_factor=3)) as here:
        for dialect in DIALECTS:
            await high(here, dialect)
            assert bookings[-1][0] >= here.cloud.bills[-1].cost_micro_usd


@pytest.mark.parametrize(
    "text", ["a" * 20_000, "é" * 10_000, "漢" * 6_000, "\u0001" * 3_000, "😀" * 4_000, " " * 9_000]
)
async def test_a_tokenizer_of_one_token_per_byte_stays_within_the_reservation(
    tmp_path: Path, text: str, bookings: list[tuple[int, int]]
) -> None:
    cloud = a_cloud(tokenizer=lambda one: len(one.encode()))
    async with books(tmp_path, cloud=cloud) as here:
        for dialect in DIALECTS:
            answer = await high(here, dialect, text)
            assert went(answer)[0] == "cloud"
            assert bookings[-1][0] >= cloud.bills[-1].cost_micro_usd == bookings[-1][1]


async def test_many_short_messages_stay_within_the_reservation(
    tmp_path: Path, bookings: list[tuple[int, int]]
) -> None:
    cloud = a_cloud(tokenizer=lambda one: len(one.encode()))
    async with books(tmp_path, cloud=cloud) as here:
        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": "x"}] * 500
        for dialect in (DIALECTS[0], DIALECTS[2], DIALECTS[4]):
            body = dialect.body("") | {"messages": turns}
            assert went(await here.post(dialect.path, body, HIGH))[0] == "cloud"
            assert bookings[-1][0] >= cloud.bills[-1].cost_micro_usd


# A cloud that lies about the usage, and one that bills what it does not finish.


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
async def test_counts_that_are_none_settle_in_full(
    tmp_path: Path, dialect: Dialect, stream: bool, bookings: list[tuple[int, int]]
) -> None:
    kinds: list[Any] = [
        "missing",
        "negative",
        "huge",
        "float",
        (0, 0),
        (None, 5),
        (5, None),
        (5, 0),
        (0, 5),
        (True, True),
    ]
    cloud = a_cloud(misbehave=[faults.BadUsage(kind) for kind in kinds])
    async with books(tmp_path, cloud=cloud) as here:
        for kind in kinds:
            answer = await high(here, dialect, stream=stream)
            assert went(answer)[0] == "cloud"
            assert dialect.whole(answer)
            amount, booked = bookings[-1]
            assert booked == amount, kind
    outcomes = [line for line in here.audit() if line["event"] == "ollama_cloud_execution"]
    assert {(line["outcome"], line["tokens_used"]) for line in outcomes} == {("ok", None)}


async def test_the_day_and_the_month_are_both_caps(tmp_path: Path) -> None:
    limits = {"daily_budget_usd": 5.0, "monthly_budget_usd": 0.0009}
    cloud = a_cloud(answer_tokens=400)
    async with books(tmp_path, {"ollama_cloud": {"cost_limits": limits}}, cloud=cloud) as here:
        places = [went(await high(here, CHAT))[0] for _ in range(12)]
        assert places[0] == "cloud"
        assert places[-1] == "local"
        assert cloud.billed_micro_usd <= 900


async def test_calls_at_once_do_not_spend_the_same_money(tmp_path: Path) -> None:
    """A hundred calls at once for a budget of about ten worst cases."""
    cloud = a_cloud(answer_tokens=4096)
    async with books(tmp_path, budget(0.025), cloud=cloud) as here:
        answers = await asyncio.gather(*(high(here, CHAT, f"Call {number}") for number in range(100)))
        places = [went(answer)[0] for answer in answers]
        assert all(CHAT.whole(answer) for answer in answers)
        assert 8 <= places.count("cloud") <= 12
        assert cloud.billed_micro_usd <= 25_000
        reasons = {went(answer)[2] for answer in answers}
        assert reasons == {"high_quality_extraction", "budget_exceeded"}


async def test_metrics_and_audit_tell_what_was_booked(tmp_path: Path) -> None:
    """`books` compares the sums; here each figure of one call."""
    async with books(tmp_path, merge(budget(1.0), {}), cloud=a_cloud()) as here:
        answer = await high(here, CHAT, stream=True)
        (bill,) = here.cloud.bills
        page = await here.metrics()
        cost = bill.cost_micro_usd / 1_000_000
        assert page["ollama_cloud_cost_usd_daily"] == cost
        assert (
            page[f'ollama_tokens_total{{location="cloud",model="{TEXT_MODEL}"}}'] == bill.tokens_in + bill.tokens_out
        )
        assert page[f'ollama_sidecar_cloud_attempts_total{{model="{TEXT_MODEL}",outcome="ok"}}'] == 1
        labels = f'location="cloud",model="{TEXT_MODEL}",task_type="extraction"'
        assert page[f"ollama_execution_total{{{labels}}}"] == 1
    (outcome,) = (line for line in here.audit() if line["event"] == "ollama_cloud_execution")
    assert outcome["request_id"] == answer.get("x-request-id")
    figures = {
        name: outcome[name] for name in ("tokens_in", "tokens_out", "tokens_used", "cost_usd", "outcome", "status")
    }
    assert figures == {
        "tokens_in": bill.tokens_in,
        "tokens_out": bill.tokens_out,
        "tokens_used": bill.tokens_in + bill.tokens_out,
        "cost_usd": cost,
        "outcome": "ok",
        "status": 200,
    }
    (call,) = (line for line in here.log() if line["event"] == "call")
    assert (call["cost_usd"], call["tokens_in"], call["tokens_out"]) == (cost, bill.tokens_in, bill.tokens_out)
