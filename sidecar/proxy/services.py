"""What the handler works with; the composition root fills it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sidecar.core.permit import PermitOffice
from sidecar.core.record import CallRecord
from sidecar.proxy.hosts import Hosts
from sidecar.routing.policy import Policy
from sidecar.stores.keeper import Keeper
from sidecar.telemetry.audit import AuditLog
from sidecar.telemetry.metrics import Metrics
from sidecar.upstream.cloud import CloudDoor
from sidecar.upstream.gpu import GpuMonitor
from sidecar.upstream.local import LocalUpstream


@dataclass(slots=True)
class Services:
    """`policy` and `door` are replaced when the settings change; a call keeps the policy that it began with.

    `observers` see every inference call once, when it has ended. `door`, `keeper` and `audit` are None where the
    cloud is off. `nonce` marks our own probe of the local server, so that one that comes back here is known.
    """

    policy: Policy
    local: LocalUpstream
    hosts: Hosts
    metrics: Metrics
    office: PermitOffice
    max_body: int
    gpu: GpuMonitor | None = None
    door: CloudDoor | None = None
    keeper: Keeper | None = None
    audit: AuditLog | None = None
    observers: Sequence[Callable[[CallRecord], None]] = field(default_factory=tuple)
    nonce: bytes = b""
