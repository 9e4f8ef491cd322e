"""A call at the cloud: money first, then the permit, the audit line, the door; booked exactly once in every case.

reserve ─► gates behind the money ─► intent on disk ─► send ─► first byte ─► relay ─► settle
    │               │                     │             │          │            │
    └── no money    └── release           └── release   └── release, or settle in full where it may be billed

Each intent that may be on disk gets one line on its outcome, whether the call left or not.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from sidecar.core.budget import Reservation
from sidecar.core.call import Usage
from sidecar.core.decision import CLOUD
from sidecar.core.permit import Permit, PermitError
from sidecar.core.pricing import LEAST_OUTPUT, CloudModel, Price, affordable_output, cost, worst_case
from sidecar.core.record import Attempt
from sidecar.dialects.base import Observer, Route
from sidecar.dialects.edits import asks_for_usage
from sidecar.dialects.splice import NotEditableError
from sidecar.http1 import ResponseHead
from sidecar.proxy.call import Call
from sidecar.proxy.relay import Relay
from sidecar.proxy.respond import phrase
from sidecar.proxy.services import Services
from sidecar.routing.decide import REQUESTED, Verdict, price_of, shown_model
from sidecar.stores.keeper import Denied, Keeper
from sidecar.strategies import gates
from sidecar.telemetry.audit import AuditError, AuditLog
from sidecar.upstream.cloud import CloudCall, CloudDoor, counts_as_failure, may_be_billed
from sidecar.upstream.connection import UpstreamConnection, UpstreamError

_log = logging.getLogger("sidecar.proxy")

# A whole answer is held back until it is complete, so that a cut one can still go local. A larger one goes local too.
MAX_HELD = 32 * 1024 * 1024
# What of the cloud's own head reaches the app: nothing that sets a cookie or a policy for localhost.
_KEPT = frozenset(
    (
        *(b"cache-control", b"content-encoding", b"content-length", b"content-type", b"date", b"retry-after"),
        b"transfer-encoding",
    )
)
# How a line of an event stream begins (a comment has no name).
_EVENT_LINES = (b"data:", b"event:", b"id:", b"retry:", b":")


@dataclass(frozen=True, slots=True)
class TryLocal:
    """The cloud did not answer this call: the reason, and a word on it. `tried` says that it was sent there."""

    reason: str
    detail: str
    tried: bool = False


class _Booking:
    """The money of one try. Ends exactly once: by what is known of the usage, else in full, else not at all.

    `intended_at` is the loop's time when the audit log was told of the try, `sent_at` when it may have left.
    """

    def __init__(
        self, services: Services, call: Call, price: Price, attempt: Attempt, reservation: Reservation
    ) -> None:
        self._services = services
        self._call = call
        self._price = price
        self._attempt = attempt
        self._reservation = reservation
        self.usage: Usage | None = None
        self.billable = True
        self.intended_at: float | None = None
        self.sent_at: float | None = None

    def end(self) -> None:
        """Settles or releases, and tells the store, the audit log and the metrics. A second call changes nothing."""
        if not self._reservation.open:
            return
        attempt, usage = self._attempt, self.usage
        # A count of 0 is one that was left out: no call that gets an answer is free of either.
        if usage is not None and usage.complete and usage.tokens_in and usage.tokens_out:
            attempt.tokens_in, attempt.tokens_out = usage.tokens_in, usage.tokens_out
            attempt.cost = cost(self._price, usage.tokens_in, usage.tokens_out)
        elif self.sent_at is not None and self.billable:
            attempt.cost = self._reservation.amount
        self._reservation.settle(attempt.cost)
        self._call.record.cost += attempt.cost
        try:
            self._tell(attempt)
        except Exception:  # noqa: BLE001 - the money is booked; an answer is not lost over how it is told
            _log.exception("a cloud call could not be recorded")

    def _tell(self, attempt: Attempt) -> None:
        services = self._services
        if attempt.cost > attempt.reserved:
            # The worst case was none: the cap may be passed by as much, and its reader should know at once.
            fields = {"model": attempt.model, "cost": attempt.cost, "reserved": attempt.reserved}
            _log.error("a cloud call cost more than its worst case, in micro-USD", extra={"fields": fields})
        if services.keeper is not None:
            services.keeper.settled()
        services.metrics.attempt(
            attempt.model, attempt.outcome, attempt.cost, attempt.reserved, self._reservation.day
        )
        began = self.sent_at if self.sent_at is not None else self.intended_at
        if began is not None and services.audit is not None:
            services.audit.execution(self._call.record, attempt, self._call.exchange.loop.time() - began)


class _Held:
    """A sink that keeps a whole answer until it is complete."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        self.pieces: list[bytes] = []
        self._size = 0
        self.done: asyncio.Future[UpstreamError | None] = connection.loop.create_future()

    def data(self, pieces: list[bytes], raw: bytes | None, complete: bool) -> None:
        self.pieces += pieces
        self._size += sum(map(len, pieces))
        if self._size > MAX_HELD:
            self._connection.close()
            self.lost(UpstreamError("protocol", "the answer is too large", sent=True, answered=True))

    def end(self, trailers: list[bytes]) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def lost(self, error: UpstreamError) -> None:
        if not self.done.done():
            self.done.set_result(error)


