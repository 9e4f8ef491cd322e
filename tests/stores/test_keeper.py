"""The keeper: calls get their money at once or after one step; a fault ends in a reason, never in more money."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from faulty_store import MIDNIGHT, NOON, Clock, FaultyStore
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.budget import IDLE_SECONDS, Caps, Holder, Reservation, Step
from sidecar.stores import keeper as keeper_module
from sidecar.stores.embedded import EmbeddedStore
from sidecar.stores.keeper import Denied, Keeper

CAPS = Caps(100_000, 1_000_000)
ONE_PERCENT = 1000
LONG = 30.0  # seconds that no test waits for


class Rig:
    """A keeper on a store that fails on demand, and another sidecar beside it."""

    def __init__(self, wait_seconds: float = LONG, caps: Caps = CAPS) -> None:
        self.clock = Clock()
        self.store = FaultyStore(self.clock)
        self.holder = Holder("ours", caps)
        self.keeper = Keeper(self.store, self.holder, wait_seconds, self.clock)
        self._seq = 0

    def other(self, need: int = 0) -> int:
        """Takes money as another sidecar; answers what is left of the day."""
        self._seq += 1
        return self.store.other(Step("other", self._seq, "", 0, 0, 0, need, need, CAPS)).left_daily

    def drawn(self) -> int:
        """What the store counts as taken from the day."""
        return CAPS.daily - self.other()

    @property
    def steps(self) -> int:
        return len(self.store.asked)

    async def quiet(self) -> None:
        """Until no step is under way."""
        while (stepping := self.keeper._stepping) is not None:
            await asyncio.wait((stepping,))

    async def reserved(self, want: int, least: int | None = None) -> Reservation:
        result = await self.keeper.reserve(want, want if least is None else least)
        assert isinstance(result, Reservation), result
        return result

    async def denied(self, want: int, least: int | None = None) -> Denied:
        result = await self.keeper.reserve(want, want if least is None else least)
        assert isinstance(result, Denied), result
        return result


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    one = Rig()
    yield one
    await finish(one)


@pytest.fixture
async def hasty() -> AsyncIterator[Rig]:
    """One whose calls wait for the store for a moment only."""
    one = Rig(wait_seconds=0.01)
    yield one
    await finish(one)


async def finish(rig: Rig) -> None:
    rig.store.gate.set()
    rig.store.faults.clear()
    rig.store.on_reply = None
    if not rig.store.closed:
        await rig.keeper.close(LONG)


# Within the lease.


async def test_calls_within_the_lease_take_no_step(rig: Rig) -> None:
    await rig.reserved(ONE_PERCENT)
    await rig.quiet()  # it was filled up meanwhile
    steps = rig.steps
    for _ in range(5):
        assert rig.keeper.try_reserve(100, 100) is not None
    assert isinstance(await rig.keeper.reserve(0, 0), Reservation)
    await rig.quiet()
    assert rig.steps == steps
    assert rig.keeper.try_reserve(501, 501) is None


async def test_a_lease_that_runs_low_is_filled_up_while_calls_go_on(rig: Rig) -> None:
    await rig.reserved(ONE_PERCENT)
    await rig.quiet()
    steps = rig.steps
    assert rig.keeper.try_reserve(501, 501) is not None
    await rig.quiet()
    assert rig.steps == steps + 1
    assert (rig.store.asked[-1].need, rig.store.asked[-1].want) == (0, 501)
    assert rig.keeper.standing.free == ONE_PERCENT


async def test_what_is_reserved_settled_and_free_is_shown(rig: Rig) -> None:
    assert not rig.keeper.standing.known
    first = await rig.reserved(ONE_PERCENT)
    await rig.reserved(300)
    first.settle(200)
    standing = rig.keeper.standing
    assert (standing.known, standing.reserved, standing.settled) == (True, 300, 200)
    assert standing.free + standing.reserved + standing.settled == rig.drawn()


# Waiting.


async def test_without_an_answer_in_time_the_budget_is_unavailable(hasty: Rig) -> None:
    hasty.store.gate.clear()
    assert (await hasty.denied(100)).reason == "budget_unavailable"
    assert hasty.keeper.try_reserve(100, 100) is None


async def test_money_that_comes_too_late_is_there_for_the_next_call(hasty: Rig) -> None:
    hasty.store.gate.clear()
    await hasty.denied(100)
    hasty.store.gate.set()
    await hasty.quiet()
    assert hasty.keeper.try_reserve(100, 100) is not None


async def test_a_store_that_fails_is_said_at_once(rig: Rig) -> None:
    rig.store.faults += ["down"]
    denied = await rig.denied(100)
    assert denied == Denied("budget_unavailable", "the store is down")
    assert rig.keeper.failures == 1
    await rig.reserved(100)
    assert rig.keeper.last_error == ""


async def test_a_store_with_a_defect_fails_like_any_other(rig: Rig) -> None:
    rig.store.faults += ["defect"]
    denied = await rig.denied(100)
    assert denied.reason == "budget_unavailable"
    assert "KeyError" in denied.detail
    await rig.reserved(100)


async def test_a_store_that_failed_is_asked_again_without_any_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "REPORT_SECONDS", 0.0)
    rig.store.faults += ["down", "down"]
    rig.keeper.start()
    await rig.store.wait_for_steps(3)
    await rig.quiet()
    assert rig.keeper.standing.known


async def test_a_store_that_fails_is_not_asked_with_every_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.reserved(ONE_PERCENT)
    await rig.quiet()
    monkeypatch.setattr(keeper_module, "REPORT_SECONDS", LONG)
    rig.store.faults += ["down"] * 100
    steps = rig.steps
    for _ in range(20):
        assert rig.keeper.try_reserve(50, 50) is not None
        await rig.quiet()
    assert rig.steps == steps + 1


async def test_the_lease_is_spent_while_the_store_is_down(rig: Rig) -> None:
    await rig.reserved(ONE_PERCENT)
    await rig.quiet()
    rig.store.faults += ["down"] * 100
    for _ in range(10):
        await rig.reserved(100)
    assert (await rig.denied(100)).reason == "budget_unavailable"


# Denials.


async def test_the_store_says_no(rig: Rig) -> None:
    rig.other(CAPS.daily - 500)
    denied = await rig.denied(501)
    assert denied == Denied("budget_exceeded", "too little is left for this call's worst case")
    assert not rig.keeper.exceeded
    steps = rig.steps
    assert (await rig.denied(600)).reason == "budget_exceeded"
    assert rig.steps == steps  # it has just said so
    assert (await rig.reserved(500)).amount == 500


async def test_a_denial_is_asked_about_again_after_a_while(rig: Rig) -> None:
    rig.other(CAPS.daily - 500)
    await rig.denied(501)
    steps = rig.steps
    rig.clock.now += 10.0
    await rig.denied(501)
    assert rig.steps == steps + 1


async def test_a_call_that_could_do_with_less_gets_what_is_left(rig: Rig) -> None:
    rig.other(CAPS.daily - 500)
    assert (await rig.reserved(2000, least=400)).amount == 500


async def test_what_the_lease_has_and_what_the_store_has_left_count_together(rig: Rig) -> None:
    """A small budget does not send a call local with money left in two places."""
    (await rig.reserved(600)).release()
    rig.other(CAPS.daily - rig.drawn() - 500)
    assert (await rig.reserved(1100)).amount == 1100


async def test_nothing_left_at_all_is_exceeded(rig: Rig) -> None:
    assert [rig.keeper.exceeded] == [False]
    rig.other(CAPS.daily)
    assert await rig.denied(1) == Denied("budget_exceeded", "the day's or month's budget is used up")
    assert [rig.keeper.exceeded] == [True]
    rig.clock.now = MIDNIGHT
    assert [rig.keeper.exceeded] == [False]
    assert (await rig.reserved(1)).day == "2026-11-24"


async def test_a_cap_of_zero_is_exceeded_without_asking() -> None:
    rig = Rig(caps=Caps(0, 100))
    assert rig.keeper.exceeded
    assert (await rig.denied(1)).reason == "budget_exceeded"
    assert rig.steps == 0
    await finish(rig)


@pytest.mark.parametrize("caps", [Caps(0, CAPS.monthly), Caps(CAPS.daily, 0)])
async def test_a_cap_that_is_set_to_zero_stops_calls_at_once_and_gives_the_lease_back(rig: Rig, caps: Caps) -> None:
    open_call = await rig.reserved(ONE_PERCENT)
    await rig.quiet()
    assert rig.keeper.standing.free > 0
    rig.keeper.set_caps(caps)
    assert rig.keeper.try_reserve(1, 1) is None
    assert (await rig.denied(1)).reason == "budget_exceeded"
    await rig.quiet()
    assert (rig.keeper.standing.free, rig.keeper.standing.reserved) == (0, ONE_PERCENT)
    assert rig.store.asked[-1].returned == ONE_PERCENT
    open_call.settle(400)
    assert rig.keeper.try_reserve(1, 1) is None
    rig.keeper.set_caps(CAPS)
    assert (await rig.reserved(300)).amount == 300


async def test_a_cap_that_is_set_to_zero_while_a_call_waits_denies_it(rig: Rig) -> None:
    rig.store.gate.clear()
    waiting = asyncio.ensure_future(rig.keeper.reserve(100, 100))
    await rig.store.begun.wait()
    rig.keeper.set_caps(Caps(0, CAPS.monthly))
    rig.store.gate.set()
    result = await waiting
    assert isinstance(result, Denied)
    assert result.reason == "budget_exceeded"
    await rig.quiet()
    assert rig.keeper.standing.free == 0
    assert rig.store.asked[-1].returned == 100


async def test_a_cap_that_falls_is_asked_about_before_more_is_spent(rig: Rig) -> None:
    (await rig.reserved(ONE_PERCENT)).settle(ONE_PERCENT)
    await rig.quiet()
    assert rig.keeper.standing.free > 0
    rig.keeper.set_caps(Caps(ONE_PERCENT + 200, CAPS.monthly))
    assert (await rig.denied(201)).reason == "budget_exceeded"
    assert (await rig.reserved(500, least=1)).amount == 200
    assert (await rig.denied(1)).reason == "budget_exceeded"


async def test_a_raised_cap_ends_a_denial_at_once(rig: Rig) -> None:
    rig.other(CAPS.daily)
    rig.store.other(Step("other", 100, "", 0, 0, 0, 0, 0, CAPS, leaving=True))
    await rig.denied(100)
    rig.keeper.set_caps(Caps(CAPS.daily + 150, CAPS.monthly))
    assert (await rig.reserved(100)).amount == 100


async def test_caps_that_change_during_a_step_are_told_with_the_next_one_at_once(rig: Rig) -> None:
    rig.other(CAPS.daily)
    rig.store.other(Step("other", 100, "", 0, 0, 0, 0, 0, CAPS, leaving=True))
    rig.store.gate.clear()
    rig.keeper.start()
    await rig.store.begun.wait()
    raised = Caps(CAPS.daily + 150, CAPS.monthly)
    rig.keeper.set_caps(raised)
    rig.store.gate.set()
    await rig.store.wait_for_steps(2)
    await rig.quiet()
    assert [step.caps for step in rig.store.asked] == [CAPS, raised]
    assert not rig.keeper.exceeded
    assert (await rig.reserved(100)).amount == 100


async def test_a_store_that_is_still_in_yesterday_makes_the_budget_unavailable(rig: Rig) -> None:
    """Its money is yesterday's: no call may be charged to it, and asking in a circle would not help."""
    await rig.reserved(100)
    rig.holder.last_reply = replace(rig.holder.last_reply, day_end=NOON) if rig.holder.last_reply else None
    rig.store.on_reply = lambda: setattr(rig.clock, "now", MIDNIGHT)
    assert (await rig.denied(100)).reason == "budget_unavailable"


