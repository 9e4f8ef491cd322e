"""How busy the GPUs are: the real NVML binding on a driver's library of our own, Prometheus, an exporter's page."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sidecar.standins import Answer, Exchange, StandInOllama, StandInServer
from sidecar.upstream import gpu
from sidecar.upstream.gpu import MEASURE_SECONDS, METRIC, STALE_SECONDS, GpuMonitor
from support.world import HIGH, World, world

# The driver's library, as far as the binding needs it. It reads what to say from a file, at each call: the error of
# the initialisation, then one utilisation or negative error per GPU.
DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
typedef struct { unsigned int gpu; unsigned int memory; } utilisation;
static int said[16], count;
static void read_file(void) {
    FILE *file = fopen(getenv("STAND_IN_GPUS"), "r");
    count = 0;
    while (file && count < 16 && fscanf(file, "%d", &said[count]) == 1) count++;
    if (file) fclose(file);
}
int nvmlInitWithFlags(unsigned int flags) { read_file(); return said[0]; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *found) { read_file(); *found = count - 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = &said[index + 1]; return 0; }
int nvmlDeviceGetUtilizationRates(void *device, utilisation *found) {
    int value = *(int *)device;
    if (value < 0) return -value;
    found->gpu = value;
    found->memory = 1;
    return 0;
}
const char *nvmlErrorString(int error) { return error == 9 ? "Driver Not Loaded" : "Unknown Error"; }
"""