async def run_cloud(services: Services, call: Call, verdict: Verdict) -> TryLocal | None:
    """Answers a call from the cloud; None where it did. Before the first byte every failure is a TryLocal."""
    try:
        return await _run_cloud(services, call, verdict)
    except Exception:  # a defect of ours must not cost the app its answer
        if call.exchange.responded:
            raise
        fields = {"request_id": call.record.request_id}
        _log.exception("a cloud call failed inside the sidecar", extra={"fields": fields})
        tried = bool(call.record.attempts)
        return TryLocal(gates.CLOUD_UNAVAILABLE, "the sidecar failed; its log says where", tried)


async def _run_cloud(services: Services, call: Call, verdict: Verdict) -> TryLocal | None:
    door, keeper, audit = services.door, services.keeper, services.audit
    model, priced = verdict.model, None
    if model is not None:
        priced = price_of(call.policy, call.assessment, model)
    if door is None or keeper is None or audit is None or model is None or model.price is None or priced is None:
        return TryLocal(gates.CLOUD_DISABLED, "the cloud was switched off while the call was read")
    objection = await _cross_origin(services, call)
    if objection is not None:
        return objection
    worst, cap = priced
    choices = call.assessment.body.facts.choices
    least = worst_case(model.price, worst.tokens_in, min(worst.tokens_out, LEAST_OUTPUT * choices)).micro_usd
    reservation = await _reserve(keeper, worst.micro_usd, least)
    if isinstance(reservation, Denied):
        return TryLocal(reservation.reason, reservation.detail)
    attempt = Attempt(CLOUD, shown_model(model.name), reserved=reservation.amount)
    booking = _Booking(services, call, model.price, attempt, reservation)
    try:
        if reservation.amount < worst.micro_usd:
            affordable = affordable_output(model.price, worst.tokens_in, reservation.amount, worst.tokens_out)
            cap = affordable // choices
        return await _run(services, call, verdict, model, cap, attempt, booking, door, audit)
    except asyncio.CancelledError:
        attempt.outcome = "client_disconnect" if call.exchange.left else "drained"
        raise
    except Exception:
        attempt.outcome = "internal_error"
        raise
    finally:
        booking.end()


async def _reserve(keeper: Keeper, want: int, least: int) -> Reservation | Denied:
    reservation = keeper.try_reserve(want, want)
    return reservation if reservation is not None else await keeper.reserve(want, least)


async def _cross_origin(services: Services, call: Call) -> TryLocal | None:
    """A call from a web page: whether its origin may call is the local server's to say, and its CORS headers too."""
    origin = call.exchange.head.get(b"origin")
    if origin is None:
        return None
    # Two of them no browser sends, and each reader could take another one.
    granted = None if b"origin" in call.exchange.head.repeated else await services.local.cors(origin)
    if granted is None:
        return TryLocal(gates.LOCAL_ONLY_OPERATION, "the local Ollama did not grant this web page's origin")
    call.extra_headers = granted
    return None


