"""The protocol of `Store`, rule by rule, over every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_kinds import KINDS, Books, Kind

from sidecar.core.budget import Caps, Reply, Step
from sidecar.stores.keeper import StoreError

CAPS = Caps(1000, 10_000)
RICH = Caps(1_000_000, 1_000_000)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


NOON = at("2026-11-23T12:00")
HOURS = 3600.0


@pytest.fixture(params=KINDS, ids=lambda kind: str(kind.__name__))
def open_books(request: pytest.FixtureRequest) -> Iterator[Callable[..., Books]]:
    """Opens books of each kind, and removes them at the end."""
    kind: type[Kind] = request.param
    opened: list[Books] = []

    def open_one(now: float = NOON, zone: str = "UTC") -> Books:
        opened.append(Books(kind, now, zone))
        return opened[-1]

    yield open_one
    for one in opened:
        one.remove()


@pytest.fixture
def books(open_books: Callable[..., Books]) -> Books:
    return open_books()


@dataclass
class Peer:
    """A sidecar that speaks the protocol by hand."""

    books: Books
    id: str = "a"
    caps: Caps = CAPS
    seq: int = 0
    day: str = ""
    settled: int = 0
    returned: int = 0
    granted: int = 0
    last: Step | None = field(default=None)

    def ask(self, need: int = 0, least: int | None = None, want: int = 0, *, leaving: bool = False) -> Reply:
        self.seq += 1
        self.last = Step(
            self.id,
            self.seq,
            self.day,
            self.settled,
            self.returned,
            want,
            need,
            need if least is None else least,
            self.caps,
            leaving,
        )
        reply = self.books.step(self.last)
        if reply.granted:
            if reply.day != self.day:
                self.day, self.settled, self.returned, self.granted = reply.day, 0, 0, 0
            self.granted += reply.granted
        return reply

    def again(self) -> Reply:
        assert self.last is not None
        return self.books.step(self.last)


# Granting.


def test_the_first_step_tells_how_the_budget_stands(books: Books) -> None:
    reply = Peer(books).ask()
    assert (reply.day, reply.month, reply.granted) == ("2026-11-23", "2026-11", 0)
    assert (reply.left_daily, reply.left_monthly, reply.left) == (1000, 10_000, 1000)
    assert (reply.settled_daily, reply.settled_monthly) == (0, 0)
    assert (reply.caps, reply.day_end) == (CAPS, at("2026-11-24T00:00"))


def test_what_waiting_calls_need_is_granted_to_the_last_micro_usd(books: Books) -> None:
    peer = Peer(books)
    assert peer.ask(999).granted == 999
    assert peer.ask(2).granted == 0
    assert peer.ask(2, least=1).granted == 1
    reply = peer.ask(1)
    assert (reply.granted, reply.left) == (0, 0)
    assert reply.retry_seconds > 0


def test_nothing_is_granted_under_the_least(books: Books) -> None:
    reply = Peer(books).ask(5000, least=1001)
    assert (reply.granted, reply.left) == (0, 1000)
    assert Peer(books, "b").ask(5000, least=1000).granted == 1000


def test_a_report_is_granted_nothing(books: Books) -> None:
    assert Peer(books).ask(0, 0, 0).granted == 0


def test_a_lease_of_good_size_leaves_most_to_the_others(books: Books) -> None:
    """left / (2 · active), and what calls wait for all the same."""
    assert Peer(books, "a").ask(want=900, need=0).granted == 500
    assert Peer(books, "b").ask(want=900, need=0).granted == 125
    assert Peer(books, "c").ask(want=900, need=200).granted == 200


@pytest.mark.parametrize("caps", [Caps(1000, 300), Caps(300, 1000), Caps(300, 300)])
def test_the_lower_of_day_and_month_counts(books: Books, caps: Caps) -> None:
    first, second = Peer(books, "a", caps), Peer(books, "b", caps)
    assert first.ask(200).granted == 200
    assert second.ask(200, least=1).granted == 100
    assert first.ask(1).granted == 0


@pytest.mark.parametrize("caps", [Caps(0, 1000), Caps(1000, 0), Caps(0, 0)])
def test_a_cap_of_zero_grants_nothing(books: Books, caps: Caps) -> None:
    peer = Peer(books, caps=caps)
    assert [peer.ask(1).granted, peer.ask(1, 0, 1).granted, peer.ask(0, 0, 1).granted] == [0, 0, 0]


def test_a_cap_may_be_as_high_as_settings_allow(books: Books) -> None:
    caps = Caps(10**15, 10**15)
    peer = Peer(books, caps=caps)
    assert peer.ask(10**15 - 1).granted == 10**15 - 1
    assert peer.ask(5, least=1).granted == 1


# Repeats and order.


def test_a_repeated_step_gets_its_first_reply_and_changes_nothing(books: Books) -> None:
    peer, other = Peer(books), Peer(books, "b")
    first = peer.ask(400)
    before = other.ask().left
    assert [peer.again() for _ in range(3)] == [first] * 3
    assert other.ask().left == before == 600


def test_a_repeat_gets_its_reply_even_when_the_day_is_over_by_then(books: Books) -> None:
    peer = Peer(books)
    first = peer.ask(400)
    books.clock.now += 24 * HOURS
    assert peer.again() == first
    assert Peer(books, "b").ask().left == 1000


def test_a_repeated_report_is_booked_once(books: Books) -> None:
    peer, other = Peer(books), Peer(books, "b")
    peer.ask(400)
    peer.settled, peer.returned = 100, 300
    first = peer.ask()
    assert first.left == 900
    assert [peer.again(), peer.again()] == [first, first]
    assert (other.ask().left, other.ask().settled_daily) == (900, 100)


def test_an_older_step_is_refused_and_changes_nothing(books: Books) -> None:
    peer, other = Peer(books), Peer(books, "b")
    peer.ask(100)
    old = peer.last
    assert old is not None
    peer.ask(100)
    with pytest.raises(StoreError, match="came after"):
        books.step(replace(old, need=500, least=500, settled=50))
    reply = other.ask()
    assert (reply.left, reply.settled_daily) == (800, 0)
    assert peer.again().granted == 100


def test_the_order_of_one_holder_is_not_that_of_another(books: Books) -> None:
    first, second = Peer(books, "a", seq=100), Peer(books, "b", seq=0)
    assert first.ask(10).granted == 10
    assert second.ask(10).granted == 10


# Reports.


def test_settled_money_counts_and_the_rest_of_the_lease_stays_spent_until_it_is_returned(books: Books) -> None:
    peer, other = Peer(books), Peer(books, "b")
    peer.ask(600)
    peer.settled = 200
    reply = peer.ask()
    assert (reply.left, reply.settled_daily, reply.settled_monthly) == (400, 200, 200)
    peer.returned = 400
    assert peer.ask().left == 800
    assert other.ask(801).granted == 0
    assert other.ask(800).granted == 800


def test_totals_never_fall(books: Books) -> None:
    peer = Peer(books)
    peer.ask(600)
    peer.settled, peer.returned = 200, 100
    assert (peer.ask().left, peer.ask().settled_daily) == (500, 200)
    peer.settled, peer.returned = 0, 0
    assert (peer.ask().left, peer.ask().settled_daily) == (500, 200)
    peer.settled, peer.returned = 250, 150
    assert (peer.ask().left, peer.ask().settled_daily) == (550, 250)


@pytest.mark.parametrize(("settled", "returned"), [(0, 601), (0, 10**9), (300, 301), (600, 600), (600, 1)])
def test_no_more_is_returned_than_was_granted_and_not_settled(books: Books, settled: int, returned: int) -> None:
    """A holder that says so is wrong, and the cap must not pay for it."""
    peer, other = Peer(books), Peer(books, "b")
    peer.ask(600)
    peer.settled, peer.returned = settled, returned
    reply = peer.ask()
    assert reply.left <= 1000 - settled
    assert other.ask().left <= 1000 - settled
    assert other.ask().settled_daily == settled


def test_what_was_returned_cannot_be_settled_without_counting(books: Books) -> None:
    peer, other = Peer(books), Peer(books, "b")
    peer.ask(600)
    peer.returned = 600
    assert peer.ask().left == 1000
    peer.settled = 250
    assert peer.ask().left == 750
    assert other.ask().left == 750


def test_a_bill_above_its_lease_counts_against_the_cap(books: Books) -> None:
    """No provider should do so; where one does, the day's and the month's rest is less by that."""
    peer, other = Peer(books), Peer(books, "b")
    peer.ask(100)
    peer.settled = 350
    reply = peer.ask()
    assert (reply.left_daily, reply.left_monthly, reply.settled_daily) == (650, 9650, 350)
    assert other.ask(651).granted == 0
    # The next grant covers what is owed first: it is not taken from the budget a second time.
    assert peer.ask(300).granted == 300
    assert other.ask().left == 600
    peer.settled = 400
    assert peer.ask().left == 600
    peer.settled = 5000
    assert (peer.ask().left_daily, other.ask().left_monthly) == (0, 5000)


def test_a_lease_that_was_never_granted_is_refused(books: Books) -> None:
    peer = Peer(books, day="2026-11-22", settled=10, seq=5)
    with pytest.raises(StoreError, match="never granted"):
        peer.ask(10)
    assert Peer(books, "b").ask().left == 1000


def test_settled_figures_are_those_of_all_holders(books: Books) -> None:
    for number in range(3):
        peer = Peer(books, str(number))
        peer.ask(100)
        peer.settled = 10 + number
        peer.ask()
    reply = Peer(books, "x").ask()
    assert (reply.settled_daily, reply.settled_monthly, reply.left) == (33, 33, 700)


# Leaving and dying.


def test_who_leaves_gives_the_rest_back(books: Books) -> None:
    peer = Peer(books)
    peer.ask(600)
    peer.settled, peer.returned = 100, 500
    peer.ask(leaving=True)
    assert Peer(books, "b").ask(900).granted == 900


def test_what_a_dead_holder_never_reported_counts_as_spent(books: Books) -> None:
    Peer(books).ask(600)
    books.clock.now += 10 * HOURS
    assert Peer(books, "b").ask().left == 400
    assert Peer(books, "b2").ask(401).granted == 0


def test_a_dead_holders_money_is_free_again_the_next_day_but_not_in_the_same_month(books: Books) -> None:
    Peer(books).ask(600)
    books.clock.now += 24 * HOURS
    reply = Peer(books, "b").ask()
    assert (reply.left_daily, reply.left_monthly) == (1000, 9400)


# Caps.


def test_a_lowered_cap_grants_nothing_more_at_once(books: Books) -> None:
    peer = Peer(books)
    peer.ask(600)
    peer.caps = Caps(500, 10_000)
    reply = peer.ask(1)
    assert (reply.granted, reply.left_daily, reply.caps.daily) == (0, 0, 500)


def test_a_raised_cap_counts_at_once(books: Books) -> None:
    peer = Peer(books)
    peer.ask(1000)
    peer.caps = Caps(1500, 10_000)
    assert peer.ask(501).granted == 0
    assert peer.ask(500).granted == 500


def test_while_caps_differ_the_lowest_of_the_live_holders_counts(books: Books) -> None:
    low, high = Peer(books, "low", Caps(300, 9000)), Peer(books, "high", Caps(1000, 500))
    assert low.ask(100).granted == 100
    assert high.ask(250).granted == 0
    reply = high.ask(200)
    assert (reply.granted, reply.caps) == (200, Caps(300, 500))
    assert low.ask(1).granted == 0


def test_who_has_left_has_no_say_in_the_caps(books: Books) -> None:
    low, high = Peer(books, "low", Caps(300, 300)), Peer(books, "high", CAPS)
    low.ask()
    low.ask(leaving=True)
    assert high.ask(800).granted == 800


def test_who_was_not_heard_for_long_has_no_say_in_the_caps(books: Books) -> None:
    Peer(books, "low", Caps(300, 300)).ask()
    high = Peer(books, "high", CAPS)
    books.clock.now += 60.0
    assert high.ask(800).granted == 0
    books.clock.now += HOURS
    assert high.ask(800).granted == 800


# Periods.


def test_a_new_day_has_its_own_money_and_the_month_goes_on(books: Books) -> None:
    caps = Caps(1000, 1500)
    peer = Peer(books, caps=caps)
    assert peer.ask(1000).granted == 1000
    peer.settled = 1000
    books.clock.now += 24 * HOURS
    reply = peer.ask(501)
    assert (reply.day, reply.granted, reply.left_daily, reply.left_monthly) == ("2026-11-24", 0, 1000, 500)
    assert (reply.settled_daily, reply.settled_monthly) == (0, 1000)
    reply = peer.ask(500)
    assert (reply.granted, reply.left_daily, reply.left_monthly) == (500, 500, 0)


def test_a_new_month_has_its_own_money(open_books: Callable[..., Books]) -> None:
    books = open_books(at("2026-11-30T23:59:59"))
    peer = Peer(books, caps=Caps(1000, 1000))
    assert (peer.ask(1000).granted, peer.day) == (1000, "2026-11-30")
    peer.settled = 1000
    books.clock.now += 1.0
    reply = peer.ask(1000)
    assert (reply.day, reply.month, reply.granted) == ("2026-12-01", "2026-12", 1000)


def test_a_report_after_midnight_is_booked_to_its_own_day_and_month(open_books: Callable[..., Books]) -> None:
    books = open_books(at("2026-11-30T23:00"))
    peer = Peer(books)
    peer.ask(700)
    books.clock.now += 2 * HOURS
    peer.settled, peer.returned = 400, 300
    reply = peer.ask(0)
    assert (reply.day, reply.left_daily, reply.left_monthly) == ("2026-12-01", 1000, 10_000)
    assert (reply.settled_daily, reply.settled_monthly) == (0, 0)


def test_a_report_on_yesterday_frees_money_of_the_same_month(books: Books) -> None:
    peer = Peer(books)
    peer.ask(700)
    books.clock.now += 24 * HOURS
    assert Peer(books, "b").ask().left_monthly == 9300
    peer.settled, peer.returned = 400, 300
    reply = peer.ask()
    assert (reply.left_daily, reply.left_monthly, reply.settled_daily, reply.settled_monthly) == (1000, 9600, 0, 400)


@pytest.mark.parametrize(
    ("zone", "now", "day", "end"),
    [
        ("UTC", "2028-02-29T12:00", "2028-02-29", "2028-03-01T00:00"),
        ("UTC", "2026-12-31T23:59", "2026-12-31", "2027-01-01T00:00"),
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-29", "2026-03-30T00:00"),
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-25", "2026-10-26T00:00"),
        ("America/New_York", "2026-11-01T01:30", "2026-11-01", "2026-11-02T00:00"),
        ("Pacific/Kiritimati", "2026-11-24T00:30", "2026-11-24", "2026-11-25T00:00"),
        ("Asia/Kolkata", "2026-11-24T00:00", "2026-11-24", "2026-11-25T00:00"),
    ],
)
def test_days_are_those_of_the_zone(
    open_books: Callable[..., Books], zone: str, now: str, day: str, end: str
) -> None:
    books = open_books(at(now, zone), zone)
    peer = Peer(books)
    reply = peer.ask(1000)
    assert (reply.day, reply.month, reply.day_end, reply.granted) == (day, day[:7], at(end, zone), 1000)
    books.clock.now = reply.day_end - 0.001
    assert Peer(books, "b").ask(1, 1).granted == 0
    books.clock.now = reply.day_end
    later = Peer(books, "c").ask(1000)
    assert later.granted == 1000
    assert later.day > day


@pytest.mark.parametrize("back", [1.0, HOURS, 24 * HOURS, 40 * 24 * HOURS])
def test_a_clock_that_goes_back_opens_no_old_day(open_books: Callable[..., Books], back: float) -> None:
    books = open_books(at("2026-11-23T00:00"))
    assert Peer(books).ask(1000).granted == 1000
    books.clock.now -= back
    reply = Peer(books, "b").ask(1)
    assert (reply.day, reply.month, reply.granted) == ("2026-11-23", "2026-11", 0)
    # Nor does the day end at the midnight that comes next by the wrong clock.
    assert reply.day_end == at("2026-11-24T00:00")


def test_a_clock_that_goes_back_over_the_months_end_keeps_the_new_month(open_books: Callable[..., Books]) -> None:
    books = open_books(at("2026-12-01T00:00:01"))
    assert Peer(books, caps=Caps(1000, 1000)).ask(600).granted == 600
    books.clock.now -= 2.0
    reply = Peer(books, "b", Caps(1000, 1000)).ask(400)
    assert (reply.day, reply.month, reply.granted, reply.left) == ("2026-12-01", "2026-12", 400, 0)


# Another zone in the settings.


@pytest.fixture
def shared_books(open_books: Callable[..., Books]) -> Callable[..., Books]:
    def open_one(now: float, zone: str) -> Books:
        books = open_books(now, zone)
        if not books.shared:
            pytest.skip("these books end with their process")
        return books

    return open_one


UTC, AHEAD, FAR_BEHIND = "UTC", "Pacific/Kiritimati", "Etc/GMT+12"  # +0, +14, -12


def test_another_zone_opens_no_second_day_and_no_second_month(shared_books: Callable[..., Books]) -> None:
    books = shared_books(at("2026-11-30T12:00"), UTC)
    caps = Caps(1000, 1000)
    assert Peer(books, caps=caps).ask(1000).granted == 1000
    books.restart(AHEAD)
    assert at("2026-11-30T12:00") > at("2026-12-01T00:00", AHEAD)
    reply = Peer(books, "b", caps).ask(1)
    assert (reply.day, reply.month, reply.granted) == ("2026-11-30", "2026-11", 0)
    assert reply.day_end == at("2026-12-01T00:00")
    books.clock.now = reply.day_end - 0.001
    assert Peer(books, "c", caps).ask(1).granted == 0


def test_another_zone_counts_once_the_running_day_has_ended(shared_books: Callable[..., Books]) -> None:
    books = shared_books(at("2026-11-23T12:00"), UTC)
    Peer(books).ask(1000)
    books.restart(AHEAD)
    Peer(books, "b").ask()
    books.clock.now = at("2026-11-24T00:00")
    reply = Peer(books, "c").ask(1000)
    assert (reply.day, reply.granted, reply.day_end) == ("2026-11-24", 1000, at("2026-11-25T00:00", AHEAD))
    books.clock.now = reply.day_end
    reply = Peer(books, "d").ask(1000)
    assert (reply.day, reply.day_end) == ("2026-11-25", at("2026-11-26T00:00", AHEAD))


def test_a_zone_where_it_is_still_the_same_day_prolongs_it(shared_books: Callable[..., Books]) -> None:
    books = shared_books(at("2026-11-23T12:00", AHEAD), AHEAD)
    Peer(books).ask(600)
    books.restart(UTC)
    books.clock.now = at("2026-11-24T00:00", AHEAD)
    reply = Peer(books, "b").ask(1000, 1)
    assert (reply.day, reply.granted, reply.day_end) == ("2026-11-23", 400, at("2026-11-24T00:00"))
    books.clock.now = reply.day_end
    assert Peer(books, "c").ask(1000).day == "2026-11-24"


def test_a_zone_far_ahead_opens_no_month_early(shared_books: Callable[..., Books]) -> None:
    books = shared_books(at("2026-11-29T12:00", FAR_BEHIND), FAR_BEHIND)
    caps = Caps(1000, 1500)
    assert Peer(books, caps=caps).ask(1000).granted == 1000
    books.restart(AHEAD)
    # Where we go it is the 1st of December by now, and where we come from the 30th of November.
    books.clock.now = at("2026-11-30T00:00", FAR_BEHIND)
    reply = Peer(books, "b", caps).ask(1000, 1)
    assert (reply.day, reply.month, reply.granted) == ("2026-12-01", "2026-11", 500)
    books.clock.now = reply.day_end
    assert Peer(books, "c", caps).ask(1).granted == 0
    books.clock.now = at("2026-12-03T12:00", AHEAD)
    reply = Peer(books, "d", caps).ask(1000)
    assert (reply.day, reply.month, reply.granted, reply.left_monthly) == ("2026-12-03", "2026-12", 1000, 500)


def test_a_zone_that_was_taken_back_in_time_never_counts(shared_books: Callable[..., Books]) -> None:
    books = shared_books(at("2026-11-23T12:00"), UTC)
    Peer(books).ask(1000)
    for number, zone in enumerate((AHEAD, FAR_BEHIND, UTC)):
        books.restart(zone)
        assert Peer(books, f"b{number}").ask(1).granted == 0
    books.clock.now = at("2026-11-24T00:00")
    reply = Peer(books, "c").ask()
    assert (reply.day, reply.day_end) == ("2026-11-24", at("2026-11-25T00:00"))


def test_two_sidecars_that_disagree_on_the_zone_do_not_take_turns(shared_books: Callable[..., Books]) -> None:
    """As in a rollout: the one that started later counts, however the steps of both fall."""
    books = shared_books(at("2026-11-23T12:00"), UTC)
    granted: dict[str, int] = {}
    ends: list[float] = []
    peers = [Peer(books, "old"), Peer(books, "new")]
    for turn in range(200):
        new = turn % 2
        peer = peers[new]
        peer.seq += 1
        step = Step(peer.id, peer.seq, "", 0, 0, 0, 300, 1, RICH if turn == 0 else CAPS)
        reply = books.step_of_another_process(step, AHEAD) if new else books.step(step)
        granted[reply.day] = granted.get(reply.day, 0) + reply.granted
        if not ends or reply.day_end != ends[-1]:
            ends.append(reply.day_end)
        books.clock.now += HOURS
    assert ends[:3] == [at("2026-11-24T00:00"), at("2026-11-25T00:00", AHEAD), at("2026-11-26T00:00", AHEAD)]
    assert {end - before for before, end in pairwise(ends[1:])} == {24 * HOURS}
    assert max(granted.values()) <= CAPS.daily


@given(
    start=st.integers(0, 40 * 24),
    moves=st.lists(
        st.tuples(st.sampled_from([UTC, AHEAD, FAR_BEHIND, "America/Havana", ""]), st.integers(-5, 40)), max_size=12
    ),
)
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.shared], ids=lambda kind: str(kind.__name__))
def test_however_the_zone_changes_no_period_opens_before_the_one_that_runs_has_ended(
    kind: type[Kind], start: int, moves: list[tuple[str, int]]
) -> None:
    books = Books(kind, at("2026-10-25T00:00") + start * HOURS)
    caps = Caps(1000, 2500)
    try:
        days: dict[str, int] = {}
        months: dict[str, int] = {}
        before = None
        for number, (zone, hours) in enumerate([("", 0), *moves]):
            if zone:
                books.restart(zone)
            books.clock.now += hours * HOURS
            reply = Peer(books, f"h{number}", caps).ask(1000, 1)
            days[reply.day] = days.get(reply.day, 0) + reply.granted
            months[reply.month] = months.get(reply.month, 0) + reply.granted
            if before is not None:
                assert (reply.day, reply.month) >= (before.day, before.month)
                assert reply.day == before.day or books.clock.now >= before.day_end
                assert reply.month == before.month or reply.day != before.day
            before = reply
        assert max(days.values()) <= caps.daily
        assert max(months.values()) <= caps.monthly
    finally:
        books.remove()


# More than one process, and restarts.


def test_two_processes_spend_one_budget(books: Books) -> None:
    if not books.shared:
        pytest.skip("these books are one process's own")
    granted = 0
    for number in range(12):
        step = Step(f"h{number % 4}", number // 4 + 1, "", 0, 0, 0, 150, 1, CAPS)
        carry = books.step if number % 2 else books.step_of_another_process
        granted += carry(step).granted
    assert granted == 1000


def test_a_restart_keeps_the_books_and_the_replies(books: Books) -> None:
    if not books.shared:
        pytest.skip("these books end with their process")
    peer = Peer(books)
    first = peer.ask(600)
    books.restart()
    assert peer.again() == first
    assert Peer(books, "b").ask().left == 400
    peer.settled, peer.returned = 100, 500
    assert peer.ask().left == 900
    books.restart()
    reply = Peer(books, "c").ask(901)
    assert (reply.granted, reply.left, reply.settled_daily) == (0, 900, 100)
