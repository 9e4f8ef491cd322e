"""What the tests of the running application share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 20.0


class Messages(logging.Handler):
    """What the sidecar in this process logs, to be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname.lower()} {record.getMessage()}")
        self.records.append(record)
        self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def said(self, text: str, times: int = 1) -> str:
        """The nth line with a text in it."""
        try:
            async with asyncio.timeout(SECONDS):
                while len(found := [line for line in self.lines if text in line]) < times:
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.lines}") from None
        return found[times - 1]


@contextmanager
def messages() -> Iterator[Messages]:
    """Everything from `info` on that is logged meanwhile."""
    root = logging.getLogger()
    handler, level = Messages(), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


async def eventually(read: Callable[[], Any]) -> Any:
    """Waits for what no event tells of, such as a file that a thread writes."""
    async with asyncio.timeout(SECONDS):
        while not (value := read()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return value
