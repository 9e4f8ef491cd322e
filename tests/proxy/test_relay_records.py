"""What a relay passes on of a stream of records: whole ones, in the order and with the bytes that came."""

from __future__ import annotations

import asyncio
import re
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.dialects import match
from sidecar.http1 import parse_request_head, parse_response_head
from sidecar.proxy.connection import Exchange
from sidecar.proxy.relay import Relay
from sidecar.upstream.connection import UpstreamError

ENDS = {b"\n": rb"\n\Z", b"\n\n": rb"(\n\n|\n\r\n|\r\r)\Z"}
ALPHABET = (b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"a", b'{"done":true}', b"data: 1")


class Written:
    """The side of an exchange that a relay sees; keeps what was written."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.head = parse_request_head(b"POST /api/chat HTTP/1.1\r\nHost: x\r\n\r\n")
        self.source = None
        self.close = False
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


@given(
    pieces=st.lists(st.lists(st.sampled_from(ALPHABET), min_size=1).map(b"".join), min_size=1),
    separator=st.sampled_from(sorted(ENDS)),
    broken=st.booleans(),
)
def test_only_whole_records_pass_before_the_end(pieces: list[bytes], separator: bytes, broken: bool) -> None:
    loop = asyncio.new_event_loop()
    try:
        exchange = Written(loop)
        head = parse_response_head(b"HTTP/1.1 200 OK\r\n\r\n")
        relay = Relay(cast("Exchange", exchange), head, None, separator=separator)
        came = b""
        for piece in pieces:
            relay.data([piece], None, complete=False)
            came += piece
            assert came.startswith(exchange.data)
            whole = exchange.data
            assert not whole or re.search(ENDS[separator], whole)
            assert not re.search(ENDS[separator], came[len(whole) :])
        if broken:
            relay.lost(UpstreamError("lost", "gone", sent=True, answered=True))
            assert exchange.data == whole
        else:
            relay.end([])
            assert exchange.data == came
            assert relay.size == len(came)
    finally:
        loop.close()


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("kind", ["ollama", "openai"])
def test_a_last_record_that_lacks_only_its_end_goes_out(kind: str, drops: bool) -> None:
    """The answer is whole by its own last record; what was lost is the framing's end."""
    path = b"/api/chat" if kind == "ollama" else b"/v1/chat/completions"
    route = match(b"POST", path)
    assert route is not None
    records = [b'{"message":{"content":"hi"},"done":false}', b'{"done":true,"prompt_eval_count":3,"eval_count":2}']
    if kind == "openai":
        records = [b'data: {"choices":[{"delta":{"content":"hi"}}]}', b"data: [DONE]"]
    loop = asyncio.new_event_loop()
    try:
        exchange = Written(loop)
        observer = route.dialect.observer(route, stream=True, drops_usage=drops)
        head = parse_response_head(b"HTTP/1.1 200 OK\r\n\r\n")
        relay = Relay(cast("Exchange", exchange), head, observer, separator=route.separator, whole=True)
        relay.data([records[0] + route.separator, records[1]], None, complete=False)
        relay.lost(UpstreamError("lost", "gone", sent=True, answered=True))
        assert observer.usage.complete
        relay.break_off(b"", route.separator)
        assert exchange.data == records[0] + route.separator + records[1]
        assert relay.size == len(exchange.data)
    finally:
        loop.close()
