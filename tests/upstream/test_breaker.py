"""The circuit breaker as a table; what an answer's status and Retry-After mean for the next call and its money."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.upstream.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerSettings
from sidecar.upstream.cloud import counts_as_failure, may_be_billed, retry_after


def breaker(failures: int = 3, seconds: float = 30.0) -> Breaker:
    return Breaker(BreakerSettings(failures, seconds))


def opened(at: float = 100.0) -> Breaker:
    one = breaker()
    for _ in range(3):
        one.failed(at)
    return one


def admitted(one: Breaker, now: float) -> int:
    ticket = one.admit(now)
    assert ticket
    return ticket


def test_failures_in_a_row_open_it() -> None:
    one = breaker()
    for _ in range(2):
        one.failed(0.0)
        assert one.state(0.0) == CLOSED
        assert one.admit(0.0)
    one.failed(0.0)
    assert one.state(0.0) == OPEN
    assert not one.admit(0.0)


def test_a_success_between_them_begins_the_row_anew() -> None:
    one = breaker()
    for _ in range(5):
        one.failed(0.0)
        one.failed(0.0)
        one.succeeded()
    assert one.state(0.0) == CLOSED


def test_while_it_is_closed_every_call_has_a_ticket_of_its_own() -> None:
    one = breaker()
    assert len({admitted(one, 0.0) for _ in range(10)}) == 10


def test_it_is_open_for_its_seconds_and_then_lets_one_call_try() -> None:
    one = opened(100.0)
    assert (one.state(129.9), one.admit(129.9)) == (OPEN, 0)
    assert one.state(130.0) == HALF_OPEN
    admitted(one, 130.0)
    assert (one.state(130.0), one.admit(130.0)) == (HALF_OPEN, 0)
    assert one.admit(10_000.0) == 0  # however long it takes: a second one is let in when the first has left


def test_an_answer_to_the_probe_closes_it_on_trial() -> None:
    one = opened(100.0)
    one.answered(admitted(one, 130.0))
    assert one.state(130.0) == CLOSED
    one.failed(131.0)
    assert one.state(131.0) == OPEN


def test_a_probe_that_succeeds_closes_it() -> None:
    one = opened(100.0)
    probe = admitted(one, 130.0)
    one.answered(probe)
    one.succeeded()
    one.leave(probe)
    assert one.admit(130.0)
    one.failed(131.0)  # and the row begins anew
    assert one.state(131.0) == CLOSED


def test_a_probe_that_fails_opens_it_again_at_once() -> None:
    one = opened(100.0)
    probe = admitted(one, 130.0)
    one.failed(135.0)
    one.leave(probe)
    assert (one.state(135.0), one.admit(164.9)) == (OPEN, 0)
    assert one.admit(165.0)


def test_a_probe_whose_client_left_frees_its_place() -> None:
    one = opened(100.0)
    one.leave(admitted(one, 130.0))
    assert one.admit(130.0)


def test_only_the_probe_frees_its_place_and_closes_the_circuit_by_an_answer() -> None:
    one = breaker()
    earlier = admitted(one, 0.0)
    for _ in range(3):
        one.failed(100.0)
    admitted(one, 130.0)
    one.answered(earlier)
    one.leave(earlier)
    assert (one.state(130.0), one.admit(130.0)) == (HALF_OPEN, 0)


def test_one_failure_is_enough_where_the_settings_say_so() -> None:
    one = breaker(failures=1)
    one.failed(0.0)
    assert not one.admit(0.0)
    one.answered(admitted(one, 30.0))
    one.failed(31.0)
    assert not one.admit(31.0)


def test_changed_settings_count_from_then_on() -> None:
    one = opened(100.0)
    one.settings = BreakerSettings(3, 5.0)
    assert one.admit(105.0)


class BreakerMachine(RuleBasedStateMachine):
    """The table of its documentation, written down a second time; at most one probe is under way, ever."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.real = breaker()
        self.row = 0
        self.opened_at: float | None = None
        self.tickets: list[int] = []
        self.probe: int | None = None

    def expected(self) -> str:
        if self.opened_at is None:
            return CLOSED
        return OPEN if self.now < self.opened_at + 30.0 else HALF_OPEN

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 30.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        state = self.expected()
        ticket = self.real.admit(self.now)
        assert bool(ticket) == (state == CLOSED or (state == HALF_OPEN and self.probe is None))
        if ticket:
            assert ticket not in self.tickets
            self.tickets.append(ticket)
            if state == HALF_OPEN:
                self.probe = ticket

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), end=st.sampled_from(["left", "answered", "succeeded", "failed", "answered, failed"]))
    def call_ends(self, data: st.DataObject, end: str) -> None:
        ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        if end.startswith("answered"):
            self.real.answered(ticket)
            if ticket == self.probe:
                self.opened_at, self.probe, self.row = None, None, 2
        if end == "succeeded":
            self.real.succeeded()
            self.row, self.opened_at = 0, None
        if end.endswith("failed"):
            self.real.failed(self.now)
            self.row += 1
            if self.opened_at is not None or self.row >= 3:
                self.opened_at = self.now
        self.real.leave(ticket)
        if ticket == self.probe:
            self.probe = None

    @invariant()
    def agrees(self) -> None:
        assert self.real.state(self.now) == self.expected()