# Several calls at once.


async def test_calls_that_wait_together_cost_one_step(rig: Rig) -> None:
    reservations = await asyncio.gather(*(rig.reserved(100) for _ in range(20)))
    assert [one.amount for one in reservations] == [100] * 20
    assert rig.store.asked[0].need == 2000
    assert rig.steps <= 2  # the second one fills the lease up


async def test_a_call_that_comes_while_a_step_is_under_way_is_in_the_next(rig: Rig) -> None:
    rig.store.gate.clear()
    first = asyncio.ensure_future(rig.reserved(5000))
    await rig.store.begun.wait()
    second = asyncio.ensure_future(rig.reserved(7000))
    await asyncio.sleep(0)
    rig.store.gate.set()
    assert ((await first).amount, (await second).amount) == (5000, 7000)
    assert [step.need for step in rig.store.asked[:2]] == [5000, 7000]


async def test_a_failure_of_a_step_that_did_not_know_of_a_call_is_not_its_answer(rig: Rig) -> None:
    rig.store.gate.clear()
    rig.store.faults += ["down"]
    rig.keeper.start()
    await rig.store.begun.wait()
    waiting = asyncio.ensure_future(rig.reserved(5000))
    await asyncio.sleep(0)
    rig.store.gate.set()
    assert (await waiting).amount == 5000


