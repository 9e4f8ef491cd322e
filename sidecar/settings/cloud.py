"""The section `ollama_cloud`: the account, its models and prices, the budget and the decision."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, model_validator

from sidecar.settings.keyfile import read_key_file
from sidecar.settings.kinds import (
    ApiKey,
    Flag,
    Items,
    Named,
    Number,
    Section,
    Strategy,
    choice,
    not_built_yet,
    or_unset,
)
from sidecar.settings.names import AnyModel, CloudModel, CloudUrl, OptionalCloudModel, OptionalFilePath

CapabilityName = Literal["vision", "tools", "thinking"]
Capability = Annotated[CapabilityName, choice("a capability", CapabilityName)]
FallbackName = Literal["local", "error"]
Fallback = Annotated[FallbackName, choice("a fallback", FallbackName)]
RateFallbackName = Literal["local", "error", "queue"]
RateFallback = Annotated[
    RateFallbackName,
    choice("a fallback", RateFallbackName),
    not_built_yet("queue", "a queue for rate-limited calls", "local or error"),
]

Usd = Annotated[Decimal, Number(0, 1_000_000_000)]
Thresholds = Annotated[
    Items[Annotated[Decimal, Number(0, 100, above=True, places=2)]],
    AfterValidator(lambda found: tuple(sorted(set(found)))),
]
PriceUsd = Annotated[Decimal | None, BeforeValidator(or_unset(Number(0, 100_000)))]


class TaskModels(Section):
    """Which cloud model takes which kind of task."""

    extraction_cloud: OptionalCloudModel = Field(
        default=None, description="Cloud model for task type extraction; unset: the catalogue's choice."
    )
    generation_cloud: OptionalCloudModel = Field(
        default=None, description="Cloud model for task type generation; unset: the catalogue's choice."
    )
    vision_cloud: OptionalCloudModel = Field(
        default=None, description="Cloud model for task type vlm (images); unset: the catalogue's choice."
    )


class LocalModelTargets(TaskModels):
    """What one local model becomes on the cloud; a single name stands for all task types."""

    one_text: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _one_name_for_all(cls, value: object) -> object:
        return dict.fromkeys(TaskModels.model_fields, value) if isinstance(value, str) else value


class CloudModels(TaskModels):
    """The mapping from tasks to cloud models."""

    by_local_model: Named[AnyModel, LocalModelTargets] = Field(
        default_factory=dict,
        description="Local model name → cloud model name, or → the three names by task. It wins over the three "
        "names beside it, key by key. Empty: every local model has the same targets.",
    )


class Price(Section):
    """What one cloud model costs. Both prices or, where the catalogue knows the model, neither."""

    input_per_1m: PriceUsd = Field(
        default=None, description="USD per one million input tokens; unset: the catalogue's price."
    )
    output_per_1m: PriceUsd = Field(
        default=None, description="USD per one million output tokens; unset: the catalogue's price."
    )
    price_factor_max: Annotated[Decimal, Number(1, 100)] = Field(
        default=Decimal(1),
        description="Highest factor that the provider puts on the price (peak hours). It multiplies the "
        "reservation alone, so that a bill stays below it. 1: the price does not vary.",
    )
    max_image_tokens: Annotated[int, Number(1, 1_000_000, whole=True)] = Field(
        default=16384,
        description="Tokens reserved for one image, whose real number is known only afterwards. 16384 is above "
        "what the vision models of the catalogue make of a large image.",
    )


class CatalogueOverride(Section):
    """What one cloud model can do, where the shipped catalogue is older or lacks it."""

    context_length: Annotated[int | None, BeforeValidator(or_unset(Number(1, 100_000_000, whole=True)))] = Field(
        default=None, description="Tokens that prompt and answer may have; unset: the catalogue's figure."
    )
    capabilities: Items[Capability] | None = Field(
        default=None,
        description="Any of vision, tools, thinking; calls that need another one stay local. Unset: the "
        "catalogue's list; a model that neither knows is refused nothing.",
    )


class CostLimits(Section):
    """The budget. Nothing is spent beyond either figure."""

    daily_budget_usd: Usd = Field(
        default=Decimal("5.0"), description="USD per day in budget.timezone. 0: nothing may be spent."
    )
    monthly_budget_usd: Usd = Field(
        default=Decimal("100.0"),
        description="USD per calendar month; it may be lower than the day's. 0: nothing may be spent.",
    )
    alert_threshold_pct: Thresholds = Field(
        default=(Decimal(50), Decimal(80), Decimal(90), Decimal(100)),
        description="Percent of the budget, settled, at which an alert is sent, once per period and threshold. "
        "Kept in rising order, each once. Empty: no alerts.",
    )


class DecisionThresholds(Section):
    """The figures of the hybrid strategy's rules."""

    model_size_threshold_gb: Annotated[float, Number(0, 100_000)] = Field(
        default=10.0,
        description="GB (10^9 bytes, as /api/tags reports). A larger local model goes to the cloud. 10: what "
        "a GPU of 12 GB still serves well.",
    )
    gpu_utilization_threshold_pct: Annotated[float, Number(0, 100)] = Field(
        default=80.0, description="Percent of the local GPU in use above which a call goes to the cloud."
    )
    latency_threshold_ms: Annotated[int, Number(0, 86_400_000, whole=True)] = Field(
        default=500,
        description="Milliseconds. A call that asks for an answer faster than this stays local: a round trip "
        "to the cloud alone takes about as long.",
    )
    batch_size_threshold: Annotated[int, Number(0, 1_000_000, whole=True)] = Field(
        default=10, description="Calls in flight or waiting at the local Ollama above which a call goes to the cloud."
    )


