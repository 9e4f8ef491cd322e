"""Answers of our own, in the client's dialect: the one place where an error becomes bytes."""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from http import HTTPStatus

from sidecar.dialects import dialect_of
from sidecar.dialects.base import Dialect
from sidecar.http1 import MessageError
from sidecar.proxy.connection import Exchange

# The path of whatever stands where a request line should: the first word that begins with a slash, or a URL's.
_PATH = re.compile(rb"[^\r\n]*?(?:[ \t]|[ \t]https?://[^/ \t\r\n]*)(/[^ \t\r\n]*)", re.IGNORECASE)


class RefusedError(Exception):
    """A call that gets no answer from a model. `code` is the reason, as in X-Sidecar-Reason."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def answer(exchange: Exchange, status: int, body: bytes, media: bytes, ours: bytes) -> None:
    """Writes a whole answer. `ours` are header lines with CRLF. Ends the connection where the request is not read."""
    if not exchange.body_done:
        exchange.close = True
    head = _head(status, len(body), media, ours, close=exchange.close, minor=exchange.head.minor)
    exchange.start(head if exchange.head.method == b"HEAD" else head + body)


def answer_error(exchange: Exchange, dialect: Dialect, status: int, message: str, code: str, ours: bytes) -> None:
    """Writes an error as the client's dialect has it."""
    answer(exchange, status, dialect.error(status, message, code), b"application/json", ours)


def protocol_error(error: MessageError, data: bytes) -> bytes:
    """The answer to bytes that are no valid request: nothing of them is in it, whatever they hold."""
    path = _PATH.match(data, 0, 4096)
    dialect = dialect_of(path[1] if path is not None else b"/")
    body = dialect.error(error.status, error.message, "bad_request")
    return _head(error.status, len(body), b"application/json", b"", close=True, minor=1) + body


def phrase(status: int) -> bytes:
    """The reason phrase of a status; empty for one that has none."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def _head(status: int, length: int, media: bytes, ours: bytes, *, close: bool, minor: int) -> bytes:
    connection = b""
    if close and minor:
        connection = b"Connection: close\r\n"
    elif not close and not minor:
        connection = b"Connection: keep-alive\r\n"
    return b"HTTP/1.%d %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nDate: %b\r\n%b%b\r\n" % (
        minor,
        status,
        phrase(status),
        media,
        length,
        formatdate(time.time(), usegmt=True).encode(),
        connection,
        ours,
    )
