"""All that the settings say of decisions, in one value that is replaced as a whole when they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.core.budget import Caps
from sidecar.core.canary import Canary
from sidecar.core.classification import Classification, DataClass
from sidecar.core.decision import Strategy, Thresholds
from sidecar.core.pricing import CloudModel
from sidecar.core.task import TaskDefaults
from sidecar.strategies import gates


class Hit(Protocol):
    """A finding of the content scanner: `index` says which text, -1 the body as sent."""

    @property
    def rule(self) -> str: ...
    @property
    def data_class(self) -> DataClass: ...
    @property
    def index(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class Scanner(Protocol):
    """Finds what restricts a text. Never raises: what it cannot scan is a finding."""

    def scan(self, raw: bytes | None, texts: Sequence[str], *, contained: bool = False) -> Sequence[Hit]:
        """`contained` promises that each text is a string of `raw`'s own JSON."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """Where a call goes that the cloud cannot take: `local`, or `error` for a refusal."""

    on_budget_exceeded: str = "local"
    on_cloud_unavailable: str = "local"
    on_rate_limit: str = "local"

    def wanted(self, reason: str) -> str:
        """`local` or `error`, for the reason of the gate that objected."""
        return {
            gates.BUDGET_EXCEEDED: self.on_budget_exceeded,
            gates.BUDGET_UNAVAILABLE: self.on_budget_exceeded,
            gates.CLOUD_UNAVAILABLE: self.on_cloud_unavailable,
            gates.RATE_LIMITED: self.on_rate_limit,
        }.get(reason, "local")


@dataclass(frozen=True, slots=True)
class Policy:
    """`generation` rises with every change. `cloud_off` says why the cloud is off; empty where it is on.

    `cloud_model_for` maps a local model and task type; `local_models` a task type to the local model that serves it
    where a cloud model was named but may not be used. `default_class` is the pod's floor under every call.
    """

    generation: int
    strategy: Strategy
    thresholds: Thresholds
    canary: Canary
    cloud_off: str
    catalogue: Mapping[str, CloudModel]
    cloud_model_for: Callable[[str, str], str | None]
    caps: Caps
    max_output_tokens: int
    default_class: Classification
    image_class: DataClass
    scanner: Scanner | None
    task_defaults: TaskDefaults
    fallback: Fallback = Fallback()
    local_models: Mapping[str, str] = field(default_factory=dict)
