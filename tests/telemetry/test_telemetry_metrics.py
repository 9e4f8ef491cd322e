"""The metrics: what they count is what there was, and their labels are few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sidecar.core.classification import Classification, DataClass
from sidecar.core.record import CallRecord
from sidecar.core.task import Task
from sidecar.telemetry import metrics as module
from sidecar.telemetry.metrics import LATENCY_BUCKETS, Distribution, Metrics

KNOWN = ("llama3", "gpt-oss:120b")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def label(name: str) -> str | None:
    return name.lower() if name.lower() in KNOWN else None


def read(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.expose().decode())
    samples: Samples = {}
    for family in families:
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a name's samples that have these labels."""
    wanted = frozenset(labels.items())
    return sum(amount for (found, has), amount in samples.items() if found == name and wanted <= has)


@st.composite
def records(draw: st.DrawFn) -> CallRecord:
    record = CallRecord("r", "t", "/api/chat", "ollama", 0.0)
    record.location = draw(st.sampled_from(("local", "cloud", "none")))
    record.model = draw(st.sampled_from(("llama3", "LLAMA3", "gpt-oss:120b", "invented", "", "x" * 300)))
    record.reason = draw(st.sampled_from(("default_local", "high_quality_extraction", "budget_exceeded", "")))
    record.strategy = draw(st.sampled_from(("hybrid", "")))
    record.outcome = draw(st.sampled_from(("ok", "refused", "broken")))
    record.duration = draw(st.floats(min_value=0, max_value=200))
    record.first_byte = draw(st.none() | st.floats(min_value=0, max_value=200))
    record.queued = draw(st.sampled_from((0.0, 0.5, 3.0)))
    record.tokens_in = draw(st.none() | st.integers(0, 10_000))
    record.tokens_out = draw(st.none() | st.integers(0, 10_000))
    record.bucket = draw(st.none() | st.integers(0, 9999))
    record.in_canary = draw(st.booleans())
    record.capped = draw(st.booleans())
    record.invalid_headers = draw(st.sampled_from(((), ("X-Complexity",), ("X-Complexity", "X-Task-Id"))))
    if draw(st.booleans()):
        task_type = draw(st.sampled_from(("extraction", "generation", "embedding", "vlm")))
        record.task = Task("t", task_type, "low", "medium", 1000, None, None, {})
        record.classification = Classification(draw(st.sampled_from(DataClass)), "header")
    return record


@given(st.lists(records(), max_size=20))
@settings(deadline=None, max_examples=50)
def test_the_counts_are_those_of_the_calls(calls: list[CallRecord]) -> None:
    metrics = Metrics(label, "1")
    for call in calls:
        metrics(call)
    samples = read(metrics)
    ran = [call for call in calls if call.location != "none"]

    def cell(call: CallRecord) -> tuple[str, str, str]:
        return call.location, label(call.model) or "other", call.task.task_type if call.task else "unknown"

    executions = Counter(map(cell, ran))
    for (location, model, task_type), count in executions.items():
        labels = {"location": location, "model": model, "task_type": task_type}
        assert value(samples, "ollama_execution_total", **labels) == count
        assert value(samples, "ollama_execution_latency_seconds_count", **labels) == count
        seconds = sum(call.duration for call in ran if cell(call) == (location, model, task_type))
        assert abs(value(samples, "ollama_execution_latency_seconds_sum", **labels) - seconds) < 1e-6
    assert total(samples, "ollama_execution_total") == len(ran)
    tokens = sum((call.tokens_in or 0) + (call.tokens_out or 0) for call in ran)
    assert total(samples, "ollama_tokens_total") == tokens
    assert total(samples, "ollama_sidecar_decisions_total") == len(calls)
    for reason, count in Counter(call.reason or "none" for call in calls).items():
        assert total(samples, "ollama_sidecar_decisions_total", reason=reason) == count
    for outcome, count in Counter(call.outcome for call in calls).items():
        assert value(samples, "ollama_sidecar_call_outcomes_total", outcome=outcome) == count
    firsts = [call for call in ran if call.first_byte is not None]
    assert total(samples, "ollama_sidecar_time_to_first_token_seconds_count") == len(firsts)
    waited = [call for call in calls if call.queued]
    assert value(samples, "ollama_sidecar_local_queue_wait_seconds_count") == len(waited)
    for member, wanted in (("in", True), ("out", False)):
        asked = [call for call in calls if call.bucket is not None and call.in_canary is wanted]
        assert value(samples, "ollama_sidecar_canary_calls_total", member=member) == len(asked)
    headers = Counter(header for call in calls for header in call.invalid_headers)
    for header, count in headers.items():
        assert value(samples, "ollama_sidecar_invalid_headers_total", header=header) == count
    assert total(samples, "ollama_sidecar_output_capped_total") == sum(call.capped for call in calls)


@given(st.lists(st.floats(min_value=0, max_value=1000)), st.lists(st.floats(min_value=0, max_value=1000)))
def test_buckets_are_cumulative_and_sums_are_sums(one: list[float], other: list[float]) -> None:
    first, second = Distribution(), Distribution()
    for seconds in one:
        first.observe(seconds)
    for seconds in other:
        second.observe(seconds)
    first.add(second)
    pairs = first.cumulative()
    assert [float(bound) for bound, _ in pairs] == [*LATENCY_BUCKETS, float("inf")]
    for bound, count in pairs:
        assert count == sum(seconds <= float(bound) for seconds in one + other)
    assert abs(first.total - sum(one) - sum(other)) < 1e-6


