"""Response heads: what is taken, what is refused, and whether a body follows."""

from __future__ import annotations

import pytest
from http1_support import by_h11, by_us

from sidecar.http1 import MessageError, parse_response_head


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "status", "minor"),
    [
        (b"HTTP/1.1 200 OK", 200, 1),
        (b"HTTP/1.0 200 OK", 200, 0),
        (b"HTTP/1.1 200 ", 200, 1),
        (b"HTTP/1.1 200", 200, 1),
        (b"HTTP/1.1 404 Not  Found", 404, 1),
        (b"HTTP/1.1 500 \xe4\xf6\xfc\t!", 500, 1),
        (b"HTTP/1.1 100 Continue", 100, 1),
        (b"HTTP/1.1 599 x", 599, 1),
    ],
)
def test_a_valid_status_line_is_taken_as_it_came(line: bytes, status: int, minor: int) -> None:
    response = parse_response_head(head(line, b"Content-Length: 0"))
    assert (response.status, response.minor, response.status_line) == (status, minor, line)


BAD_STATUS_LINES = [
    *(
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1  200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200\tOK",
    ),
    *(
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 -20 OK",
        b"HTTP/1.1 2 0 OK",
    ),
    *(b"HTTP/1.1 0x2 OK", b"HTTP/1.1 2\xb20 OK", b"HTTP/1.1 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 20a OK"),
    *(b"HTTP/1.1 000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 600 OK", b"HTTP/1.1 999 OK"),
    *(
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/0.9 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.10 200 OK",
        b"ICY 200 OK",
    ),
    *(b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\x7fK", b"HTTP/1.1 200 O\nK", b"HTTP/1.1 200 O\rK", b"200 OK"),
    b"HTTP/1.10 200 OK",
]
BAD_FIELDS = [
    *(b"X-A", b": x", b"X-A : x", b" X-A: x", b"X A: x", b"X-A: x\r\n y", b"X-A: x\ny", b"X-A: x\ry", b"X-A: \x00"),
    *(b"X-\xc3\xa9: x", b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
    *(
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: -1",
        b"Content-Length:",
        b"Content-Length: 5x",
    ),
    *(
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, chunked"),
    *(b"Transfer-Encoding:", b"Transfer-Encoding: chunked\t", b"Transfer-Encoding: xchunked"),
]


@pytest.mark.parametrize("line", BAD_STATUS_LINES)
def test_a_bad_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(MessageError):
        parse_response_head(head(line, b"X-A: b"))


@pytest.mark.parametrize("line", BAD_FIELDS)
def test_a_bad_field_is_refused(line: bytes) -> None:
    with pytest.raises(MessageError):
        parse_response_head(head(b"HTTP/1.1 200 OK", line))


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [
        (b"200", b"GET", True),
        (b"200", b"HEAD", False),
        (b"404", b"HEAD", False),
        (b"204", b"POST", False),
        (b"304", b"GET", False),
        (b"100", b"POST", False),
        (b"103", b"POST", False),
        (b"500", b"POST", True),
    ],
)
def test_whether_a_body_follows(status: bytes, method: bytes, expected: bool) -> None:
    raw = head(b"HTTP/1.1 " + status + b" x", b"Content-Length: 5")
    assert parse_response_head(raw).has_body(method) is expected


@pytest.mark.parametrize("status", [b"200", b"204", b"304", b"404"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_h11_agrees_whether_a_body_follows(status: bytes, method: str) -> None:
    raw = head(b"HTTP/1.1 " + status + b" x", b"Content-Length: 5")
    theirs = by_h11(raw, response=True, method=method)
    assert theirs is not None
    assert parse_response_head(raw).has_body(method.encode()) is not theirs.complete


@pytest.mark.parametrize(
    ("lines", "keep_alive"),
    [
        ((b"HTTP/1.1 200 OK",), True),
        ((b"HTTP/1.1 200 OK", b"Connection: close"), False),
        ((b"HTTP/1.0 200 OK",), False),
        ((b"HTTP/1.0 200 OK", b"Connection: Keep-Alive"), True),
        # RFC 9112, section 6.1: what follows such an answer is anyone's guess.
        ((b"HTTP/1.0 200 OK", b"Connection: keep-alive", b"Transfer-Encoding: chunked"), False),
        ((b"HTTP/1.1 200 OK", b"Connection: keep-alive", b"Transfer-Encoding: chunked"), True),
    ],
)
def test_persistence(lines: tuple[bytes, ...], keep_alive: bool) -> None:
    assert parse_response_head(head(*lines)).keep_alive is keep_alive


def test_a_response_without_a_length_ends_with_its_connection() -> None:
    ours = by_us(b"HTTP/1.1 200 OK\r\n\r\nall of it", response=True)
    assert ours is not None
    assert (ours.body, ours.complete) == (b"all of it", False)


def test_a_refusal_does_not_quote_the_line() -> None:
    with pytest.raises(MessageError) as caught:
        parse_response_head(head(b"HTTP/1.1 200 OK", b"Set-Cookie s3cr3t"))
    assert "s3cr3t" not in caught.value.message
