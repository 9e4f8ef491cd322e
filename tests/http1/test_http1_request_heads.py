"""Request heads: what is taken, and that everything else is refused with its status."""

from __future__ import annotations

import pytest
from http1_support import by_h11, by_llhttp, by_us

from sidecar.http1 import MessageError, parse_request_head
from sidecar.http1.head import RequestHead

HOST = b"Host: localhost:11434\r\n"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


def get(*lines: bytes) -> bytes:
    return head(b"GET /api/tags HTTP/1.1", b"Host: a", *lines)


def post(*lines: bytes) -> bytes:
    return head(b"POST /api/chat HTTP/1.1", b"Host: a", *lines)


VALID = {
    "plain": (head(b"GET / HTTP/1.1", b"Host: a"), (b"GET", b"/", 1)),
    "http-1.0-without-host": (head(b"GET /x HTTP/1.0"), (b"GET", b"/x", 0)),
    "empty-host": (head(b"GET / HTTP/1.1", b"Host:"), (b"GET", b"/", 1)),
    "any-method-token": (head(b"M-SEARCH! /x HTTP/1.1", b"Host: a"), (b"M-SEARCH!", b"/x", 1)),
    "lower-case-method": (head(b"get /x HTTP/1.1", b"Host: a"), (b"get", b"/x", 1)),
    "query-alone": (head(b"GET /?a=b?c HTTP/1.1", b"Host: a"), (b"GET", b"/?a=b?c", 1)),
    "odd-path-characters": (head(b'GET /a|"<>#b HTTP/1.1', b"Host: a"), (b"GET", b'/a|"<>#b', 1)),
    "double-slash": (head(b"GET //api//x HTTP/1.1", b"Host: a"), (b"GET", b"//api//x", 1)),
    "percent": (head(b"GET /%41%zz HTTP/1.1", b"Host: a"), (b"GET", b"/%41%zz", 1)),
    "utf-8-path": (head(b"GET /\xc3\xa9 HTTP/1.1", b"Host: a"), (b"GET", b"/\xc3\xa9", 1)),
    "absolute-form": (head(b"GET http://b:1/x?y HTTP/1.1", b"Host: a"), (b"GET", b"/x?y", 1)),
    "absolute-form-https": (head(b"GET HTTPS://b/x HTTP/1.1", b"Host: a"), (b"GET", b"/x", 1)),
    "absolute-form-bare": (head(b"GET http://b HTTP/1.1", b"Host: a"), (b"GET", b"/", 1)),
    "absolute-form-query": (head(b"GET http://b?q=1 HTTP/1.1", b"Host: a"), (b"GET", b"/?q=1", 1)),
    "absolute-form-ipv6": (head(b"GET http://[::1]:1/x HTTP/1.1", b"Host: a"), (b"GET", b"/x", 1)),
    "absolute-form-options": (head(b"OPTIONS http://b HTTP/1.1", b"Host: a"), (b"OPTIONS", b"*", 1)),
    "options-asterisk": (head(b"OPTIONS * HTTP/1.1", b"Host: a"), (b"OPTIONS", b"*", 1)),
    "empty-value": (get(b"X-A:"), (b"GET", b"/api/tags", 1)),
    "tab-in-value": (get(b"X-A: a\tb"), (b"GET", b"/api/tags", 1)),
    "obs-text-in-value": (get(b"X-A: \x80\xff"), (b"GET", b"/api/tags", 1)),
    "colon-in-value": (get(b"X-A: b: c"), (b"GET", b"/api/tags", 1)),
    "token-characters-in-name": (get(b"!#$%&'*+-.^_`|~09azAZ: x"), (b"GET", b"/api/tags", 1)),
    "repeated-field": (get(b"X-A: 1", b"x-a: 2"), (b"GET", b"/api/tags", 1)),
    "other-expectation": (get(b"Expect: nothing"), (b"GET", b"/api/tags", 1)),
    "upgrade": (get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), (b"GET", b"/api/tags", 1)),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_head_is_taken(name: str) -> None:
    raw, (method, target, minor) = VALID[name]
    request = parse_request_head(raw)
    assert (request.method, request.target, request.minor) == (method, target, minor)
    path, _, query = target.partition(b"?")
    assert (request.path, request.query) == (path, query)


