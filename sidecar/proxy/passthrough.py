"""Everything that is no inference: to the local server and back, untouched and at constant memory."""

from __future__ import annotations

import asyncio

from sidecar.dialects import dialect_of, normal
from sidecar.http1 import RequestHead, ResponseHead
from sidecar.http1.forward import request_to_upstream, response_to_client
from sidecar.proxy.connection import Exchange
from sidecar.proxy.relay import Relay
from sidecar.proxy.respond import RefusedError, answer_error
from sidecar.proxy.services import Services
from sidecar.upstream.connection import UpstreamConnection, UpstreamError

_REQUEST_ID = frozenset((b"x-request-id",))
# What changes the models that the local server has: see `LocalModels.changing`.
_CHANGES = frozenset((b"/api/create", b"/api/copy", b"/api/pull", b"/api/delete"))
_STATUS = {"connect": 503, "timeout": 504}
_STOPPING = "the sidecar is shutting down"


async def pass_through(services: Services, exchange: Exchange, request_id: str) -> None:
    """Relays one request. Raises RefusedError where the local server cannot be reached or gives no answer, and
    MessageError where the request's body is not valid or stalls."""
    changes = exchange.head.path in _CHANGES or (
        b"%" in exchange.head.path and normal(exchange.head.path) in _CHANGES
    )
    if not changes:
        await _relay(services, exchange, request_id)
        return
    services.local.models.changing()
    try:
        await _relay(services, exchange, request_id)
    finally:
        services.local.models.changed()


async def _relay(services: Services, exchange: Exchange, request_id: str) -> None:
    pool, head = services.local.pool, exchange.head
    # A body that is here to its end can be sent again; one that is still coming is sent on as it comes.
    whole = exchange.body_done
    if exchange.error is not None:
        raise exchange.error
    body = _whole_body(exchange) if whole and head.has_body else b""
    connection: UpstreamConnection | None = None
    turn = 0
    pump: asyncio.Task[None] | None = None
    try:
        connection = await pool.acquire()
        turn = connection.turn
        try:
            pump, answer = await _send(services, exchange, connection, body, whole)
        except UpstreamError as error:
            # A pooled connection that the server had closed in the meantime is replaced, once; not where a part of
            # a streamed body is gone with it.
            if exchange.streamed or not connection.was_stale(error):
                raise
            connection = await pool.acquire(fresh=True)
            turn = connection.turn
            pump, answer = await _send(services, exchange, connection, body, whole)
        await _answer(exchange, connection, answer, request_id)
    except UpstreamError as error:
        raise RefusedError(
            _STATUS.get(error.kind, 502), "upstream_error", f"local Ollama: {error.message}"
        ) from error
    except asyncio.CancelledError:
        # The client left, or the drain's time is over: the second kind hears why.
        if not exchange.left and not exchange.responded:
            exchange.close = True
            answer_error(exchange, dialect_of(head.path), 503, _STOPPING, "shutting_down", _ours(request_id))
        raise
    finally:
        if pump is not None and not pump.done():
            # The answer came before the whole request: the rest is not wanted.
            exchange.close = True
            pump.cancel()
        elif pump is not None and not pump.cancelled():
            pump.exception()  # told already, by what became of the answer
        if connection is not None:
            connection.abandon(turn)


async def _send(
    services: Services, exchange: Exchange, connection: UpstreamConnection, body: bytes, whole: bool
) -> tuple[asyncio.Task[None] | None, ResponseHead]:
    head = exchange.head
    upstream_head = request_to_upstream(head, services.local.pool.host_header)
    timeout = services.local.settings.first_byte_seconds
    if whole:
        connection.send(head.method, upstream_head, body)
        return None, await connection.response(timeout, exchange.interim)
    if exchange.error is not None:  # while we waited for the connection
        connection.close()
        raise exchange.error
    connection.send(head.method, upstream_head, complete=False)
    pump = exchange.loop.create_task(_pump(exchange, connection, head))
    try:
        return pump, await connection.response(timeout, exchange.interim)
    except UpstreamError:
        pump.cancel()
        # What broke the upload (a body that is no valid HTTP, a stalled client) tells more than its result does.
        if exchange.error is not None:
            raise exchange.error from None
        raise
    except BaseException:
        pump.cancel()
        raise


async def _pump(exchange: Exchange, connection: UpstreamConnection, head: RequestHead) -> None:
    """Sends the request's body on as it comes, in its own framing."""
    turn = connection.turn
    try:
        async for data in exchange.stream():
            await connection.write(_framed(head, data))
        await connection.write(_end(exchange), last=True)
    except UpstreamError:
        return  # the answer, or its absence, says so
    except BaseException:
        connection.cut(turn)
        raise


def _whole_body(exchange: Exchange) -> bytes:
    data = exchange.take()
    return (_framed(exchange.head, data) if data else b"") + _end(exchange)


def _framed(head: RequestHead, data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if head.chunked else data


def _end(exchange: Exchange) -> bytes:
    if not exchange.head.chunked:
        return b""
    return b"0\r\n%b\r\n" % b"".join([line + b"\r\n" for line in exchange.trailers])


def _ours(request_id: str) -> bytes:
    return f"X-Request-Id: {request_id}\r\n".encode("ascii")


async def _answer(exchange: Exchange, connection: UpstreamConnection, answer: ResponseHead, request_id: str) -> None:
    has_body = answer.has_body(exchange.head.method)
    if not answer.keep_alive or (
        has_body and answer.content_length is None and (not answer.chunked or exchange.head.minor == 0)
    ):
        # Its end is the connection's end; or the server says that it reads no further request here, as when it did
        # not read all of this one.
        exchange.close = True
    exchange.start(
        response_to_client(answer, exchange.head, _ours(request_id), _REQUEST_ID, exchange.close),
        connection,
        hold=True,
    )
    relay = Relay(exchange, answer, None)
    connection.attach(relay)
    exchange.flush()
    try:
        broken = relay.done.result() if relay.done.done() else await relay.done
    except asyncio.CancelledError:
        if not exchange.left:
            _break_off(exchange, answer, relay, _STOPPING, "shutting_down")
        raise
    if broken is not None:
        _break_off(exchange, answer, relay, f"local Ollama: {broken.message}", "upstream_error")


def _break_off(exchange: Exchange, answer: ResponseHead, relay: Relay, message: str, code: str) -> None:
    """Ends an answer that does not end by itself: with an error record where it is made of records."""
    if b"ndjson" in answer.first.get(b"content-type", b""):
        record = dialect_of(exchange.head.path).error(503 if code == "shutting_down" else 502, message, code)
        relay.break_off(record + b"\n", b"\n")
    else:
        relay.cut()
