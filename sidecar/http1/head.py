"""Request and response heads (RFC 9112, sections 2 to 6): strict in, byte for byte out.

Strict means: CRLF alone ends a line, no folded lines, no space before a colon, no control characters, one
Content-Length of digits or `Transfer-Encoding: chunked`, never both. Two servers that read such a head agree on it.
"""

from __future__ import annotations

from sidecar.http1.errors import MessageError

Field = tuple[bytes, bytes, bytes]
"""One header line: the name in lower case, the value without outer blanks, and the line as it came (no CRLF)."""

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LINE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
_TARGET_BYTES = bytes([*range(0x21, 0x7F), *range(0x80, 0x100)])
_MAX_NAMES = 1024
_MAX_LENGTH_DIGITS = 18
_NO_BODY_STATUS = frozenset((204, 304))

# Apps send the same few lines over and over: each is checked once and kept. Bounded, so that a client that invents
# names cannot grow it; long lines are not kept, nor are those that may hold a secret.
_names: dict[bytes, bytes] = {}
_seen: dict[bytes, Field] = {}
_request_lines: dict[bytes, tuple[bytes, bytes, int]] = {}
_status_lines: dict[bytes, int] = {}
_MAX_SEEN = 512
_MAX_SEEN_LINE = 128
_SECRET = frozenset((b"authorization", b"cookie", b"set-cookie", b"proxy-authorization", b"x-api-key"))


class Fields:
    """Header fields in the order, case and number in which they came."""

    __slots__ = ("fields", "first", "repeated")

    def __init__(self, fields: list[Field], first: dict[bytes, bytes], repeated: frozenset[bytes]) -> None:
        self.fields = fields
        self.first = first
        self.repeated = repeated

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name."""
        return self.first.get(name)

    def all(self, name: bytes) -> list[bytes]:
        """Every value of the field with this lower-case name, in order."""
        if name not in self.repeated:
            value = self.first.get(name)
            return [] if value is None else [value]
        return [value for lower, value, _ in self.fields if lower == name]

    def tokens(self, name: bytes) -> frozenset[bytes]:
        """The comma-separated members of a list field such as Connection, in lower case."""
        if name not in self.first:
            return frozenset()
        members = b",".join(self.all(name)).lower().split(b",")
        return frozenset(member.strip(b" \t") for member in members) - {b""}


class RequestHead(Fields):
    """One request's head. `target` is in origin form (or `*`), whatever form it came in.

    `content_length` is None without that field; `chunked` says that the body is framed by chunks; `minor` is the
    minor HTTP version, 0 or 1; `authority` is the host that the client meant: the target's, else the Host field.
    """

    __slots__ = (
        "authority",
        "chunked",
        "content_length",
        "expects_continue",
        "keep_alive",
        "method",
        "minor",
        "path",
        "query",
        "target",
    )

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    minor: int
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    authority: bytes

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)


class ResponseHead(Fields):
    """One response's head. `status_line` is the line as it came, without CRLF."""

    __slots__ = ("chunked", "content_length", "keep_alive", "minor", "status", "status_line")

    status: int
    status_line: bytes
    minor: int
    content_length: int | None
    chunked: bool
    keep_alive: bool

    def has_body(self, method: bytes) -> bool:
        """Whether bytes follow the head, by the status and the request's method (RFC 9112, section 6.3)."""
        return method != b"HEAD" and self.status >= 200 and self.status not in _NO_BODY_STATUS


def parse_request_head(head: bytes) -> RequestHead:
    """Reads a head of bytes that ends with its empty line.

    Raises MessageError with the status for the client: 400, 405 (CONNECT, TRACE), 501 (a transfer coding that we do
    not have) or 505 (not HTTP/1).
    """
    lines = _lines(head)
    line = lines[0]
    method, target, minor = _request_lines.get(line) or _read_request_line(line)
    request = RequestHead(*_fields(lines))
    request.minor = minor
    request.method = method
    _set_target(request, target)
    _set_framing(request)
    if request.chunked and minor == 0:
        raise MessageError("HTTP/1.0 has no Transfer-Encoding")
    request.keep_alive = _keep_alive(request, minor)
    expect = request.first.get(b"expect")
    request.expects_continue = expect is not None and minor == 1 and expect.lower() == b"100-continue"
    return request


def _read_request_line(line: bytes) -> tuple[bytes, bytes, int]:
    _check_line(line)
    parts = line.split(b" ")
    if len(parts) != 3:
        raise MessageError("the request line is not 'METHOD target HTTP/1.1'")
    method, target, version = parts
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    elif version.startswith(b"HTTP/") and len(version) == 8:
        raise MessageError("this HTTP version is not served here; use HTTP/1.1", 505)
    else:
        raise MessageError("the request line does not end with an HTTP version")
    _names.get(method) or _admit(method, "method")
    if method in (b"CONNECT", b"TRACE"):
        raise MessageError(f"{method.decode()} is not served here", 405)
    if not target or target.translate(None, _TARGET_BYTES):
        raise MessageError("the request target is empty or has a character that is not allowed in it")
    if len(line) <= _MAX_SEEN_LINE and b"?" not in target:
        if len(_request_lines) >= _MAX_SEEN:
            _request_lines.clear()
        _request_lines[line] = (method, target, minor)
    return method, target, minor


