"""Prometheus metrics: the contract's names and ours.

A call is counted once, in one cell for its labels; the families that Prometheus reads are summed up from the cells
when it scrapes. (A counter or histogram object each cost 6 µs per call, a cell costs one.) Labels are bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sidecar.core.record import CallRecord

# 10 ms doubling past 80 s: a cold model takes that long to load.
LATENCY_BUCKETS = tuple(0.01 * 2**n for n in range(14))
MAX_CELLS = 5000
MICRO = 1_000_000
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OWN = "ollama_sidecar_"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

Live = Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]


class Distribution:
    """A histogram's buckets (not cumulative) and sum, of values in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS, value)] += 1
        self.total += value

    def add(self, other: Distribution) -> None:
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulative(self) -> list[tuple[str, float]]:
        """What the exposition format wants."""
        pairs: list[tuple[str, float]] = []
        so_far = 0
        for bound, count in zip((*LATENCY_BUCKETS, float("inf")), self.counts, strict=True):
            so_far += count
            pairs.append((floatToGoString(bound), so_far))  # type: ignore[no-untyped-call]
        return pairs


class _Cell:
    """All calls that share their labels."""

    __slots__ = ("calls", "first", "latency", "tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.tokens = 0
        self.latency = Distribution()
        self.first = Distribution()


class Metrics:
    """All metrics of one sidecar.

    `model_label` gives a model's name as a label value, one for all its spellings; None for a name that nobody knows,
    which counts as `other`.
    """

    def __init__(self, model_label: Callable[[str], str | None], version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._model_label = model_label
        self._cells: dict[tuple[str, ...], _Cell] = {}
        self._queue_wait = Distribution()
        self._cost_day = ""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        self.cost_total = counter("ollama_cloud_cost_usd", "Settled cost of this sidecar's cloud calls, in USD")
        self.cost_daily = gauge("ollama_cloud_cost_usd_daily", "The same, of the current budget day, in USD")
        self.accuracy = gauge(
            "extraction_accuracy", "F1 on a labelled set; no value until the comparison is built", "location", "model"
        )
        self.denials = counter(OWN + "denials", "Calls that a gate kept from the cloud", "gate")
        self.fallbacks = counter(OWN + "fallbacks", "Cloud tries that went local instead", "reason")
        self.attempts = counter(OWN + "cloud_attempts", "Tries at the cloud", "model", "outcome")
        self.capped = counter(OWN + "output_capped", "Answers that a cap of ours cut short", "model")
        self.overruns = counter(OWN + "over_reservation", "Answers that cost more than was reserved", "model")
        self.invalid_headers = counter(OWN + "invalid_headers", "Task headers whose value is not valid", "header")
        self.canary = counter(OWN + "canary_calls", "Calls that the canary was asked about", "member")
        self.canary_wanted = gauge(OWN + "canary_wanted_pct", "The canary's share as set, in per cent", "task_type")
        self.passed = counter(OWN + "passed_through", "Requests that are no inference, by method", "method")
        self.config_errors = counter(OWN + "config_errors", "Changed settings that were not valid and not taken")
        self.config_reloads = counter(OWN + "config_reloads", "Changed settings that were taken")
        self.protocol_errors = counter(OWN + "protocol_errors", "Requests that are no valid HTTP", "status")
        gauge(OWN + "build_info", "Always 1", "version").labels(version).set(1)
        self.registry.register(_Calls(self._cells, self._queue_wait))

    def live(self, read: Live) -> None:
        """Adds gauges that are read when they are scraped: (name, help, labels, value)."""
        self.registry.register(_Live(read))

    def expose(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)

    def __call__(self, record: CallRecord) -> None:
        """Counts one ended inference call."""
        task, classification = record.task, record.classification
        key = (
            record.location,
            self._model_label(record.model) or "other",
            task.task_type if task is not None else "unknown",
            record.reason,
            record.strategy,
            record.outcome,
            classification.data_class.label if classification is not None else "unknown",
            classification.source if classification is not None else "none",
        )
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= MAX_CELLS:
                # Where a call ran and what it was for still counts; these are few whatever clients invent.
                key = (key[0], "other", key[2], "other", "other", "other", "unknown", "none")
            cell = self._cells.setdefault(key, _Cell())
        cell.calls += 1
        cell.tokens += (record.tokens_in or 0) + (record.tokens_out or 0)
        cell.latency.observe(record.duration)
        if record.first_byte is not None:
            cell.first.observe(record.first_byte)
        if record.queued:
            self._queue_wait.observe(record.queued)
        if record.bucket is not None:
            self.canary.labels("in" if record.in_canary else "out").inc()
        if record.capped:
            self.capped.labels(key[1]).inc()
        for header in record.invalid_headers:
            self.invalid_headers.labels(header).inc()

    def attempt(self, model: str, outcome: str, cost: int, reserved: int, day: str) -> None:
        """Counts one try at the cloud that ended; costs in micro-USD, charged to the budget day `day`."""
        model = self._model_label(model) or "other"
        self.attempts.labels(model, outcome).inc()
        self.begin_day(day)
        self.cost_total.inc(cost / MICRO)
        if day == self._cost_day:
            self.cost_daily.inc(cost / MICRO)
        if cost > reserved:
            self.overruns.labels(model).inc()

    def begin_day(self, day: str) -> None:
        """Starts the daily figure anew where `day` is a later budget day than the one it is about."""
        if day > self._cost_day:
            self._cost_day = day
            self.cost_daily.set(0)

    def count_passed(self, method: bytes) -> None:
        """Counts a request that is no inference."""
        name = method.decode("latin-1")
        self.passed.labels(name if name in _METHODS else "other").inc()


class _Calls(Collector):
    """The families that the cells sum up to."""

    def __init__(self, cells: dict[tuple[str, ...], _Cell], queue_wait: Distribution) -> None:
        self._cells = cells
        self._queue_wait = queue_wait

    def collect(self) -> Iterable[Metric]:
        executions = _Sums("ollama_execution", "Inference calls by where they ran", "location", "model", "task_type")
        tokens = _Sums("ollama_tokens", "Tokens in and out as the servers counted them", "location", "model")
        decisions = _Sums(OWN + "decisions", "Decisions as they turned out", "location", "reason", "strategy")
        outcomes = _Sums(OWN + "call_outcomes", "How inference calls ended", "outcome")
        classes = _Sums(OWN + "classified", "Inference calls by class and what decided it", "class", "source")
        latency = _Histograms(
            "ollama_execution_latency_seconds",
            "From the request's head to the last byte of its answer",
            ("location", "model", "task_type"),
        )
        first = _Histograms(
            OWN + "time_to_first_token_seconds",
            "From the request's head to the first payload of its answer",
            ("location", "model"),
        )
        for (location, model, task_type, reason, strategy, outcome, label, source), cell in list(self._cells.items()):
            decisions.add(cell.calls, location, reason or "none", strategy or "none")
            outcomes.add(cell.calls, outcome)
            classes.add(cell.calls, label, source)
            if location != "none":
                executions.add(cell.calls, location, model, task_type)
                tokens.add(cell.tokens, location, model)
                latency.add(cell.latency, location, model, task_type)
                first.add(cell.first, location, model)
        yield from (sums.family() for sums in (executions, tokens, decisions, outcomes, classes))
        waits = _Histograms(OWN + "local_queue_wait_seconds", "Wait for a place at the local server", ())
        waits.add(self._queue_wait)
        yield from (histograms.family() for histograms in (latency, first, waits))


class _Sums:
    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._family = CounterMetricFamily(name, text, labels=labels)
        self._sums: dict[tuple[str, ...], int] = {}

    def add(self, count: int, *labels: str) -> None:
        self._sums[labels] = self._sums.get(labels, 0) + count

    def family(self) -> Metric:
        for labels, total in self._sums.items():
            self._family.add_metric(labels, total)
        return self._family


class _Histograms:
    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._family = HistogramMetricFamily(name, text, labels=labels)
        self._sums: dict[tuple[str, ...], Distribution] = {}

    def add(self, distribution: Distribution, *labels: str) -> None:
        self._sums.setdefault(labels, Distribution()).add(distribution)

    def family(self) -> Metric:
        for labels, total in self._sums.items():
            self._family.add_metric(labels, total.cumulative(), total.total)
        return self._family


class _Live(Collector):
    def __init__(self, read: Live) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Any] = {}
        for name, text, labels, value in self._read():
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(name, text, labels=list(labels))
            family.add_metric(list(labels.values()), value)
        return families.values()
