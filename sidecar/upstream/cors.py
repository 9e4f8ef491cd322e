"""What the local server says of web pages: which origins may call it, by its own CORS rules."""

from __future__ import annotations

import asyncio

from sidecar.upstream.connection import UpstreamError
from sidecar.upstream.fetch import fetch
from sidecar.upstream.pool import Pool

KEEP_SECONDS = 5.0
MAX_ORIGINS = 256
_PASSED_ON = (b"access-control-", b"vary")


class CrossOrigin:
    """Answers per origin, cached for a few seconds."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._known: dict[bytes, tuple[float, bytes | None]] = {}

    async def ask(self, origin: bytes) -> bytes | None:
        """The CORS header lines for an origin that may call; None for one that may not, or where nobody says."""
        now = self._loop.time()
        entry = self._known.get(origin)
        if entry is not None and now - entry[0] < KEEP_SECONDS:
            return entry[1]
        try:
            head, _ = await fetch(
                self._pool, "HEAD", "/", seconds=KEEP_SECONDS, headers=b"Origin: " + origin + b"\r\n"
            )
        except UpstreamError:
            return None
        lines = None
        if head.status < 400:
            lines = b"".join(line + b"\r\n" for name, _, line in head.fields if name.startswith(_PASSED_ON))
        if len(self._known) >= MAX_ORIGINS:
            self._known.clear()
        self._known[origin] = (now, lines)
        return lines