# The method, the target and the version.
BAD_REQUEST_LINES = {
    "empty": b"",
    "method-alone": b"GET",
    "no-version": b"GET /x",
    "no-target": b"GET HTTP/1.1",
    "no-method": b"/x HTTP/1.1",
    "empty-method": b" /x HTTP/1.1",
    "empty-target": b"GET  HTTP/1.1",
    "two-blanks-before-target": b"GET  /x HTTP/1.1",
    "two-blanks-before-version": b"GET /x  HTTP/1.1",
    "blank-in-target": b"GET /x y HTTP/1.1",
    "blank-behind": b"GET /x HTTP/1.1 ",
    "blank-before": b" GET /x HTTP/1.1",
    "tab-as-separator": b"GET\t/x\tHTTP/1.1",
    "tab-behind": b"GET /x HTTP/1.1\t",
    "tab-in-target": b"GET /x\ty HTTP/1.1",
    "colon-in-method": b"GE:T /x HTTP/1.1",
    "at-in-method": b"G@T /x HTTP/1.1",
    "quote-in-method": b'"GET" /x HTTP/1.1',
    "utf-8-method": b"G\xc3\x89T /x HTTP/1.1",
    "relative-target": b"GET x HTTP/1.1",
    "query-as-target": b"GET ?x HTTP/1.1",
    "fragment-as-target": b"GET #x HTTP/1.1",
    "authority-as-target": b"GET localhost:80 HTTP/1.1",
    "asterisk-for-get": b"GET * HTTP/1.1",
    "asterisk-and-more": b"OPTIONS *x HTTP/1.1",
    "other-scheme": b"GET ftp://a/x HTTP/1.1",
    "file-scheme": b"GET file:///etc/passwd HTTP/1.1",
    "scheme-alone": b"GET http: HTTP/1.1",
    "no-authority": b"GET http:///x HTTP/1.1",
    "no-authority-but-query": b"GET http://?x HTTP/1.1",
    "one-slash": b"GET http:/x HTTP/1.1",
    "userinfo": b"GET http://user@a/x HTTP/1.1",
    "userinfo-with-password": b"GET http://u:p@a/x HTTP/1.1",
    "empty-userinfo": b"GET http://@a/x HTTP/1.1",
    "backslash-target": b"GET \\x HTTP/1.1",
    "version-lower-case": b"GET /x http/1.1",
    "version-http": b"GET /x HTTP",
    "version-slash": b"GET /x HTTP/",
    "version-one-digit": b"GET /x HTTP/1",
    "version-two-dots": b"GET /x HTTP/1.1.1",
    "version-long-minor": b"GET /x HTTP/1.10",
    "version-blank": b"GET /x HTTP /1.1",
    "version-other-protocol": b"GET /x HTTQ/1.1",
    "version-icap": b"GET /x ICAP/1.0",
    "version-plus": b"GET /x +HTTP/1.1",
}
BAD_LINES = {
    "no-colon": b"X-A",
    "empty-name": b": x",
    "blank-before-colon": b"X-A : x",
    "tab-before-colon": b"X-A\t: x",
    "blank-before-name": b" X-A: x",
    "tab-before-name": b"\tX-A: x",
    "folded": b"X-A: x\r\n y",
    "folded-with-tab": b"X-A: x\r\n\ty",
    "folded-empty": b"X-A: x\r\n ",
    "folded-host": b"X-A: x\r\n Host: b",
    "blank-in-name": b"X A: x",
    "quote-in-name": b'X"A: x',
    "parenthesis-in-name": b"X(A): x",
    "comma-in-name": b"X,A: x",
    "slash-in-name": b"X/A: x",
    "at-in-name": b"X@A: x",
    "bracket-in-name": b"X[A]: x",
    "equals-in-name": b"X=A: x",
    "utf-8-name": b"X-\xc3\xa9: x",
    "obs-text-name": b"X-\x80: x",
    "bare-lf-in-value": b"X-A: x\ny",
    "bare-cr-in-value": b"X-A: x\ry",
    "bare-cr-at-the-end": b"X-A: x\r",
    "bare-lf-at-the-end": b"X-A: x\n",
    "bare-lf-as-line-end": b"X-A: x\nX-B: y",
    "bare-lf-smuggles-a-field": b"X-A: x\nTransfer-Encoding: chunked",
    "lf-cr": b"X-A: x\n\rX-B: y",
    "cr-cr-lf": b"X-A: x\r\r\nX-B: y",
    "cr-lf-lf": b"X-A: x\r\n\nX-B: y",
    "nul-in-value": b"X-A: x\x00y",
    "nul-in-name": b"X\x00A: x",
    "bell-in-value": b"X-A: \x07",
    "backspace-in-value": b"X-A: \x08",
    "vertical-tab-in-value": b"X-A: \x0b",
    "form-feed-in-value": b"X-A: \x0c",
    "escape-in-value": b"X-A: \x1b[31m",
    "delete-in-value": b"X-A: \x7f",
    "unit-separator-in-name": b"X\x1fA: x",
    "two-hosts": b"Host: b",
    "two-hosts-alike": b"Host: a",
    "two-hosts-other-case": b"hOST: a",
    "host-with-blank": b"Host : a",
}
# Without a Content-Length these are of a request that has none; 501 for a coding that we do not have.
BAD_FRAMING = {
    "length-empty": b"Content-Length:",
    "length-plus": b"Content-Length: +5",
    "length-minus": b"Content-Length: -5",
    "length-hexadecimal": b"Content-Length: 0x5",
    "length-octal-look": b"Content-Length: 0o5",
    "length-float": b"Content-Length: 5.0",
    "length-exponent": b"Content-Length: 5e0",
    "length-underscore": b"Content-Length: 5_0",
    "length-blank-inside": b"Content-Length: 5 0",
    "length-tab-inside": b"Content-Length: 5\t0",
    "length-list": b"Content-Length: 5, 5",
    "length-list-with-blanks": b"Content-Length: 5 , 5",
    "length-list-that-differs": b"Content-Length: 5, 6",
    "length-list-end": b"Content-Length: 5,",
    "length-quoted": b'Content-Length: "5"',
    "length-letters": b"Content-Length: five",
    "length-superscript": b"Content-Length: 5\xb2",
    "length-fullwidth": "Content-Length: ５".encode(),
    "length-huge": b"Content-Length: 9999999999999999999",
    "length-beyond-64-bits": b"Content-Length: 18446744073709551621",
    "length-of-many-digits": b"Content-Length: " + b"9" * 5000,
    "length-of-many-zeros": b"Content-Length: " + b"0" * 30 + b"5",
    "length-semicolon": b"Content-Length: 5;",
    "length-twice-alike": b"Content-Length: 5\r\nContent-Length: 5",
    "length-twice": b"Content-Length: 5\r\nContent-Length: 6",
    "length-twice-other-case": b"Content-Length: 5\r\ncontent-length: 5",
    "length-and-coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "coding-and-length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    "coding-and-no-length": b"Transfer-Encoding: chunked\r\nContent-Length: 0",
    "coding-and-bad-length": b"Transfer-Encoding: chunked\r\nContent-Length: x",
    "identity-and-length": b"Transfer-Encoding: identity\r\nContent-Length: 5",
    "coding-twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "coding-twice-identity": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "coding-twice-identity-first": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "coding-with-blank-before-colon": b"Transfer-Encoding : chunked",
    "coding-behind-a-fold": b"Transfer-Encoding:\r\n chunked",
    "coding-behind-vertical-tab": b"Transfer-Encoding: \x0bchunked",
    "coding-with-tab-behind": b"Transfer-Encoding: chunked\t",
    "coding-with-tab-before": b"Transfer-Encoding:\tchunked",
    "coding-with-nul": b"Transfer-Encoding: chunked\x00",
}
UNKNOWN_CODINGS = {
    "coding-empty": b"Transfer-Encoding:",
    "coding-unknown": b"Transfer-Encoding: gzip",
    "coding-list": b"Transfer-Encoding: gzip, chunked",
    "coding-list-reversed": b"Transfer-Encoding: chunked, gzip",
    "coding-chunked-twice": b"Transfer-Encoding: chunked, chunked",
    "coding-list-empty-member": b"Transfer-Encoding: ,chunked",
    "coding-list-end": b"Transfer-Encoding: chunked,",
    "coding-identity": b"Transfer-Encoding: identity",
    "coding-prefixed": b"Transfer-Encoding: xchunked",
    "coding-suffixed": b"Transfer-Encoding: chunkedx",
    "coding-parameter": b"Transfer-Encoding: chunked;a=b",
    "coding-quoted": b'Transfer-Encoding: "chunked"',
    "coding-blank-inside": b"Transfer-Encoding: chun ked",
    "coding-obs-text": b"Transfer-Encoding: chunked\xa0",
}
NO_HOST = {
    "no-host": head(b"GET / HTTP/1.1"),
    "no-host-but-fields": head(b"GET / HTTP/1.1", b"X-Host: a"),
    "no-host-absolute-form": head(b"GET http://a/ HTTP/1.1"),
}
# Whole heads: the parts that only show beside others.
BAD_HEADS = {
    "bare-lf-everywhere": b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n",
    "bare-lf-behind-request-line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare-cr-behind-request-line": b"GET / HTTP/1.1\rHost: a\r\n\r\n",
    "bare-cr-before-the-end": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "bare-lf-before-the-end": b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n",
    "byte-order-mark": b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty-line-alone": b"\r\n\r\n",
    "http-1.0-with-coding": head(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"),
    "http-1.0-with-coding-kept-alive": head(
        b"POST / HTTP/1.0", b"Connection: keep-alive", b"Transfer-Encoding: chunked"
    ),
    "http-1.0-two-hosts": head(b"GET / HTTP/1.0", b"Host: a", b"Host: b"),
    "nul-target": head(b"GET /\x00 HTTP/1.1", b"Host: a"),
    "delete-in-target": head(b"GET /\x7f HTTP/1.1", b"Host: a"),
}
REFUSED_METHODS = {
    "connect": head(b"CONNECT a:443 HTTP/1.1", b"Host: a:443"),
    "connect-with-path": head(b"CONNECT /x HTTP/1.1", b"Host: a"),
    "trace": head(b"TRACE / HTTP/1.1", b"Host: a"),
    "trace-with-body": head(b"TRACE / HTTP/1.1", b"Host: a", b"Content-Length: 5"),
}
OTHER_VERSIONS = {
    "http-2": head(b"GET / HTTP/2.0", b"Host: a"),
    "http-2-preface": head(b"PRI * HTTP/2.0"),
    "http-0.9": head(b"GET / HTTP/0.9", b"Host: a"),
    "http-1.2": head(b"GET / HTTP/1.2", b"Host: a"),
    "http-1.9": head(b"GET / HTTP/1.9", b"Host: a"),
    "http-9.9": head(b"GET / HTTP/9.9", b"Host: a"),
    "http-letter": head(b"GET / HTTP/1.x", b"Host: a"),
}
REFUSED: dict[str, tuple[bytes, int]] = {
    **{f"line-{name}": (head(line, b"Host: a"), 400) for name, line in BAD_REQUEST_LINES.items()},
    **{f"field-{name}": (get(line), 400) for name, line in BAD_LINES.items()},
    **{f"framing-{name}": (post(line), 400) for name, line in BAD_FRAMING.items()},
    **{f"framing-{name}": (post(line), 501) for name, line in UNKNOWN_CODINGS.items()},
    **{name: (raw, 400) for name, raw in (NO_HOST | BAD_HEADS).items()},
    **{name: (raw, 405) for name, raw in REFUSED_METHODS.items()},
    **{name: (raw, 505) for name, raw in OTHER_VERSIONS.items()},
}
SECRET = b"s3cr3t-9f"


def test_the_table_is_large() -> None:
    assert len(REFUSED) >= 100


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_or_ambiguous_head_is_refused(name: str) -> None:
    raw, status = REFUSED[name]
    with pytest.raises(MessageError) as caught:
        parse_request_head(raw)
    assert caught.value.status == status


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_once_is_refused_again(name: str) -> None:
    # Lines that passed are kept for the next head; a refusal must not leave anything there.
    raw, _ = REFUSED[name]
    for _ in range(2):
        with pytest.raises(MessageError):
            parse_request_head(raw)


@pytest.mark.parametrize("line", [b"Authorization: Bearer " + SECRET + b"\x00", b"X " + SECRET, b"Host: " + SECRET])
def test_a_refusal_does_not_quote_the_line(line: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        parse_request_head(get(line))
    assert SECRET.decode() not in caught.value.message


@pytest.mark.parametrize("name", sorted(set(VALID) - {"any-method-token", "lower-case-method", "utf-8-path"}))
def test_the_valid_ones_are_valid_to_others_too(name: str) -> None:
    # llhttp has a list of methods; both refuse UTF-8 in a path, which Go's server takes.
    raw, _ = VALID[name]
    assert by_h11(raw) is not None
    assert by_llhttp(raw) is not None
    assert by_us(raw) is not None


def parsed(*lines: bytes, first: bytes = b"POST /api/chat HTTP/1.1") -> RequestHead:
    return parse_request_head(head(first, *((b"Host: a",) if first.endswith(b"1") else ()), *lines))


@pytest.mark.parametrize(
    ("lines", "length", "chunked"),
    [
        ((), None, False),
        ((b"Content-Length: 0",), 0, False),
        ((b"Content-Length:5",), 5, False),
        ((b"CONTENT-LENGTH: \t5 \t",), 5, False),
        ((b"Content-Length: 007",), 7, False),
        ((b"Content-Length: 999999999999999999",), 999999999999999999, False),
        ((b"Transfer-Encoding: chunked",), None, True),
        ((b"transfer-encoding:  Chunked ",), None, True),
        ((b"Transfer-Encoding: CHUNKED",), None, True),
    ],
)
def test_framing(lines: tuple[bytes, ...], length: int | None, chunked: bool) -> None:
    request = parsed(*lines)
    assert (request.content_length, request.chunked) == (length, chunked)
    assert request.has_body is (chunked or bool(length))


@pytest.mark.parametrize(
    ("lines", "http_1_1", "http_1_0"),
    [
        ((), True, False),
        ((b"Connection: keep-alive",), True, True),
        ((b"Connection: Keep-Alive",), True, True),
        ((b"Connection: close",), False, False),
        ((b"Connection: CLOSE",), False, False),
        ((b"Connection: x-a, close",), False, False),
        ((b"Connection: keep-alive, close",), False, False),
        ((b"Connection: keep-alive", b"Connection: close"), False, False),
        ((b"Connection: x-a", b"Connection: keep-alive"), True, True),
        ((b"Connection: ",), True, False),
        ((b"Connection: closed",), True, False),
    ],
)
def test_persistence(lines: tuple[bytes, ...], http_1_1: bool, http_1_0: bool) -> None:
    assert parsed(*lines).keep_alive is http_1_1
    assert parsed(*lines, first=b"GET / HTTP/1.0").keep_alive is http_1_0


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b"Expect: 100-continue", True), (b"Expect: 100-Continue", True), (b"Expect: 100", False), (b"X: y", False)],
)
def test_expectation(line: bytes, expected: bool) -> None:
    assert parsed(line).expects_continue is expected
    assert parsed(line, first=b"POST / HTTP/1.0").expects_continue is False


