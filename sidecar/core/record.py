"""What is known of one call when it has ended; the observers (log, metrics, audit) read it and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.core.classification import Classification
from sidecar.core.task import Task


@dataclass(slots=True)
class Attempt:
    """One try at an upstream. `outcome` is `ok`, an UpstreamError's kind, or `status`; costs in micro-USD."""

    location: str
    model: str
    outcome: str = ""
    status: int = 0
    reserved: int = 0
    cost: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(slots=True)
class CallRecord:
    """One inference call from its head to its last byte. Times in seconds; never any text of the call.

    `reason` is the final one, `decided` the strategy's first answer (location and reason). `outcome` is `ok`,
    `refused`, `client_error`, `upstream_error`, `broken` (after the first byte), `client_disconnect`, `drained` or
    `internal_error`.
    """

    request_id: str
    trace_id: str
    route: str
    dialect: str
    started_at: float
    method: str = "POST"
    task: Task | None = None
    classification: Classification | None = None
    stream: bool = False
    location: str = "none"
    model: str = ""
    local_model: str = ""
    reason: str = ""
    detail: str = ""
    confidence: float = 0.0
    strategy: str = ""
    decided_location: str = ""
    decided_reason: str = ""
    bucket: int | None = None
    in_canary: bool | None = None
    fallback: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    status: int = 0
    outcome: str = "ok"
    error: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: int = 0
    capped: bool = False
    duration: float = 0.0
    first_byte: float | None = None
    queued: float = 0.0
    bytes_out: int = 0
    invalid_headers: tuple[str, ...] = ()