# In a process of its own: a library that is loaded once stays.
PROGRAM = """
import asyncio, json, logging, sys
from pathlib import Path
from sidecar.upstream.gpu import GpuMonitor

async def main(source, *steps):
    logging.disable()
    monitor = GpuMonitor(source, "")
    found = []
    for step in steps:
        Path(sys.argv[1]).write_text(step)
        found.append([await monitor.measure(), monitor.found, monitor.last_error])
    monitor.close()
    print(json.dumps(found))

asyncio.run(main(*sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("NO C COMPILER: the NVML binding is not tested here")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "nvml.c").write_text(DRIVER)
    made = [compiler, "-shared", "-fPIC", "-O1", "-o", str(folder / "libnvidia-ml.so.1"), str(folder / "nvml.c")]
    subprocess.run(made, check=True, capture_output=True)
    return folder


def measured(folder: Path | None, gpus: Path, source: str, *steps: str) -> list[Any]:
    env = {**os.environ, "STAND_IN_GPUS": str(gpus)}
    if folder is not None:
        env["LD_LIBRARY_PATH"] = str(folder)
    gpus.write_text(steps[0])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(gpus), source, *steps],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("source", ["auto", "nvml"])
def test_the_busiest_gpu_by_the_drivers_own_figures(driver: Path, tmp_path: Path, source: str) -> None:
    steps = ("0 93", "0 12 99 3", "0 0 0", "0", "0 100")
    found = measured(driver, tmp_path / "gpus", source, *steps)
    assert [value for value, _, _ in found] == [93.0, 99.0, 0.0, None, 100.0]
    assert {name for _, name, _ in found} == {"nvml"}


def test_a_driver_that_does_not_answer_is_unknown_until_it_does(driver: Path, tmp_path: Path) -> None:
    found = measured(driver, tmp_path / "gpus", "nvml", "0 50", "0 50 -999", "0 60")
    assert [value for value, _, _ in found] == [50.0, None, 60.0]
    assert "NVML" in found[1][2]
    assert not found[2][2]


def test_a_driver_that_is_not_loaded(driver: Path, tmp_path: Path) -> None:
    automatic = measured(driver, tmp_path / "gpus", "auto", "9 50", "0 50")
    assert automatic[0][0] is None
    wanted = measured(driver, tmp_path / "gpus", "nvml", "9 50", "0 50")
    assert (wanted[0][0], wanted[1][0]) == (None, 50.0), "once it is there, it is used"
    assert "NVML cannot be used" in wanted[0][2]


def test_without_a_driver(tmp_path: Path) -> None:
    if any(Path(folder, "libnvidia-ml.so.1").exists() for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")):
        pytest.skip("there is a real driver here")
    assert measured(None, tmp_path / "gpus", "auto", "0 50") == [[None, "unknown", ""]]
    ((value, _, error),) = measured(None, tmp_path / "gpus", "nvml", "0 50")
    assert value is None
    assert "NVML cannot be used" in error


# By HTTP.


def series(*values: str) -> bytes:
    result = [{"metric": {"gpu": str(at)}, "value": [1.0, value]} for at, value in enumerate(values)]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


PAGE = f"""# HELP {METRIC} GPU utilization (in %).
# TYPE {METRIC} gauge
{METRIC}{{gpu="0",UUID="GPU-1",Hostname="a}} b"}} 12
{METRIC}{{gpu="1",UUID="GPU-2"}} 87.5 1700000000000
{METRIC}_OTHER{{gpu="0"}} 99
DCGM_FI_DEV_MEM_COPY_UTIL{{gpu="0"}} 98
""".encode()


@asynccontextmanager
async def serving(status: int, body: bytes, path: str) -> AsyncIterator[tuple[StandInServer, GpuMonitor]]:
    async def answer(exchange: Exchange) -> Answer:
        return Answer(status, [("Content-Type", "text/plain")], body)

    async with StandInServer(answer) as server:
        monitor = GpuMonitor("prometheus", server.base_url + path)
        try:
            yield server, monitor
        finally:
            monitor.close()


@pytest.mark.parametrize(
    ("path", "asked", "query"),
    [
        ("", "/api/v1/query", f"max({METRIC})"),
        ("/", "/api/v1/query", f"max({METRIC})"),
        ("/prometheus", "/prometheus/api/v1/query", f"max({METRIC})"),
        ("/api/v1/query", "/api/v1/query", f"max({METRIC})"),
        ("/api/v1/query?query=avg(my_gpu)", "/api/v1/query", "avg(my_gpu)"),
    ],
)
async def test_prometheus_is_asked_for_the_metric_or_what_the_url_asks(path: str, asked: str, query: str) -> None:
    async with serving(200, series("41.5", "17"), path) as (server, monitor):
        assert await monitor.measure() == 41.5
        target = urlsplit(server.requests[0].target)
        assert (target.path, parse_qs(target.query)) == (asked, {"query": [query]})
        assert monitor.found == "prometheus"


@pytest.mark.parametrize("path", ["/metrics", "/exporter/metrics", "/metrics?x=1"])
async def test_an_exporters_page(path: str) -> None:
    async with serving(200, PAGE, path) as (server, monitor):
        assert await monitor.measure() == 87.5
        assert server.requests[0].target == path


@pytest.mark.parametrize(
    ("status", "body", "path"),
    [
        (200, series(), ""),
        (200, series("NaN"), ""),
        (200, series("+Inf"), ""),
        (200, series("many"), ""),
        (200, b"<html>", ""),
        (200, b"[]", ""),
        (200, b"{}", ""),
        (200, b'{"data":null}', ""),
        (200, b'{"data":{"result":[1]}}', ""),
        (200, b'{"data":{"result":[{"value":[1]}]}}', ""),
        (503, series("50"), ""),
        (302, b"", ""),
        (200, b"", "/metrics"),
        (200, b"\xff\xfe\x00", "/metrics"),
        (200, f'{METRIC}{{gpu="0"}} NaN\n'.encode(), "/metrics"),
        (200, f'{METRIC}{{gpu="0"}} much\n'.encode(), "/metrics"),
        (200, f'{METRIC}{{gpu="0"\n'.encode(), "/metrics"),
        (404, PAGE, "/metrics"),
    ],
)
async def test_what_tells_nothing_is_unknown(status: int, body: bytes, path: str) -> None:
    async with serving(status, body, path) as (_, monitor):
        assert await monitor.measure() is None
        assert monitor.read() is None


@pytest.mark.parametrize("line", [f'{METRIC}{{gpu="0"}}\n', f"{METRIC} \n"])
async def test_a_line_of_the_page_without_a_value_is_unknown(line: str) -> None:
    async with serving(200, line.encode(), "/metrics") as (_, monitor):
        assert await monitor.measure() is None


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://127.0.0.1:1/metrics", "ftp://x", "nonsense", "http://[::1"]
)
async def test_an_address_where_nobody_is(url: str) -> None:
    monitor = GpuMonitor("prometheus", url)
    assert await monitor.measure() is None
    assert monitor.last_error
    monitor.close()


async def test_no_source_asks_nobody() -> None:
    monitor = GpuMonitor("none", "http://127.0.0.1:1")
    assert monitor.read() is None
    assert monitor._task is None
    monitor.close()


async def test_a_call_reads_the_last_figure_and_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    async with serving(200, series("77"), "") as (server, monitor):
        monitor._loop = Clock(asyncio.get_running_loop(), now)  # type: ignore[assignment]
        assert monitor.read() is None  # asked for, and not here yet
        task = monitor._task
        assert task is not None
        await task
        assert monitor.read() == 77.0
        assert server.received == 1, "it is fresh"
        now[0] += MEASURE_SECONDS
        assert monitor.read() == 77.0
        assert monitor._task is not None
        await monitor._task
        assert server.received == 2
        # Nobody asked for a while: what was true then is not told any more.
        now[0] += STALE_SECONDS
        assert monitor.read() is None
        assert monitor._task is not None
        await monitor._task
        assert monitor.read() == 77.0


class Clock:
    """The loop, with a time of the test's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: list[float]) -> None:
        self._loop = loop
        self._now = now

    def time(self) -> float:
        return self._now[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def measured_in(here: World) -> None:
    monitor = here.sidecar.services.gpu
    assert monitor is not None
    await monitor.measure()


@pytest.mark.parametrize(
    ("busy", "location", "reason"), [("95", "cloud", "local_gpu_busy"), ("40", "local", "default_local")]
)
async def test_a_busy_gpu_sends_calls_to_the_cloud(tmp_path: Path, busy: str, location: str, reason: str) -> None:
    async def answer(exchange: Exchange) -> Answer:
        return Answer(200, [], series(busy))

    async with StandInServer(answer) as prometheus:
        over = {"local": {"gpu": {"source": "prometheus", "url": prometheus.base_url}}}
        async with world(tmp_path, over) as here:
            await measured_in(here)
            told = await here.chat("Hello")
            assert (told.get("x-sidecar-location"), told.get("x-sidecar-reason")) == (location, reason)


async def test_an_unknown_gpu_is_not_busy(tmp_path: Path) -> None:
    over = {"local": {"gpu": {"source": "prometheus", "url": "http://127.0.0.1:1"}}}
    async with world(tmp_path, over, local=StandInOllama(["llama3"])) as here:
        for _ in range(3):
            assert (await here.chat("Hello")).get("x-sidecar-reason") == "default_local"
        await measured_in(here)
        assert (await here.chat("Hello")).get("x-sidecar-reason") == "default_local"
        assert (await here.chat("Hello", HIGH)).get("x-sidecar-location") == "cloud"


def test_the_busiest_counts_and_nothing_is_no_figure() -> None:
    assert gpu._from_exporter(PAGE) == 87.5
    assert gpu._from_exporter(b"") is None
