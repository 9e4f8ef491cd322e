"""How busy the local GPUs are: NVML where there is a driver, else a Prometheus or DCGM URL, else unknown.

Measured beside the calls, every few seconds while calls ask for it; a call only reads the last figure.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import sys
from urllib.parse import urlencode, urlsplit

import orjson

from sidecar.upstream.connection import UpstreamError
from sidecar.upstream.fetch import fetch
from sidecar.upstream.pool import Origin, Pool

_log = logging.getLogger("sidecar.gpu")

MEASURE_SECONDS = 2.0
# A figure older than this says nothing any more.
STALE_SECONDS = 15.0
METRIC = "DCGM_FI_DEV_GPU_UTIL"


class GpuMonitor:
    """The utilisation of the busiest GPU in per cent; None where it is not known, which counts as not busy.

    The busiest, since Ollama spreads one large model over all GPUs and waits for each of them in turn.
    `source` is `auto`, `nvml`, `prometheus` or `none`. `url` is a Prometheus server (its query API is asked for the
    DCGM exporter's metric), a query URL, or an exporter's `/metrics`.
    """

    def __init__(self, source: str, url: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._url = url
        self._nvml: _Nvml | None = None
        self._pool: Pool | None = None
        self._value: float | None = None
        self._measured_at = float("-inf")
        self._tried_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.found = "unknown"
        self.last_error = ""

    def read(self) -> float | None:
        """The last figure. Starts a measurement where that is old."""
        now = self._loop.time()
        if self._source != "none" and self._task is None and now - self._tried_at >= MEASURE_SECONDS:
            self._tried_at = now
            self._task = self._loop.create_task(self._measure())
        return self._value if now - self._measured_at < STALE_SECONDS else None

    async def measure(self) -> float | None:
        """Measures now."""
        await self._measure()
        return self._value

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._nvml is not None:
            self._nvml.close()
        if self._pool is not None:
            self._pool.close()

    async def _measure(self) -> None:
        try:
            value = await self._ask()
        except (UpstreamError, ValueError) as error:
            value = None
            if str(error) != self.last_error:
                self.last_error = str(error)
                _log.warning("GPU utilisation is unknown: %s", error)
        finally:
            self._task = None
        if value is None or not math.isfinite(value):
            self._value = None
        else:
            self._value, self._measured_at, self.last_error = value, self._loop.time(), ""

    async def _ask(self) -> float | None:
        if self._source in ("auto", "nvml"):
            if self._nvml is None:
                self._nvml = await self._loop.run_in_executor(None, _open_nvml, self._source == "nvml")
            if self._nvml is not None:
                self.found = "nvml"
                return await self._loop.run_in_executor(None, self._nvml.read)
            if self._source == "auto" and not self._url:
                self._source = "none"  # there is no driver now, and there will be none
        if self._url and self._source in ("auto", "prometheus"):
            self.found = "prometheus"
            return await self._ask_url()
        return None

    async def _ask_url(self) -> float | None:
        parts = urlsplit(self._url)
        if self._pool is None:
            self._pool = Pool(Origin.of(f"{parts.scheme}://{parts.netloc}"), MEASURE_SECONDS)
        path, query = parts.path, parts.query
        if not path.rstrip("/").endswith(("/metrics", "/query")):
            path = path.rstrip("/") + "/api/v1/query"
        if path.endswith("/query") and not query:
            query = urlencode({"query": f"max({METRIC})"})
        head, body = await fetch(self._pool, "GET", f"{path}?{query}" if query else path, seconds=2 * MEASURE_SECONDS)
        if head.status != 200:
            raise UpstreamError("protocol", f"{self._url} answered {head.status}", sent=True, answered=True)
        return _from_exporter(body) if path.rstrip("/").endswith("/metrics") else _from_query(body)


class _Nvml:
    """The NVIDIA driver's own figures."""

    def __init__(self) -> None:
        import pynvml

        self._library = pynvml
        pynvml.nvmlInit()

    def read(self) -> float | None:
        """The highest utilisation of all devices. Raises ValueError where the driver does not answer."""
        library = self._library
        try:
            handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
            return max((float(library.nvmlDeviceGetUtilizationRates(h).gpu) for h in handles), default=None)
        except library.NVMLError as error:
            raise ValueError(f"NVML: {error}") from error

    def close(self) -> None:
        self._library.nvmlShutdown()


def _driver_is_there() -> bool:
    """Whether the driver's library loads. Asked first, since the binding alone takes 15 MiB."""
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _open_nvml(wanted: bool) -> _Nvml | None:
    if not wanted and not _driver_is_there():
        return None
    # The binding raises classes of its own, which are known only once it is imported.
    try:
        return _Nvml()
    except Exception as error:
        if wanted:
            raise ValueError(f"NVML cannot be used: {error}") from error
        return None


def _from_query(body: bytes) -> float | None:
    try:
        result = orjson.loads(body)["data"]["result"]
        return max((float(row["value"][1]) for row in result), default=None)
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise ValueError("the query's answer is not Prometheus' own shape") from error


def _from_exporter(body: bytes) -> float | None:
    # Only where an exporter is asked: the parser alone takes 0.5 MiB.
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(body.decode("utf-8", "replace")))
    except (ValueError, IndexError) as error:
        raise ValueError(f"the exporter's page cannot be read: {error}") from error
    return max((one.value for family in families for one in family.samples if one.name == METRIC), default=None)
