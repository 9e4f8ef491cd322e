"""The one door to the cloud. No other code holds the cloud's address, its key or a connection to it.

The door takes a permit that is bound to the classified bytes, makes the edits itself, and sends nothing of the
client's head but what is on its own short list.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sidecar.core.call import Facts
from sidecar.core.permit import Permit, PermitError, PermitOffice
from sidecar.dialects.base import Route
from sidecar.dialects.edits import cloud_body
from sidecar.http1 import ResponseHead
from sidecar.upstream.breaker import Breaker, BreakerSettings
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.pool import Origin, Pool

# What of the app's own head the cloud may see: these values, which are no text of anybody's.
_ANTHROPIC_VERSIONS = frozenset((b"2023-01-01", b"2023-06-01"))
# Without a Retry-After this long, doubled with each refusal in a row up to the second figure.
RATE_SECONDS = 2.0
RATE_MOST_SECONDS = 600.0
# The longest Retry-After that is believed: a weekly limit may ask for days, and the key may be changed meanwhile.
RETRY_AFTER_MOST_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class CloudSettings:
    """`timeout_seconds` is for the first byte and between bytes; there is no bound on the whole."""

    base_url: str
    connect_seconds: float
    timeout_seconds: float
    breaker: BreakerSettings


@dataclass(slots=True)
class CloudCall:
    """What is to be sent: the classified body with its reading, and the bounds that were paid for.

    `sent` turns True when its first byte may have left: from then on it may be billed.
    """

    route: Route
    raw: bytes
    value: dict[str, Any]
    facts: Facts
    model: str
    cap: int
    anthropic_version: bytes | None = None
    sent: bool = False


class CloudDoor:
    """Opens cloud calls. `generation` is that of the settings in force."""

    def __init__(self, settings: CloudSettings, office: PermitOffice, api_key: str, user_agent: str) -> None:
        self.settings = settings
        self.generation = 0
        self.breaker = Breaker(settings.breaker)
        self._office = office
        self._key = api_key
        self._user_agent = user_agent
        self._pool = Pool(Origin.of(settings.base_url), settings.connect_seconds)
        self._loop = asyncio.get_running_loop()
        self._rate_until = float("-inf")
        self._refusals = 0

    def set_key(self, api_key: str) -> None:
        """A new key for the calls that come; those under way end with the old one."""
        self._key = api_key

    def change(self, settings: CloudSettings, generation: int) -> None:
        """New settings. Permits of the earlier ones are no longer good."""
        if (settings.base_url, settings.connect_seconds) != (self.settings.base_url, self.settings.connect_seconds):
            self._pool.close()
            self._pool = Pool(Origin.of(settings.base_url), settings.connect_seconds)
        self.breaker.settings = settings.breaker
        self.settings = settings
        self.generation = generation

    # Whether a call may go now.

    @property
    def rate_limited(self) -> bool:
        return self._loop.time() < self._rate_until

    def admit(self) -> int:
        """A ticket for one call, for `leave`; 0 where the circuit is open."""
        return self.breaker.admit(self._loop.time())

    def leave(self, ticket: int) -> None:
        self.breaker.leave(ticket)

    # The call.

    async def send(self, permit: Permit, call: CloudCall) -> tuple[UpstreamConnection, ResponseHead]:
        """Sends the call and waits for the head of its answer. The caller closes or drains the connection.

        Raises PermitError, NotEditableError (nothing was sent) and UpstreamError.
        """
        self._office.redeem(permit, call.raw, self.generation)
        body = cloud_body(call.route, call.raw, call.value, call.facts, permit.model, call.cap)
        connection: UpstreamConnection | None = None
        try:
            connection = await self._pool.acquire()
            self._check_current(permit)
            head = self._head(call, len(body))
            call.sent = True
            connection.send(b"POST", head, body)
            return connection, await connection.response(self.settings.timeout_seconds)
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    def _check_current(self, permit: Permit) -> None:
        # A connection takes its time: stricter settings that came meanwhile hold for this call, too.
        if permit.generation != self.generation:
            raise PermitError("the settings have changed while the cloud was connected to")

    def _head(self, call: CloudCall, length: int) -> bytes:
        lines = [
            f"POST {self._pool.origin.prefix}{call.route.cloud_path} HTTP/1.1".encode(),
            b"Host: " + self._pool.host_header,
            b"User-Agent: " + self._user_agent.encode("ascii"),
            b"Accept: " + (b"*/*" if call.facts.stream else b"application/json"),
            b"Accept-Encoding: identity",  # what is compressed tells no usage
            b"Content-Type: application/json",
            b"Content-Length: %d" % length,
            b"Authorization: Bearer " + self._key.encode("ascii"),
        ]
        version = call.anthropic_version
        if version in _ANTHROPIC_VERSIONS:
            lines.append(b"Anthropic-Version: %b" % version)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # What came of it.

    def answered(self, ticket: int) -> None:
        """An answer has begun to come, and it is none that says that the cloud cannot serve."""
        self.breaker.answered(ticket)

    def succeeded(self) -> None:
        """The cloud served a call, or said well what is wrong with it."""
        self.breaker.succeeded()
        self._refusals = 0

    def failed(self) -> None:
        """The cloud could not be reached, did not answer, or answered that it cannot serve."""
        self.breaker.failed(self._loop.time())

    def refused(self, head: ResponseHead) -> None:
        """The cloud answered 429: no call goes until it says so, or for a while that doubles."""
        now = self._loop.time()
        wait = retry_after(head.get(b"retry-after"), time.time())
        if wait is None:
            if now < self._rate_until:
                return  # calls that were under way together are refused together: that counts once
            wait = min(RATE_SECONDS * 2 ** min(self._refusals, 10), RATE_MOST_SECONDS)
            self._refusals += 1
        self._rate_until = max(self._rate_until, now + min(wait, RETRY_AFTER_MOST_SECONDS))

    def close(self) -> None:
        self._pool.close()


def retry_after(value: bytes | None, now: float) -> float | None:
    """Seconds until a Retry-After (RFC 9110, section 10.2.3), a number or a date; None where it says nothing."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text.lstrip("0")[:9] or "0")
    try:
        then = email.utils.parsedate_to_datetime(text)
        # One without a zone is in UTC too, never in this machine's own.
        seconds = (then if then.tzinfo is not None else then.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return max(seconds - now, 0.0)


def counts_as_failure(status: int) -> bool:
    """Whether a status says that the cloud cannot serve us: it broke, it is elsewhere (a redirect is not followed),
    or our key or plan is not good."""
    return status >= 500 or status < 400 or status in (401, 402, 403, 408)


def may_be_billed(status: int) -> bool:
    """Whether an answer that is no 2xx may still cost: the call was begun and failed, or somebody in between gave up.

    A redirect, a refusal (4xx) and a server that says it will not serve (501, 503, 505) have done nothing.
    """
    return status in (408, 499) or (status >= 500 and status not in (501, 503, 505))
