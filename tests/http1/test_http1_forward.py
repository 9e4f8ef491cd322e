"""Heads on their way: what ends here, and that all else goes on byte for byte."""

from __future__ import annotations

import pytest
from http1_support import QUICK
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.http1 import RequestHead, parse_request_head, parse_response_head
from sidecar.http1.forward import HOP_BY_HOP, request_to_upstream, response_to_client

UPSTREAM = b"127.0.0.1:11435"


def request(*lines: bytes, first: bytes = b"POST /api/chat?x=%41 HTTP/1.1", host: bytes = b"Host: a") -> RequestHead:
    return parse_request_head(b"\r\n".join((first, *((host,) if host else ()), *lines)) + b"\r\n\r\n")


def forwarded(*lines: bytes, length: int | None = None) -> list[bytes]:
    """The lines that go on, without the request line and Host."""
    raw = request_to_upstream(request(*lines), UPSTREAM, length)
    assert raw.endswith(b"\r\n\r\n")
    first, host, *rest = raw[:-4].split(b"\r\n")
    assert first == b"POST /api/chat?x=%41 HTTP/1.1"
    assert host == b"Host: " + UPSTREAM
    return rest


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
@pytest.mark.parametrize("spelling", [bytes.lower, bytes.upper, bytes.title])
def test_hop_by_hop_fields_end_here(name: bytes, spelling: type[bytes]) -> None:
    line = spelling(name) + b": x"
    assert forwarded(b"X-A: 1", line, b"X-B: 2") == [b"X-A: 1", b"X-B: 2"]