@given(st.lists(st.floats(min_value=0, max_value=1000), min_size=1, max_size=50))
@settings(deadline=None)
def test_the_exposed_histogram_is_cumulative(durations: list[float]) -> None:
    metrics = Metrics(label, "1")
    for duration in durations:
        call = CallRecord("r", "t", "/api/chat", "ollama", 0.0, location="local", model="llama3")
        call.duration = duration
        metrics(call)
    counts = [
        (float(dict(labels)["le"]), count)
        for (name, labels), count in read(metrics).items()
        if name == "ollama_execution_latency_seconds_bucket"
    ]
    counts.sort()
    assert counts == [(bound, sum(d <= bound for d in durations)) for bound in (*LATENCY_BUCKETS, float("inf"))]


def test_names_that_nobody_knows_are_one_label_and_spellings_are_one() -> None:
    metrics = Metrics(label, "1")
    for number in range(10_000):
        call = CallRecord("r", "t", "/api/chat", "ollama", 0.0, location="local")
        call.model = f"invented-{number}" if number % 2 else ("llama3", "LLaMA3")[number % 4 == 0]
        call.capped = True
        metrics(call)
        metrics.attempt(f"cloud-{number}", "ok", 1, 0, "2026-11-23")
        metrics.count_passed(b"METHOD-%d" % number)
    samples = read(metrics)
    models = {dict(labels)["model"] for _, labels in samples if "model" in dict(labels)}
    assert models == {"llama3", "other"}
    assert value(samples, "ollama_sidecar_passed_through_total", method="other") == 10_000
    assert len(samples) < 200


def test_too_many_cells_lose_a_model_and_no_call(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", 10)
    metrics = Metrics(lambda name: name, "1")
    for number in range(100):
        for location in ("local", "cloud"):
            metrics(CallRecord("r", "t", "/api/chat", "ollama", 0.0, location=location, model=f"m{number}"))
    samples = read(metrics)
    assert total(samples, "ollama_execution_total", location="local") == 100
    assert total(samples, "ollama_execution_total", location="cloud") == 100
    assert sum(name == "ollama_execution_total" for name, _ in samples) <= 12


# Money.


def costs(metrics: Metrics) -> tuple[float, float]:
    samples = read(metrics)
    return value(samples, "ollama_cloud_cost_usd_total"), value(samples, "ollama_cloud_cost_usd_daily")


def test_the_daily_cost_begins_anew_with_the_day_also_without_a_call() -> None:
    metrics = Metrics(label, "1")
    assert costs(metrics) == (0, 0)
    metrics.attempt("gpt-oss:120b", "ok", 1_000_000, 2_000_000, "2026-11-23")
    metrics.attempt("gpt-oss:120b", "ok", 500_000, 2_000_000, "2026-11-23")
    assert costs(metrics) == (1.5, 1.5)
    metrics.begin_day("2026-11-23")
    assert costs(metrics) == (1.5, 1.5)
    metrics.begin_day("2026-11-24")
    assert costs(metrics) == (1.5, 0)
    # A call that began before midnight is charged to its own day, and a clock that goes back changes nothing.
    metrics.attempt("gpt-oss:120b", "ok", 250_000, 2_000_000, "2026-11-23")
    metrics.begin_day("2026-11-22")
    assert costs(metrics) == (1.75, 0)
    metrics.attempt("gpt-oss:120b", "ok", 250_000, 2_000_000, "2026-11-24")
    assert costs(metrics) == (2, 0.25)


def test_tries_are_counted_by_outcome_and_overruns_apart() -> None:
    metrics = Metrics(label, "1")
    metrics.attempt("gpt-oss:120b", "ok", 10, 10, "d")
    metrics.attempt("gpt-oss:120b", "ok", 11, 10, "d")
    metrics.attempt("gpt-oss:120b", "timeout", 0, 10, "d")
    samples = read(metrics)
    assert value(samples, "ollama_sidecar_cloud_attempts_total", model="gpt-oss:120b", outcome="ok") == 2
    assert value(samples, "ollama_sidecar_cloud_attempts_total", model="gpt-oss:120b", outcome="timeout") == 1
    assert value(samples, "ollama_sidecar_over_reservation_total", model="gpt-oss:120b") == 1


# What is read when it is scraped.


def test_live_gauges_are_read_anew_each_time() -> None:
    metrics = Metrics(label, "1")
    now: dict[str, float] = {"a": 1}

    def live() -> list[tuple[str, str, Mapping[str, str], float]]:
        return [("ollama_sidecar_thing", "A thing", {"state": name}, amount) for name, amount in now.items()]

    metrics.live(live)  # type: ignore[arg-type]
    assert value(read(metrics), "ollama_sidecar_thing", state="a") == 1
    now |= {"a": 5, "b": 7}
    samples = read(metrics)
    assert (value(samples, "ollama_sidecar_thing", state="a"), value(samples, "ollama_sidecar_thing", state="b")) == (
        5,
        7,
    )
    assert value(samples, "ollama_sidecar_build_info", version="1") == 1


def test_two_sidecars_of_one_process_do_not_share_counts() -> None:
    one, other = Metrics(label, "1"), Metrics(label, "1")
    one(CallRecord("r", "t", "/api/chat", "ollama", 0.0, location="local", model="llama3"))
    assert total(read(one), "ollama_execution_total") == 1
    assert total(read(other), "ollama_execution_total") == 0