class FallbackRules(Section):
    """What happens to a call that was decided for the cloud and cannot go there."""

    on_budget_exceeded: Fallback = Field(
        default="local", description="local or error (429). local: the app never breaks because of the budget."
    )
    on_cloud_unavailable: Fallback = Field(
        default="local", description="local or error (503). local: the app never breaks because of the cloud."
    )
    on_rate_limit: RateFallback = Field(
        default="local",
        description="local, error (429) or queue. The default is to be queue; that is not built yet, and until "
        "then it is local and asking for queue is an error.",
    )


class Breaker(Section):
    """The circuit breaker in front of the cloud."""

    failures: Annotated[int, Number(1, 10_000, whole=True)] = Field(
        default=5, description="Failures in a row after which the cloud is left alone."
    )
    open_seconds: Annotated[float, Number(0, 86_400, above=True)] = Field(
        default=30, description="Seconds for which it is left alone before one call probes it."
    )


class Cache(Section):
    """The cache of cloud answers. Not built yet: it stays off."""

    enabled: Annotated[Flag, not_built_yet(True, "the response cache", "false")] = Field(
        default=False, description="Whether answers are kept and given again. Only false until it is built."
    )
    ttl_seconds: Annotated[int, Number(1, 31_536_000, whole=True)] = Field(
        default=86400, description="Seconds for which an answer is kept: one day."
    )
    max_size_mb: Annotated[int, Number(1, 1_048_576, whole=True)] = Field(
        default=2048, description="MB (2^20 bytes) that all answers may take; the oldest go first."
    )


class OllamaCloud(Section):
    """Ollama Cloud: the account, its models and prices, the budget and the decision."""

    enabled: Flag = Field(
        default=True,
        description="Whether calls may go to the cloud. Without a key it is off all the same, and says so.",
    )
    api_key: ApiKey = Field(
        default=None, description="The account's key, best as ${OLLAMA_CLOUD_API_KEY}. Never shown anywhere."
    )
    api_key_file: OptionalFilePath = Field(
        default=None,
        description="File with the key on one line (a mounted Secret), instead of api_key; re-read when it changes.",
    )
    base_url: CloudUrl = Field(
        default="https://ollama.com",
        description="Where the cloud is; some accounts use https://cloud.ollama.ai. https unless on loopback.",
    )
    timeout_seconds: Annotated[float, Number(0, 86_400, above=True)] = Field(
        default=60, description="Seconds to the first byte and between two bytes of an answer; there is no total."
    )
    connect_timeout_seconds: Annotated[float, Number(0, 3600, above=True)] = Field(
        default=10, description="Seconds to connect, TLS included, before the call goes local."
    )
    models: CloudModels = Field(default_factory=CloudModels, description="Which cloud model takes which task.")
    catalogue: Named[CloudModel, CatalogueOverride] = Field(
        default_factory=dict,
        description="Cloud model → what it can do. Adds to the shipped catalogue and wins over it, key by key.",
    )
    pricing: Named[CloudModel, Price] = Field(
        default_factory=dict,
        description="Cloud model → price. Wins over the shipped catalogue; a model without a price is never used.",
    )
    cost_limits: CostLimits = Field(default_factory=CostLimits, description="The budget.")
    decision_strategy: Strategy = Field(
        default="hybrid",
        description="cost_optimized, quality_optimized or hybrid. hybrid: local unless quality, load or size ask "
        "for more.",
    )
    decision_thresholds: DecisionThresholds = Field(
        default_factory=DecisionThresholds, description="The figures of the hybrid strategy."
    )
    fallback: FallbackRules = Field(
        default_factory=FallbackRules, description="What happens to a call that cannot go to the cloud."
    )
    breaker: Breaker = Field(default_factory=Breaker, description="When the cloud is left alone after failures.")
    max_output_tokens: Annotated[int, Number(1, 10_000_000, whole=True)] = Field(
        default=4096,
        description="Tokens of answer reserved and asked for where the call names no limit or an absurd one.",
    )
    cache: Cache = Field(default_factory=Cache, description="The cache of cloud answers (not built yet).")

    # The key file's content as `load` read it, so that settings, digest and watch speak of the same bytes.
    _key_from_file: SecretStr | None = PrivateAttr(default=None)

    @property
    def has_key(self) -> bool:
        return self.api_key is not None or self.api_key_file is not None

    def resolve_api_key(self) -> str | None:
        """The key, or None. A key file is read here only if `load` has not done so."""
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if self._key_from_file is not None:
            return self._key_from_file.get_secret_value()
        return read_key_file(self.api_key_file).key if self.api_key_file is not None else None

    def remember_key(self, key: str) -> None:
        """Keep the content of the key file. For `load`, before anyone else sees these settings."""
        self._key_from_file = SecretStr(key)
