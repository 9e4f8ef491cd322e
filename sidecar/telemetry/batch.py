"""Records on their way to the log and the metrics, some at a time.

Told one behind the other, a record costs a third of what it costs between the stages of calls: the code that tells
it is then warm. Nobody waits for it: the page of metrics flushes before it is read, and lines wait for the log's own
batch in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sidecar.core.record import CallRecord

_log = logging.getLogger("sidecar.telemetry")

Observer = Callable[[CallRecord], None]

FLUSH_SECONDS = 0.05
# So many are told in a third of a millisecond: that is how long another call may wait for it.
MOST = 64


class Batch:
    """An observer that passes records on to others, in order; one that fails is logged and costs nothing else."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers
        self._loop = asyncio.get_running_loop()
        self._records: list[CallRecord] = []
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, record: CallRecord) -> None:
        records = self._records
        records.append(record)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self.flush)
        elif len(records) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Passes on what is there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records, self._records = self._records, []
        for observe in self.observers:
            for record in records:
                try:
                    observe(record)
                except Exception:  # noqa: BLE001 - the other records and observers have no part in it
                    fields = {"request_id": record.request_id}
                    _log.exception("a call could not be recorded", extra={"fields": fields})
