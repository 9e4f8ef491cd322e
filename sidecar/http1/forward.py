"""Heads on their way through a proxy: what is ours to drop (RFC 9110, section 7.6.1), all else as it came."""

from __future__ import annotations

from sidecar.http1.head import Fields, RequestHead, ResponseHead

# Upgrade and HTTP2-Settings: Java's client offers h2c by default; the call goes on as HTTP/1.1.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
    )
)
# What a request says otherwise to the upstream than to us, or not at all; see `request_to_upstream`.
_CHANGED = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect", b"origin"))
_NEVER_NAMED = frozenset((b"content-length", b"transfer-encoding", b"host"))


def dropped_names(head: Fields) -> frozenset[bytes]:
    """The fields that end here: hop-by-hop ones and those that Connection names, but never the framing."""
    if head.first.get(b"connection", b"keep-alive") == b"keep-alive" and b"connection" not in head.repeated:
        return HOP_BY_HOP
    return HOP_BY_HOP | (head.tokens(b"connection") - _NEVER_NAMED)


def request_to_upstream(head: RequestHead, host: bytes, length: int | None = None) -> bytes:
    """The head as the upstream gets it: its own Host, nothing hop-by-hop, every other line as it came.

    `length` is given where the whole body is in hand, and then frames it; else the client's framing is kept. An
    Origin that is the client's own Host follows it: the request stays one of the same origin (Fetch standard).
    """
    drop = dropped_names(head)
    lines = [b"%b %b HTTP/1.1" % (head.method, head.target)]
    framed = host_seen = False
    for name, value, line in head.fields:
        if name not in _CHANGED:
            if name not in drop:
                lines.append(line)
        elif name == b"host":
            host_seen = True
            lines.append(b"Host: " + host)
        elif name == b"content-length" or name == b"transfer-encoding":
            framed = True
            lines.append(line if length is None or length == head.content_length else b"Content-Length: %d" % length)
        elif name in drop:
            continue
        elif name == b"origin":
            same = value in (b"http://" + head.authority, b"https://" + head.authority)
            lines.append(b"%b: %b//%b" % (line[:6], value.partition(b"//")[0], host) if same else line)
        elif length is None:
            lines.append(line)
    if not host_seen:
        lines.insert(1, b"Host: " + host)
    if length and not framed:
        lines.append(b"Content-Length: %d" % length)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def response_to_client(
    head: ResponseHead, request: RequestHead, ours: bytes, drop: frozenset[bytes], close: bool
) -> bytes:
    """The head as the client gets it: the status line and fields as they came, then `ours` (lines with CRLF).

    `drop` names fields beside the hop-by-hop ones that end here. An HTTP/1.0 client gets its own version, and no
    chunks. `close` says that the connection ends with this answer.
    """
    status_line = head.status_line
    hops = dropped_names(head)
    if request.minor == 0:
        status_line = b"HTTP/1.0" + status_line[8:]
        drop |= {b"transfer-encoding"}
    elif head.minor == 0:
        status_line = b"HTTP/1.1" + status_line[8:]
    lines = [status_line]
    lines += [line for name, _, line in head.fields if name not in hops and name not in drop]
    if close and request.minor == 1:
        lines.append(b"Connection: close")
    elif not close and request.minor == 0:
        lines.append(b"Connection: keep-alive")
    lines.append(ours + b"\r\n")
    return b"\r\n".join(lines)