@pytest.mark.parametrize(
    ("lines", "rest"),
    [
        ((b"Connection: X-A", b"X-A: 1", b"X-B: 2"), [b"X-B: 2"]),
        ((b"Connection: close, x-a ,X-C", b"X-A: 1", b"x-c: 3", b"X-B: 2"), [b"X-B: 2"]),
        ((b"X-A: 1", b"Connection: close", b"Connection: X-A", b"X-B: 2"), [b"X-B: 2"]),
        ((b"Connection: keep-alive", b"Connection: X-A", b"X-A: 1"), []),
        ((b"Connection: X-A", b"X-A: 1", b"X-A: 2"), []),
        ((b"Connection: content-length, Host", b"Content-Length: 5"), [b"Content-Length: 5"]),
        ((b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked"), [b"Transfer-Encoding: chunked"]),
        ((b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM"), []),
        ((b"Connection: ,, ,", b"X-A: 1"), [b"X-A: 1"]),
    ],
)
def test_fields_that_connection_names_end_here_but_never_the_framing(
    lines: tuple[bytes, ...], rest: list[bytes]
) -> None:
    assert forwarded(*lines) == rest


@pytest.mark.parametrize(
    ("lines", "length", "rest"),
    [
        ((b"content-LENGTH:  5 ",), None, [b"content-LENGTH:  5 "]),
        ((b"content-LENGTH:  5 ",), 5, [b"content-LENGTH:  5 "]),
        ((b"X-A: 1", b"Content-Length: 5", b"X-B: 2"), 7, [b"X-A: 1", b"Content-Length: 7", b"X-B: 2"]),
        ((b"Content-Length: 5",), 0, [b"Content-Length: 0"]),
        ((b"Transfer-Encoding: Chunked",), None, [b"Transfer-Encoding: Chunked"]),
        ((b"Transfer-Encoding: chunked",), 7, [b"Content-Length: 7"]),
        ((b"Transfer-Encoding: chunked",), 0, [b"Content-Length: 0"]),
        ((), None, []),
        ((), 0, []),
        ((), 7, [b"Content-Length: 7"]),
        ((b"Expect: 100-continue", b"Content-Length: 5"), None, [b"Expect: 100-continue", b"Content-Length: 5"]),
        ((b"Expect: 100-continue", b"Content-Length: 5"), 5, [b"Content-Length: 5"]),
    ],
)
def test_framing(lines: tuple[bytes, ...], length: int | None, rest: list[bytes]) -> None:
    assert forwarded(*lines, length=length) == rest


def test_the_upstream_gets_its_own_host_where_the_clients_stood() -> None:
    head = parse_request_head(b"GET / HTTP/1.1\r\nX-A: 1\r\nhOsT:client\r\nX-B: 2\r\n\r\n")
    assert request_to_upstream(head, UPSTREAM) == (
        b"GET / HTTP/1.1\r\nX-A: 1\r\nHost: " + UPSTREAM + b"\r\nX-B: 2\r\n\r\n"
    )


def test_a_client_without_a_host_and_of_http_1_0() -> None:
    head = request(b"X-A: 1", first=b"GET /x HTTP/1.0", host=b"")
    assert request_to_upstream(head, UPSTREAM) == b"GET /x HTTP/1.1\r\nHost: " + UPSTREAM + b"\r\nX-A: 1\r\n\r\n"


def test_an_absolute_target_goes_on_in_origin_form() -> None:
    head = request(first=b"GET http://a:1/x?y=%2F HTTP/1.1")
    assert request_to_upstream(head, UPSTREAM).startswith(b"GET /x?y=%2F HTTP/1.1\r\n")


NAMES = st.one_of(
    st.text("abcXYZ019-_.!~", min_size=1, max_size=8).map(str.encode),
    st.sampled_from([b"Connection", b"TE", b"Keep-Alive", b"Content-Length", b"X-A", b"x-a", b"Trailer", b"Via"]),
)
VALUES = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=10).map(
        lambda text: text.encode("latin-1")
    ),
    st.sampled_from([b"X-A", b"close, x-a", b"5", b"keep-alive", b"\t x \t"]),
)
LINES = st.lists(st.tuples(NAMES, st.sampled_from([b":", b": ", b":\t"]), VALUES).map(b"".join), max_size=8)


def expected(lines: list[bytes], drop: frozenset[bytes] = frozenset()) -> list[bytes]:
    """By the book: RFC 9110, section 7.6.1."""
    named = HOP_BY_HOP | drop
    pairs = [(line.partition(b":")[0].lower(), line) for line in lines]
    for name, line in pairs:
        if name == b"connection":
            named |= {token.strip(b" \t").lower() for token in line.partition(b":")[2].split(b",")}
    return [line for name, line in pairs if name not in named or name in (b"content-length", b"transfer-encoding")]


@QUICK
@given(LINES)
def test_a_request_goes_on_byte_for_byte(lines: list[bytes]) -> None:
    lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
    assume(not lengths or (len(lengths) == 1 and lengths[0].partition(b":")[2].strip(b" \t") == b"5"))
    assume(not any(line.lower().startswith((b"host:", b"transfer-encoding:")) for line in lines))
    assert forwarded(*lines) == expected(lines)


@QUICK
@given(LINES, st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 404 \xff  x", b"HTTP/1.1 200"]), st.booleans())
def test_an_answer_goes_on_byte_for_byte(lines: list[bytes], first: bytes, close: bool) -> None:
    lines = [line for line in lines if not line.lower().startswith((b"content-length:", b"transfer-encoding:"))]
    answer = parse_response_head(b"\r\n".join((first, *lines)) + b"\r\n\r\n")
    raw = response_to_client(answer, request(), b"X-Ours: 1\r\n", frozenset((b"via",)), close)
    end = [b"Connection: close"] if close else []
    wanted = [first, *expected(lines, frozenset((b"via",))), *end, b"X-Ours: 1"]
    assert raw == b"\r\n".join(wanted) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "first", "close", "wanted"),
    [
        # An HTTP/1.0 client gets its own version and no chunks.
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n",
            b"GET / HTTP/1.0",
            True,
            b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            b"GET / HTTP/1.0",
            False,
            b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
        ),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
            b"GET / HTTP/1.1",
            False,
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\n",
            b"GET / HTTP/1.1",
            False,
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1",
            True,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        ),
    ],
)
def test_versions_and_persistence(answer: bytes, first: bytes, close: bool, wanted: bytes) -> None:
    raw = response_to_client(parse_response_head(answer), request(first=first), b"", frozenset(), close)
    assert raw == wanted
