"""One inference call on its way: what its stages share."""

from __future__ import annotations

import random
import re

from sidecar.core.decision import NONE
from sidecar.core.record import CallRecord
from sidecar.core.task import Asked
from sidecar.dialects.base import Route
from sidecar.http1 import RequestHead, ResponseHead
from sidecar.http1.forward import response_to_client
from sidecar.proxy.connection import Exchange, Pausable
from sidecar.proxy.relay import Relay
from sidecar.routing.assess import Assessment
from sidecar.routing.policy import Policy

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE = b"0" * 32
_VISIBLE = re.compile(rb"[!-~]{1,128}\Z")
# Ours to set, whatever an upstream says: another sidecar may stand behind this one.
OURS = frozenset(
    (
        b"x-request-id",
        b"x-sidecar-location",
        b"x-sidecar-model",
        b"x-sidecar-reason",
        b"x-sidecar-trace-id",
    )
)


def new_id() -> str:
    """A random id of 32 hexadecimal digits."""
    return f"{random.getrandbits(128):032x}"


def request_id(head: RequestHead) -> str:
    """The client's own X-Request-Id where it is valid, else a new one."""
    given = head.get(b"x-request-id")
    if given is not None and b"x-request-id" not in head.repeated and _VISIBLE.match(given):
        return given.decode("ascii")
    return new_id()


def trace_id(head: RequestHead) -> str:
    """The trace that the client is in (W3C Trace Context), else a new one."""
    parent = head.get(b"traceparent")
    match = _TRACEPARENT.match(parent) if parent is not None else None
    if match is None or match[1] == _NO_TRACE:
        return new_id()
    return match[1].decode("ascii")


class Call:
    """One inference call. `assessment` is there once its body was read; `record` grows with each stage."""

    __slots__ = ("asked", "assessment", "exchange", "extra_headers", "policy", "record", "relay", "route")

    def __init__(self, exchange: Exchange, route: Route, policy: Policy, record: CallRecord, asked: Asked) -> None:
        self.exchange = exchange
        self.route = route
        self.policy = policy
        self.record = record
        self.asked = asked
        self.assessment: Assessment
        self.relay: Relay | None = None
        self.extra_headers = b""

    def headers(self) -> bytes:
        """Our response headers, as lines."""
        record = self.record
        model = f"X-Sidecar-Model: {record.model}\r\n" if record.model and record.location != NONE else ""
        return (
            f"X-Sidecar-Location: {record.location}\r\n{model}X-Sidecar-Reason: {record.reason}\r\n"
            f"X-Sidecar-Trace-Id: {record.trace_id}\r\nX-Request-Id: {record.request_id}\r\n"
        ).encode("ascii") + self.extra_headers

    def begin(self, head: ResponseHead, source: Pausable | None, drop: frozenset[bytes] = OURS) -> None:
        """Starts an upstream's answer, held back for its first bytes. From here on there is no other answer."""
        exchange = self.exchange
        if head.content_length is None and (not head.chunked or exchange.head.minor == 0):
            exchange.close = True  # its end is the connection's end
        self.record.status = head.status
        answer = response_to_client(head, exchange.head, self.headers(), drop, exchange.close)
        exchange.start(answer, source, hold=True)
