"""Two other readers of HTTP/1.1, asked the same questions: h11 (Python) and llhttp (C, through httptools)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h11
import httptools
from hypothesis import HealthCheck, settings

from sidecar.http1 import (
    BodyDecoder,
    ChunkedDecoder,
    EmptyDecoder,
    LengthDecoder,
    MessageError,
    UntilCloseDecoder,
    parse_request_head,
    parse_response_head,
)

QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Message:
    """A message as one reader understood it. Names in lower case; `complete` says that its body's end came.

    `upgraded` says that the reader left what is behind the head to another protocol.
    """

    start: tuple[Any, ...]
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = False
    upgraded: bool = False


@dataclass
class _Watcher:
    parser: Any = None
    start: tuple[Any, ...] = ()
    url: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    headers_complete: bool = False
    complete: bool = False

    def on_url(self, url: bytes) -> None:
        if not self.complete:  # else it is of the next message already
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headers_complete:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.headers_complete:
            return
        self.headers_complete = True
        version = self.parser.get_http_version().encode()
        if isinstance(self.parser, httptools.HttpResponseParser):
            self.start = (self.parser.get_status_code(), version)
        else:
            self.start = (self.parser.get_method(), self.url, version)

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def by_llhttp(raw: bytes, *, response: bool = False) -> Message | None:
    """None where llhttp rejects the message."""
    watcher = _Watcher()
    parser: Any = httptools.HttpResponseParser(watcher) if response else httptools.HttpRequestParser(watcher)
    watcher.parser = parser
    upgraded = False
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        upgraded = True
    except httptools.HttpParserError:
        if not watcher.complete:
            return None  # else it was the next message that it did not like
    if not watcher.headers_complete:
        return None
    return Message(watcher.start, watcher.headers, watcher.body, watcher.complete, upgraded)


def by_h11(raw: bytes, *, response: bool = False, method: str = "GET") -> Message | None:
    """None where h11 rejects the message."""
    connection = h11.Connection(h11.CLIENT if response else h11.SERVER, max_incomplete_event_size=1 << 20)
    message: Message | None = None
    try:
        if response:
            connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
            connection.send(h11.EndOfMessage())
        connection.receive_data(raw)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                start: tuple[Any, ...] = (event.method, event.target, event.http_version)
                message = Message(start, list(event.headers))
            elif isinstance(event, h11.Response | h11.InformationalResponse):
                message = Message((event.status_code, event.http_version), list(event.headers))
                if isinstance(event, h11.InformationalResponse):
                    message.complete = True
                    return message
            elif isinstance(event, h11.Data) and message is not None:
                message.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and message is not None:
                message.complete = True
                return message
            else:
                return message
    except h11.ProtocolError:
        return None


def split_head(raw: bytes) -> tuple[bytes, bytes] | None:
    """A head with its empty line and what follows, as the connection finds it; None where no CRLF CRLF is there."""
    end = raw.find(b"\r\n\r\n")
    return None if end < 0 else (raw[: end + 4], raw[end + 4 :])


def by_us(raw: bytes, *, response: bool = False) -> Message | None:
    """The same message by our readers; None where they reject it."""
    halves = split_head(raw)
    if halves is None:
        return None
    head_bytes, rest = halves
    decoder: BodyDecoder
    try:
        if response:
            answer = parse_response_head(head_bytes)
            start: tuple[Any, ...] = (answer.status, b"1.%d" % answer.minor)
            headers = [(name, value) for name, value, _ in answer.fields]
            chunked, length = answer.chunked, answer.content_length
            if not answer.has_body(b"GET"):
                chunked, length = False, 0
        else:
            request = parse_request_head(head_bytes)
            start = (request.method, request.target, b"1.%d" % request.minor)
            headers = [(name, value) for name, value, _ in request.fields]
            chunked, length = request.chunked, request.content_length
        if chunked:
            decoder = ChunkedDecoder()
        elif length is None and response:
            decoder = UntilCloseDecoder()
        else:
            decoder = LengthDecoder(length) if length else EmptyDecoder()
        pieces = decoder.feed(rest) if rest else []
    except MessageError:
        return None
    return Message(start, headers, b"".join(pieces), decoder.done)