def parse_response_head(head: bytes) -> ResponseHead:
    """Reads a response's head of bytes that ends with its empty line. Raises MessageError."""
    lines = _lines(head)
    line = lines[0]
    status = _status_lines.get(line) or _read_status_line(line)
    response = ResponseHead(*_fields(lines))
    response.status_line = line
    response.status = status
    response.minor = line[7] - 0x30
    _set_framing(response)
    # HTTP/1.0 has no Transfer-Encoding: what follows such an answer is anyone's guess (RFC 9112, section 6.1).
    response.keep_alive = _keep_alive(response, response.minor) and not (response.chunked and response.minor == 0)
    return response


def _read_status_line(line: bytes) -> int:
    _check_line(line)
    code = line[9:12]
    if not (line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) and code.isdigit() and line[12:13] in (b"", b" ")):
        raise MessageError("the upstream's status line is not HTTP/1", 502)
    if not b"100" <= code < b"600":
        raise MessageError("the upstream's status is none of HTTP", 502)
    if len(line) <= _MAX_SEEN_LINE:
        if len(_status_lines) >= _MAX_SEEN:
            _status_lines.clear()
        _status_lines[line] = int(code)
    return int(code)


def _lines(head: bytes) -> list[bytes]:
    return head[:-4].split(b"\r\n")


def _check_line(line: bytes) -> None:
    """Every line is checked that has not been seen before."""
    strange = line.translate(None, _LINE_BYTES)
    if not strange:
        return
    if b"\n" in strange or b"\r" in strange:
        raise MessageError("a line of the header section does not end with CRLF alone")
    raise MessageError("there is a control character in the header section")


def _fields(lines: list[bytes]) -> tuple[list[Field], dict[bytes, bytes], frozenset[bytes]]:
    fields: list[Field] = []
    first: dict[bytes, bytes] = {}
    repeated: set[bytes] | None = None
    seen = _seen
    for line in lines[1:]:
        field = seen.get(line) or _read_field(line)
        fields.append(field)
        lower = field[0]
        if lower not in first:
            first[lower] = field[1]
        elif repeated is None:
            repeated = {lower}
        else:
            repeated.add(lower)
    return fields, first, frozenset(repeated) if repeated else _NONE_REPEATED


_NONE_REPEATED: frozenset[bytes] = frozenset()


def _read_field(line: bytes) -> Field:
    _check_line(line)
    name, colon, value = line.partition(b":")
    if not colon:
        raise MessageError("a header line has no colon")
    lower = _names.get(name) or _admit(name, "header name")
    field = (lower, value.strip(b" \t"), line)
    if len(line) <= _MAX_SEEN_LINE and lower not in _SECRET:
        if len(_seen) >= _MAX_SEEN:
            _seen.clear()  # what is in use comes back at once
        _seen[line] = field
    return field


def _admit(name: bytes, what: str) -> bytes:
    if not name or not TOKEN.issuperset(name):
        # A folded line and a blank before the colon end here too: a blank is no token character.
        raise MessageError(f"a {what} is empty or has a character that is not allowed in it")
    lower = name.lower()
    if len(_names) < _MAX_NAMES and len(name) <= 64:
        _names[name] = lower
    return lower


def _set_target(request: RequestHead, target: bytes) -> None:
    authority = request.first.get(b"host")
    if b"host" in request.repeated:
        raise MessageError("there is more than one Host header")
    if authority is None:
        if request.minor == 1:
            raise MessageError("HTTP/1.1 needs a Host header")
        authority = b""
    if target[:1] != b"/":
        if target == b"*":
            if request.method != b"OPTIONS":
                raise MessageError("the target * is for OPTIONS alone")
        else:
            # Absolute form (RFC 9112, section 3.2.2): the target's authority wins over Host.
            scheme, separator, rest = target.partition(b"://")
            if not separator or scheme.lower() not in (b"http", b"https"):
                raise MessageError("the request target is neither a path nor an http URL")
            cut = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
            authority, target = rest[:cut], rest[cut:]
            if not authority or b"@" in authority:
                raise MessageError("the request target's authority is not a host")
            if not target and request.method == b"OPTIONS":
                target = b"*"  # of the server as a whole (RFC 9112, section 3.2.4)
            elif target[:1] != b"/":
                target = b"/" + target
    request.authority = authority
    request.target = target
    request.path, _, request.query = target.partition(b"?")


def _set_framing(head: RequestHead | ResponseHead) -> None:
    length = head.first.get(b"content-length")
    coding = head.first.get(b"transfer-encoding")
    head.content_length = None
    head.chunked = False
    if coding is not None:
        if length is not None:
            raise MessageError("Content-Length and Transfer-Encoding together say two lengths")
        if b"transfer-encoding" in head.repeated:
            raise MessageError("there is more than one Transfer-Encoding header")
        if coding.lower() != b"chunked":
            raise MessageError("the only transfer coding served here is chunked", 501)
        if any(b"\t" in line for name, _, line in head.fields if name == b"transfer-encoding"):
            # Blanks by the RFC, but llhttp takes `chunked` with a tab behind it for another coding.
            raise MessageError("there is a tab in the Transfer-Encoding header")
        head.chunked = True
    elif length is not None:
        if b"content-length" in head.repeated:
            raise MessageError("there is more than one Content-Length header")
        if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
            raise MessageError("Content-Length is not a number")
        head.content_length = int(length)


def _keep_alive(head: Fields, minor: int) -> bool:
    value = head.first.get(b"connection")
    if value is None or (value == b"keep-alive" and b"connection" not in head.repeated):
        return minor == 1 or value is not None
    tokens = head.tokens(b"connection")
    return b"close" not in tokens and (minor == 1 or b"keep-alive" in tokens)