async def test_a_call_whose_money_was_taken_by_a_quicker_one_asks_again(rig: Rig) -> None:
    """While there is some left, it is no reason to refuse that another call came between."""
    loop = asyncio.get_running_loop()
    stolen: list[Reservation | None] = []

    def steal() -> None:
        if not stolen:
            loop.call_soon(lambda: stolen.append(rig.keeper.try_reserve(5000, 5000)))

    rig.store.on_reply = steal
    assert (await rig.reserved(5000)).amount == 5000
    assert stolen[0] is not None
    assert rig.drawn() >= 10_000


async def test_of_calls_that_do_not_all_fit_some_run_and_some_are_denied(rig: Rig) -> None:
    rig.other(CAPS.daily - 1050)
    results = await asyncio.gather(*(rig.keeper.reserve(300, 300) for _ in range(6)))
    reasons = [one.reason for one in results if isinstance(one, Denied)]
    assert reasons == ["budget_exceeded"] * 3
    assert rig.drawn() <= CAPS.daily


async def test_a_cancelled_call_leaks_nothing(rig: Rig) -> None:
    rig.store.gate.clear()
    leaving, staying = (asyncio.ensure_future(rig.reserved(amount)) for amount in (5000, 300))
    await rig.store.begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    rig.store.gate.set()
    await staying
    await rig.quiet()
    lease = rig.holder.lease
    assert lease is not None
    assert (lease.reserved, lease.free + lease.reserved) == (300, rig.drawn())
    assert rig.keeper._waiting == []
    rig.clock.now += 1.0
    await rig.reserved(lease.free)  # its money is anybody's