async def _run(
    services: Services,
    call: Call,
    verdict: Verdict,
    model: CloudModel,
    cap: int,
    attempt: Attempt,
    booking: _Booking,
    door: CloudDoor,
    audit: AuditLog,
) -> TryLocal | None:
    """The gates behind the money, then the call."""
    attempt.outcome = "held"
    if door.rate_limited:
        return TryLocal(gates.RATE_LIMITED, "the cloud asked for a pause")
    ticket = door.admit()
    if not ticket:
        return TryLocal(gates.CLOUD_UNAVAILABLE, "the cloud failed too often lately; it is tried again soon")
    body = call.assessment.body
    permit = None
    try:
        permit = services.office.issue(
            call.assessment.classification, verdict.decision, body.raw, model.name, call.policy.generation
        )
        await _announce(audit, call, attempt, booking)
        version = call.exchange.head.get(b"anthropic-version")
        cloud_call = CloudCall(call.route, body.raw, body.value, body.facts, model.name, cap, version)
        return await _send(call, verdict, attempt, booking, door, permit, cloud_call, ticket)
    except (PermitError, AuditError) as error:
        return TryLocal(gates.CLOUD_UNAVAILABLE, str(error))
    except NotEditableError as error:
        return TryLocal(gates.LOCAL_ONLY_OPERATION, str(error))
    finally:
        door.leave(ticket)
        if permit is not None:
            services.office.withdraw(permit)


async def _announce(audit: AuditLog, call: Call, attempt: Attempt, booking: _Booking) -> None:
    """Waits until the audit log has the intent. Raises AuditError."""
    booking.intended_at = call.exchange.loop.time()
    try:
        await audit.intent(call.record, attempt)
    except Exception as error:
        if not (isinstance(error, AuditError) and error.pending):
            booking.intended_at = None  # there is no such line, so none that wants an outcome
        raise


async def _send(
    call: Call,
    verdict: Verdict,
    attempt: Attempt,
    booking: _Booking,
    door: CloudDoor,
    permit: Permit,
    cloud_call: CloudCall,
    ticket: int,
) -> TryLocal | None:
    """Through the door, and what comes of it."""
    call.record.attempts.append(attempt)
    connection: UpstreamConnection | None = None
    turn = 0
    started = call.exchange.loop.time()
    try:
        try:
            connection, answer = await door.send(permit, cloud_call)
            turn = connection.turn
        finally:
            if cloud_call.sent:
                booking.sent_at = started
        attempt.status = answer.status
        if not 200 <= answer.status < 300:
            return await _no_success(call, verdict, attempt, booking, door, connection, answer)
        return await _relay(call, attempt, booking, door, connection, answer, cloud_call.cap, ticket)
    except UpstreamError as error:
        attempt.outcome = error.kind
        door.failed()
        return TryLocal(gates.CLOUD_UNAVAILABLE, error.message, tried=True)
    finally:
        if connection is not None:
            connection.abandon(turn)


async def _no_success(
    call: Call,
    verdict: Verdict,
    attempt: Attempt,
    booking: _Booking,
    door: CloudDoor,
    connection: UpstreamConnection,
    answer: ResponseHead,
) -> TryLocal | None:
    """A status that is no 2xx. What the app named itself it also hears about, where the call was the fault."""
    attempt.outcome = "status"
    booking.billable = may_be_billed(answer.status)
    if answer.status == 429:
        door.refused(answer)
        return TryLocal(gates.RATE_LIMITED, "the cloud answered 429", tried=True)
    if counts_as_failure(answer.status):
        door.failed()
        return TryLocal(gates.CLOUD_UNAVAILABLE, f"the cloud answered {answer.status}", tried=True)
    door.succeeded()
    if verdict.decision.reason == REQUESTED:
        relay = Relay(call.exchange, answer, None, trailers=False)
        _begin(call, answer, connection, attempt.model)
        connection.attach(relay, door.settings.timeout_seconds)
        call.exchange.flush()
        if await relay.done is not None:
            relay.cut()
        call.record.outcome = "client_error"
        call.record.bytes_out = relay.size
        return None
    return TryLocal(gates.CLOUD_UNAVAILABLE, f"the cloud answered {answer.status}", tried=True)


