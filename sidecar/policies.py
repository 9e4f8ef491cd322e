"""Settings → the values that the lower layers work with. Besides `app` and `cli`, the only reader of settings."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from sidecar.classifiers.content import ContentConfig, ContentScanner
from sidecar.core.budget import Caps
from sidecar.core.canary import Canary
from sidecar.core.classification import BY_LABEL, Finding, combine
from sidecar.core.decision import Thresholds
from sidecar.core.pricing import CloudModel, Price
from sidecar.core.task import Defaults, TaskDefaults
from sidecar.proxy.server import Limits
from sidecar.routing.policy import Fallback, Policy
from sidecar.settings import CloudModelEntry, Settings
from sidecar.strategies import STRATEGIES
from sidecar.upstream.breaker import BreakerSettings
from sidecar.upstream.cloud import CloudSettings
from sidecar.upstream.local import LocalSettings

MICRO = 1_000_000


def policy_from(settings: Settings, generation: int) -> Policy:
    """One generation of decisions. Takes a few milliseconds: the content rules are compiled."""
    cloud = settings.ollama_cloud
    thresholds = cloud.decision_thresholds
    fallback = cloud.fallback
    off = (
        "" if settings.cloud_enabled else "there is no api_key" if cloud.enabled else "ollama_cloud.enabled is false"
    )
    return Policy(
        generation=generation,
        strategy=STRATEGIES[cloud.decision_strategy],
        thresholds=Thresholds(
            thresholds.model_size_threshold_gb,
            thresholds.gpu_utilization_threshold_pct,
            thresholds.latency_threshold_ms,
            thresholds.batch_size_threshold,
        ),
        canary=canary_from(settings),
        cloud_off=off,
        catalogue={name: _model(entry) for name, entry in settings.cloud_models().items()},
        cloud_model_for=settings.cloud_model_for,
        caps=caps_from(settings),
        max_output_tokens=cloud.max_output_tokens,
        default_class=combine([Finding("pod-default", BY_LABEL[settings.classification.default], "default")]),
        image_class=BY_LABEL[settings.classification.images],
        scanner=ContentScanner(_content(settings)) if settings.classification.content else None,
        task_defaults=_task_defaults(settings),
        fallback=Fallback(fallback.on_budget_exceeded, fallback.on_cloud_unavailable, fallback.on_rate_limit),
        local_models={str(task_type): model for task_type, model in settings.local.models.items()},
    )


def caps_from(settings: Settings) -> Caps:
    """The caps in micro-USD; a fraction of one is not there to be spent."""
    limits = settings.ollama_cloud.cost_limits
    return Caps(_micro(limits.daily_budget_usd, ROUND_FLOOR), _micro(limits.monthly_budget_usd, ROUND_FLOOR))


def canary_from(settings: Settings) -> Canary:
    """The shares in hundredths of a per cent."""
    canary = settings.canary
    shares = {str(task_type): canary.hundredths(task_type) for task_type in canary.by_task_type}
    return Canary(canary.hundredths(""), shares, canary.salt, canary.sticky_header)


def cloud_from(settings: Settings) -> CloudSettings:
    """What the door needs, but for the key."""
    cloud = settings.ollama_cloud
    breaker = BreakerSettings(cloud.breaker.failures, cloud.breaker.open_seconds)
    return CloudSettings(cloud.base_url, cloud.connect_timeout_seconds, cloud.timeout_seconds, breaker)


def local_from(settings: Settings, base_url: str) -> LocalSettings:
    """What the local upstream needs."""
    local = settings.local
    return LocalSettings(
        base_url,
        local.connect_timeout_seconds,
        local.first_byte_timeout_seconds,
        local.idle_timeout_seconds,
        local.max_concurrent,
    )


def limits_from(settings: Settings) -> Limits:
    """What the data port takes."""
    listen = settings.listen
    return Limits(
        listen.max_connections,
        listen.max_header_kb * 1024,
        listen.header_timeout_seconds,
        listen.body_idle_timeout_seconds,
    )


def _model(entry: CloudModelEntry) -> CloudModel:
    price = None
    if entry.input_per_1m is not None and entry.output_per_1m is not None:
        price = Price(
            _micro(entry.input_per_1m, ROUND_CEILING),
            _micro(entry.output_per_1m, ROUND_CEILING),
            math.ceil(entry.price_factor_max * 1000),
            entry.max_image_tokens,
        )
    return CloudModel(entry.name, price, entry.context_length, entry.capabilities, entry.estimate)


def _micro(usd: Decimal, rounding: str) -> int:
    return int((Decimal(usd) * MICRO).to_integral_value(rounding))


def _content(settings: Settings) -> ContentConfig:
    rules = settings.classification
    return ContentConfig(
        keywords_confidential=tuple(rules.keywords.confidential),
        keywords_internal=tuple(rules.keywords.internal),
        keyword_defaults=rules.keywords.defaults,
        keywords_strict=rules.keywords.strict,
        allow=tuple(rules.allow),
        ip_class=BY_LABEL[rules.ip_addresses],
    )


def _task_defaults(settings: Settings) -> TaskDefaults:
    given = settings.task_defaults
    return TaskDefaults(
        Defaults(given.task_type or None, given.quality, given.complexity or None, given.latency_ms),
        {
            name: Defaults(entry.task_type, entry.quality, entry.complexity, entry.latency_ms)
            for name, entry in given.by_model.items()
        },
        {
            name: Defaults(None, entry.quality, entry.complexity, entry.latency_ms)
            for name, entry in given.by_task_type.items()
        },
    )