async def test_a_cancelled_call_is_not_asked_for_any_more(rig: Rig) -> None:
    rig.store.gate.clear()
    rig.keeper.start()
    await rig.store.begun.wait()
    leaving = asyncio.ensure_future(rig.reserved(5000))
    await asyncio.sleep(0)
    leaving.cancel()
    rig.store.gate.set()
    await rig.quiet()
    await rig.reserved(300)
    assert rig.store.asked[1].need == 300


# Replies that get lost.


async def test_a_step_whose_reply_was_lost_is_said_again_and_granted_once(rig: Rig) -> None:
    rig.store.faults += ["lost"]
    assert (await rig.denied(ONE_PERCENT)).reason == "budget_unavailable"
    assert rig.drawn() == ONE_PERCENT
    assert (await rig.reserved(ONE_PERCENT)).amount == ONE_PERCENT
    assert rig.store.asked[1] == rig.store.asked[0]
    # Only what the first step left open is asked for: that call has its money already.
    assert rig.store.asked[2].need == 0
    assert rig.store.asked[2].seq == rig.store.asked[0].seq + 1


async def test_a_step_is_said_again_until_it_is_answered(rig: Rig) -> None:
    rig.store.faults += ["lost", "lost", "down", "lost"]
    for _ in range(4):
        await rig.denied(ONE_PERCENT)
    await rig.reserved(ONE_PERCENT)
    assert len(set(rig.store.asked[:5])) == 1
    await rig.quiet()
    lease = rig.holder.lease
    assert lease is not None
    assert lease.granted == rig.drawn()


async def test_a_report_whose_reply_was_lost_is_booked_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "REPORT_SECONDS", 0.0)
    reservation = await rig.reserved(ONE_PERCENT)
    await rig.quiet()
    rig.store.faults += ["lost"]
    reservation.settle(400)
    rig.keeper.settled()
    steps = rig.steps
    await rig.store.wait_for_steps(steps + 2)
    await rig.quiet()
    assert rig.keeper.standing.reply is not None
    assert rig.keeper.standing.reply.settled_daily == 400


# Reports.