async def _relay(
    call: Call,
    attempt: Attempt,
    booking: _Booking,
    door: CloudDoor,
    connection: UpstreamConnection,
    answer: ResponseHead,
    cap: int,
    ticket: int,
) -> TryLocal | None:
    record, exchange, route = call.record, call.exchange, call.route
    facts = call.assessment.body.facts
    observer = route.dialect.observer(route, facts.stream, drops_usage=asks_for_usage(route, facts))
    timeout = door.settings.timeout_seconds
    if facts.stream and answer.content_length is None:
        first = await connection.first_data(timeout)
        if not _begins_well(route, answer, first):
            attempt.outcome = "error_record" if first and route.dialect.begins_with_error(first) else "protocol"
            door.failed()
            return TryLocal(gates.CLOUD_UNAVAILABLE, "the cloud's answer began with an error or is none", tried=True)
        door.answered(ticket)
        relay = call.relay = Relay(exchange, answer, observer, separator=route.separator, whole=True, trailers=False)
        _begin(call, answer, connection, attempt.model)
        try:
            connection.attach(relay, timeout)
            exchange.flush()
            broken = await relay.done
        finally:
            booking.usage = observer.usage
            _note(call, relay, observer, cap, facts.output_cap)
    else:
        held = _Held(connection)
        connection.attach(held, timeout)
        error = await held.done
        if error is not None:
            raise error
        pieces = observer.feed(held.pieces) + observer.close()
        booking.usage = observer.usage
        if not observer.usage.complete:
            attempt.outcome = "error_record" if observer.usage.error else "incomplete"
            door.failed()
            return TryLocal(gates.CLOUD_UNAVAILABLE, "the cloud's answer is not complete", tried=True)
        relay = Relay(exchange, answer, None)
        body = b"".join(pieces)
        _begin(call, _counted(answer, len(body)), None, attempt.model)
        relay.first_at = exchange.loop.time()
        relay.size = len(body)
        exchange.write(body)
        _note(call, relay, observer, cap, facts.output_cap)
        broken = None
    if broken is not None and observer.usage.complete and not observer.usage.error:
        # By its own last record the answer is whole; all that was cut is the framing's end.
        relay.break_off(b"", route.separator)
        broken = None
    if broken is None and not observer.usage.error:
        attempt.outcome = "ok"
        door.succeeded()
        return None
    door.failed()
    record.outcome = "broken"
    attempt.outcome = broken.kind if broken is not None else "error_record"
    record.error = broken.message if broken is not None else "the cloud ended its answer with an error"
    if broken is not None:
        relay.break_off(route.dialect.stream_error(route, f"Ollama Cloud: {broken.message}", "upstream_error"),
                        route.separator)  # fmt: skip
    return None


def _begins_well(route: Route, answer: ResponseHead, first: bytes) -> bool:
    """Whether the first bytes of a streamed answer can be those of a record: a gateway's page or an error is none."""
    if not first or b"content-encoding" in answer.first or route.dialect.begins_with_error(first):
        return False
    text = first.lstrip()
    if route.path.startswith("/api/"):
        return text[:1] in (b"{", b"")
    return any(text.startswith(name) or name.startswith(text) for name in _EVENT_LINES)


def _begin(call: Call, answer: ResponseHead, connection: UpstreamConnection | None, model: str) -> None:
    call.record.location, call.record.model = CLOUD, model
    # The phrase is free text of the cloud's; nothing of it reaches the app but what is known.
    answer.status_line = b"HTTP/1.1 %d %b" % (answer.status, phrase(answer.status))
    drop = frozenset(name for name, _, _ in answer.fields if name not in _KEPT)
    call.begin(answer, connection, drop)


def _counted(answer: ResponseHead, length: int) -> ResponseHead:
    """The head of an answer whose whole body is in hand: framed by its length."""
    fields = [field for field in answer.fields if field[0] not in (b"content-length", b"transfer-encoding")]
    text = b"%d" % length
    fields.append((b"content-length", text, b"Content-Length: " + text))
    head = ResponseHead(fields, {name: value for name, value, _ in reversed(fields)}, frozenset())
    head.status, head.status_line, head.minor = answer.status, answer.status_line, answer.minor
    head.content_length, head.chunked, head.keep_alive = length, False, answer.keep_alive
    return head


def _note(call: Call, relay: Relay, observer: Observer, cap: int, asked: int | None) -> None:
    record, usage = call.record, observer.usage
    record.first_byte = relay.first_at - call.exchange.started if relay.first_at else None
    record.bytes_out = relay.size
    record.tokens_in, record.tokens_out = usage.tokens_in, usage.tokens_out
    # Not every route says why an answer ended: one that is as long as it may be was cut short.
    ended = usage.finish == "length" or (usage.tokens_out or 0) >= cap
    record.capped = ended and (asked is None or asked > cap)
