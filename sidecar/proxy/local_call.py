"""A call at the local Ollama: wait for a place, send the bytes, relay the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sidecar.core.decision import LOCAL, NONE
from sidecar.core.record import Attempt
from sidecar.http1 import ResponseHead
from sidecar.http1.forward import request_to_upstream
from sidecar.proxy.call import Call
from sidecar.proxy.relay import Relay
from sidecar.proxy.respond import RefusedError
from sidecar.proxy.services import Services
from sidecar.routing.decide import shown_model
from sidecar.upstream.connection import UpstreamConnection, UpstreamError

_STATUS = {"connect": 503, "timeout": 504}


async def run_local(
    services: Services, call: Call, body: bytes, model: str, check: Callable[[], Awaitable[None]]
) -> None:
    """Answers a call from the local Ollama. Raises RefusedError where that cannot be reached or gives no answer.

    `check` raises where the call may not go there. It is the last thing before each time that the bytes leave: what
    was known of a model before a wait (for a place, for a connection, for an answer that did not come) says nothing
    any more.
    """
    local, record, exchange = services.local, call.record, call.exchange
    record.location, record.model = LOCAL, shown_model(model)
    attempt = Attempt(LOCAL, record.model)
    arrived = exchange.loop.time()
    if not local.try_enter():
        await local.enter()
    connection: UpstreamConnection | None = None
    turn = 0
    try:
        if local.settings.max_concurrent:
            record.queued = exchange.loop.time() - arrived
        head = request_to_upstream(exchange.head, local.pool.host_header, len(body))
        connection = local.pool.take() or await local.pool.acquire()
        turn = connection.turn
        await check()
        record.attempts.append(attempt)
        try:
            connection.send(b"POST", head, body)
            answer = await connection.response(local.settings.first_byte_seconds)
        except UpstreamError as error:
            # A pooled connection that the server had closed in the meantime is replaced, once.
            if not connection.was_stale(error):
                raise
            local.models.doubt()  # it may have been started anew
            connection = await local.pool.acquire(fresh=True)
            turn = connection.turn
            await check()
            connection.send(b"POST", head, body)
            answer = await connection.response(local.settings.first_byte_seconds)
        await _relay(services, call, attempt, connection, answer)
    except UpstreamError as error:
        if attempt not in record.attempts:
            record.attempts.append(attempt)
        attempt.outcome = error.kind
        record.outcome, record.error, record.location = "upstream_error", error.message, NONE
        raise unreachable(record.reason, error) from error
    finally:
        local.leave()
        if connection is not None:
            local.pool.release(connection, turn)


def unreachable(reason: str, error: UpstreamError) -> RefusedError:
    """The local server gave no answer that is of use."""
    return RefusedError(_STATUS.get(error.kind, 502), reason, f"local Ollama: {error.message}")


async def _relay(
    services: Services, call: Call, attempt: Attempt, connection: UpstreamConnection, answer: ResponseHead
) -> None:
    record, exchange, route = call.record, call.exchange, call.route
    observer = None
    if answer.status < 300 and b"content-encoding" not in answer.first:
        observer = route.dialect.observer(route, record.stream)
    records = observer is not None and record.stream and answer.content_length is None
    relay = call.relay = Relay(exchange, answer, observer, separator=route.separator if records else b"")
    call.extra_headers = b""  # this answer says for itself which web pages may read it
    call.begin(answer, connection)
    attempt.status = answer.status
    broken: UpstreamError | None = None
    try:
        connection.attach(relay, services.local.settings.idle_seconds)
        exchange.flush()
        broken = relay.done.result() if relay.done.done() else await relay.done
        attempt.outcome = "ok" if answer.status < 400 else "status"
        if answer.status >= 400:
            record.outcome = "client_error" if answer.status < 500 else "upstream_error"
        elif observer is not None and observer.usage.error:
            record.outcome = "broken"
    finally:
        record.first_byte = relay.first_at - exchange.started if relay.first_at else None
        record.bytes_out = relay.size
        if observer is not None:
            record.tokens_in, record.tokens_out = observer.usage.tokens_in, observer.usage.tokens_out
    if broken is not None:
        attempt.outcome = broken.kind
        record.outcome, record.error = "broken", broken.message
        record_text = route.dialect.stream_error(route, f"local Ollama: {broken.message}", "upstream_error")
        relay.break_off(record_text, route.separator)