async def test_calls_that_end_together_are_reported_in_one_step(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "REPORT_SECONDS", 0.001)
    reservations = await asyncio.gather(*(rig.reserved(100) for _ in range(30)))
    await rig.quiet()
    steps = rig.steps
    for one in reservations:
        one.settle(60)
        rig.keeper.settled()
    await rig.store.wait_for_steps(steps + 1)
    await rig.quiet()
    assert rig.steps == steps + 1
    assert rig.store.asked[-1].settled == 30 * 60


async def test_a_call_over_midnight_is_reported_to_its_own_day(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "REPORT_SECONDS", 0.0)
    late = await rig.reserved(ONE_PERCENT)
    await rig.quiet()
    rig.clock.now = MIDNIGHT
    assert (await rig.reserved(500)).day == "2026-11-24"
    late.settle(700)
    rig.keeper.settled()
    steps = rig.steps
    await rig.store.wait_for_steps(steps + 1)
    await rig.quiet()
    closing = [step for step in rig.store.asked if step.day == "2026-11-23"][-1]
    assert (closing.settled, closing.settled + closing.returned) == (700, 2 * ONE_PERCENT)
    assert rig.holder.ended == []
    reply = rig.keeper.standing.reply
    assert reply is not None
    assert (reply.settled_daily, reply.settled_monthly) == (0, 700)


async def test_an_idle_lease_is_given_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "MAINTENANCE_SECONDS", 0.001)
    rig.keeper.start()
    (await rig.reserved(ONE_PERCENT)).settle(300)
    await rig.quiet()
    rig.clock.now += IDLE_SECONDS
    steps = rig.steps
    await rig.store.wait_for_steps(steps + 1)
    await rig.quiet()
    assert rig.drawn() == 300
    assert rig.keeper.standing.free == 0


async def test_a_sidecar_with_nothing_to_say_is_heard_all_the_same(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "MAINTENANCE_SECONDS", 0.001)
    monkeypatch.setattr(keeper_module, "HEARTBEAT_SECONDS", 0.0)
    rig.keeper.start()
    await rig.store.wait_for_steps(4)
    assert {(step.need, step.want) for step in rig.store.asked} == {(0, 0)}


# The end.


async def test_at_the_end_the_lease_is_given_back_with_the_last_word(rig: Rig) -> None:
    (await rig.reserved(ONE_PERCENT)).settle(300)
    await rig.keeper.close(LONG)
    last = rig.store.asked[-1]
    assert (last.leaving, last.settled, last.need, last.want) == (True, 300, 0, 0)
    assert rig.store.closed
    assert rig.keeper.standing.free == 0
    reference = rig.holder.lease
    assert reference is not None
    assert reference.granted - reference.returned == 300


async def test_calls_that_are_still_open_then_count_as_spent(rig: Rig) -> None:
    reservation = await rig.reserved(ONE_PERCENT)
    await rig.keeper.close(LONG)
    lease = rig.holder.lease
    assert lease is not None
    assert lease.granted - lease.returned == ONE_PERCENT
    reservation.settle(10)  # nobody hears of it, and nothing breaks
    rig.keeper.settled()


async def test_the_last_word_is_said_until_it_is_heard(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "CLOSE_AGAIN_SECONDS", 0.0)
    (await rig.reserved(ONE_PERCENT)).release()
    await rig.quiet()
    rig.store.faults += ["down", "down", "lost", "down", "down", "down"]
    await rig.keeper.close(LONG)
    assert rig.store.asked[-1].leaving
    *again, last = rig.store.asked[-8:]
    assert len(set(again)) == 1
    assert again[0].leaving
    lease = rig.holder.lease
    assert lease is not None
    assert last.returned == lease.granted > 0


async def test_money_whose_reply_was_lost_is_given_back_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "CLOSE_AGAIN_SECONDS", 0.0)
    rig.keeper.start()
    await rig.quiet()
    rig.store.faults += ["lost", "down", "down", "lost"]
    await rig.denied(ONE_PERCENT)
    await rig.keeper.close(LONG)
    last = rig.store.asked[-1]
    assert (last.leaving, last.returned) == (True, ONE_PERCENT)


async def test_the_end_does_not_wait_longer_than_it_may(rig: Rig) -> None:
    await rig.reserved(ONE_PERCENT)
    await rig.quiet()
    rig.store.gate.clear()
    await rig.keeper.close(0.01)
    assert rig.store.closed