BreakerMachine.TestCase.settings = settings(max_examples=100, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase


# Retry-After.

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def far_from_utc() -> Iterator[None]:
    """A machine whose own zone is not UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"2", 2.0),
        (b" 120 ", 120.0),
        (b"0000000000120", 120.0),
        (b"000", 0.0),
        (b"Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        (b"Monday, 23-Nov-26 12:00:30 GMT", 30.0),
        (b"Mon Nov 23 12:00:30 2026", 30.0),
        (b"Mon, 23 Nov 2026 12:00:30 -0000", 30.0),
        (b"Mon, 23 Nov 2026 13:00:30 +0100", 30.0),
        (b"Mon, 23 Nov 2026 11:59:59 GMT", 0.0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
@pytest.mark.usefixtures("far_from_utc")
def test_a_retry_after_is_seconds_or_any_of_the_three_dates(value: bytes, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"soon",
        b"-5",
        b"1.5",
        b"1e3",
        "²".encode("latin-1"),
        b"\xb9\xb2",
        b"Mon, 99 Nov 2026 12:00:30 GMT",
        b"Mon, 23 Nov 2026 12:00:30 +99999999999999999999",
        b"Mon, 23 Nov 99999 12:00:30 GMT",
    ],
)
def test_what_is_no_retry_after_says_nothing(value: bytes | None) -> None:
    assert retry_after(value, NOW) is None


def test_a_very_long_number_is_a_long_wait() -> None:
    for digits in (10, 100, 10_000):
        wait = retry_after(b"9" * digits, NOW)
        assert wait is not None
        assert wait >= 10**8


@given(st.binary(max_size=40) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "ignore")))
def test_no_header_breaks_the_reader(value: bytes) -> None:
    wait = retry_after(value, NOW)
    assert wait is None or 0 <= wait < float("inf")


numbers = st.integers(-3, 10**6)


@given(
    st.tuples(numbers, numbers, numbers, numbers, numbers, numbers), st.sampled_from(["GMT", "", "-0000", "+9999"])
)
def test_no_date_breaks_the_reader(parts: tuple[int, ...], zone: str) -> None:
    day, year, hour, minute, second, offset = parts
    value = f"Mon, {day} Nov {year} {hour}:{minute}:{second} {zone or offset}"
    wait = retry_after(value.encode(), NOW)
    assert wait is None or 0 <= wait < float("inf")


@given(st.integers(0, 2**32))
def test_a_date_is_so_many_seconds_away(then: int) -> None:
    wait = retry_after(formatdate(then, usegmt=True).encode(), NOW)
    assert wait == max(then - NOW, 0.0)


# Statuses.


def test_a_status_says_whether_the_cloud_cannot_serve_us() -> None:
    """It broke, it is elsewhere, or our key or plan is not good. A call's own fault says nothing of it."""
    says_so = [status for status in range(300, 600) if counts_as_failure(status)]
    assert says_so == [*range(300, 400), 401, 402, 403, 408, *range(500, 600)]


@pytest.mark.parametrize("status", [300, 301, 307, 400, 401, 402, 403, 404, 405, 413, 422, 429, 501, 503, 505])
def test_a_refusal_is_not_billed(status: int) -> None:
    assert not may_be_billed(status)


@pytest.mark.parametrize("status", [408, 499, 500, 502, 504, 507, 520, 522, 524, 529, 599])
def test_a_call_that_was_begun_and_failed_may_be_billed(status: int) -> None:
    assert may_be_billed(status)