@pytest.mark.parametrize(
    ("first", "host", "authority"),
    [
        (b"GET / HTTP/1.1", b"a:1", b"a:1"),
        (b"GET http://b:2/x HTTP/1.1", b"a:1", b"b:2"),
        (b"GET http://evil HTTP/1.1", b"localhost", b"evil"),
        (b"OPTIONS http://b HTTP/1.1", b"a", b"b"),
        (b"OPTIONS * HTTP/1.1", b"a", b"a"),
        (b"GET http://b#c/x HTTP/1.1", b"a", b"b#c"),
    ],
)
def test_the_targets_authority_wins_over_the_host(first: bytes, host: bytes, authority: bytes) -> None:
    assert parse_request_head(head(first, b"Host: " + host)).authority == authority


def test_fields_keep_order_case_and_repeats() -> None:
    request = parsed(b"X-B:  1 ", b"x-a:2", b"X-B:3")
    assert [line for _, _, line in request.fields] == [b"Host: a", b"X-B:  1 ", b"x-a:2", b"X-B:3"]
    assert request.get(b"x-b") == b"1"
    assert request.all(b"x-b") == [b"1", b"3"]
    assert request.all(b"x-a") == [b"2"]
    assert request.all(b"x-c") == []
    assert request.repeated == {b"x-b"}


def test_tokens_of_a_list_field() -> None:
    assert parsed(b"Connection: A , b,,", b"Connection:\tC").tokens(b"connection") == {b"a", b"b", b"c"}
    assert parsed().tokens(b"connection") == frozenset()


def test_what_is_kept_of_earlier_heads_does_not_change_a_later_one() -> None:
    # More different lines than are kept, so that the memory turns over.
    for number in range(3000):
        value = b"%d" % number
        request = parsed(b"X-%d: %b" % (number, value), b"X-Same: y", b"Authorization: " + value)
        assert request.get(b"x-%d" % number) == value
        assert request.get(b"x-same") == b"y"
        assert request.get(b"authorization") == value