async def test_with_nothing_to_give_back_a_store_that_is_down_does_not_delay_the_end(rig: Rig) -> None:
    rig.store.faults += ["down"] * 1000
    rig.keeper.start()
    await rig.quiet()
    before = rig.steps
    await rig.keeper.close(LONG)
    assert rig.steps <= before + 2
    assert rig.store.closed


async def test_after_the_end_nothing_is_granted(rig: Rig) -> None:
    await rig.keeper.close(LONG)
    steps = rig.steps
    assert (await rig.denied(100)).reason == "budget_unavailable"
    assert rig.steps == steps


async def test_a_call_that_waits_when_the_end_comes_is_answered(rig: Rig) -> None:
    rig.store.gate.clear()
    waiting = asyncio.ensure_future(rig.keeper.reserve(100, 100))
    await rig.store.begun.wait()
    closing = asyncio.ensure_future(rig.keeper.close(LONG))
    await asyncio.sleep(0)
    rig.store.gate.set()
    await closing
    assert isinstance(await waiting, Reservation | Denied)
    lease = rig.holder.lease
    assert lease is not None
    assert lease.free == 0


# Any order of faults.

calls = st.lists(
    st.tuples(
        st.integers(1, 3000), st.integers(0, 100), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 5.0, 90.0])
    ),
    min_size=1,
    max_size=12,
)
faults = st.lists(st.sampled_from(["", "", "down", "lost", "defect"]), max_size=20)


@given(calls=calls, faults=faults, batch=st.integers(1, 4), taken=st.sampled_from([0, 90_000, 99_000, 100_000]))
@settings(deadline=None, max_examples=60)
def test_whatever_fails_no_money_is_made_and_none_is_lost(
    calls: list[tuple[int, int, float, float]], faults: list[str], batch: int, taken: int
) -> None:
    async def story() -> None:
        rig = Rig()
        if taken:
            rig.other(taken)
        rig.store.faults += faults
        spent, open_calls = 0, list[Reservation]()
        for start in range(0, len(calls), batch):
            group = calls[start : start + batch]
            results = await asyncio.gather(
                *(rig.keeper.reserve(want, want * share // 100) for want, share, _, _ in group)
            )
            for (want, share, used, pause), result in zip(group, results, strict=True):
                rig.clock.now += pause
                if isinstance(result, Denied):
                    assert result.reason in ("budget_exceeded", "budget_unavailable")
                    continue
                assert want * share // 100 <= result.amount <= want
                open_calls.append(result)
                assert spent + sum(one.amount for one in open_calls) <= rig.drawn() - taken <= CAPS.daily - taken
                if used:
                    open_calls.remove(result)
                    spent += int(result.amount * used)
                    assert result.settle(int(result.amount * used))
        for one in open_calls:
            one.release()
        rig.store.faults.clear()
        await rig.quiet()
        while not await rig.keeper._exchange():
            pass
        rig.holder.give_back()
        assert await rig.keeper._exchange()
        assert rig.drawn() == taken + spent
        await rig.keeper.close(LONG)

    asyncio.run(story())


# The real store.


async def test_two_keepers_spend_one_file_to_its_last_micro_usd(tmp_path: Path) -> None:
    stores = [EmbeddedStore(str(tmp_path / "budget.db"), ZoneInfo("UTC"), Clock()) for _ in range(2)]
    keepers = [Keeper(store, Holder(f"h{n}", CAPS), LONG, Clock()) for n, store in enumerate(stores)]
    spent = 0
    for _ in range(500):
        results = await asyncio.gather(*(keeper.reserve(997, 1) for keeper in keepers))
        for result in results:
            if isinstance(result, Reservation):
                result.settle(result.amount)
                spent += result.amount
        if all(isinstance(result, Denied) for result in results):
            break
    assert {result.reason for result in results if isinstance(result, Denied)} == {"budget_exceeded"}
    assert spent == CAPS.daily
    for keeper in keepers:
        await keeper.close(LONG)


async def test_a_keeper_on_a_folder_that_cannot_be_used_says_which_and_how(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "budget.db"
    keeper = Keeper(EmbeddedStore(str(path), ZoneInfo("UTC")), Holder("h", CAPS), LONG)
    denied = await keeper.reserve(1, 1)
    assert isinstance(denied, Denied)
    assert denied.reason == "budget_unavailable"
    assert str(path) in denied.detail
    assert "budget.embedded.path" in denied.detail
    await keeper.close(LONG)
