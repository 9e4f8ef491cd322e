"""The composition root: settings in, a running sidecar out. The one place that knows every concrete class."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import http.client
import json
import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sidecar import __version__
from sidecar.core.budget import Holder
from sidecar.core.models import short
from sidecar.core.periods import periods_at
from sidecar.core.permit import PermitOffice
from sidecar.core.record import CallRecord
from sidecar.finding import CloudIsNotLocalError, Found, LoopError, Place, place_of, probe
from sidecar.http1 import MessageError
from sidecar.policies import caps_from, cloud_from, limits_from, local_from, policy_from
from sidecar.proxy.admin import Admin, Page
from sidecar.proxy.files import room_for
from sidecar.proxy.handler import Handler
from sidecar.proxy.hosts import Hosts
from sidecar.proxy.ports import PortError, listen
from sidecar.proxy.respond import protocol_error
from sidecar.proxy.server import Limits, Server
from sidecar.proxy.services import Services
from sidecar.settings import FileWatch, Loaded, Settings, SettingsError, load, masked
from sidecar.settings.names import is_loopback, split_address
from sidecar.settings.sections import Local
from sidecar.stores.embedded import EmbeddedStore
from sidecar.stores.keeper import Keeper
from sidecar.telemetry.audit import AuditLog
from sidecar.telemetry.batch import Batch
from sidecar.telemetry.log import LEVELS, CallLog, JsonHandler, LineWriter
from sidecar.telemetry.metrics import CONTENT_TYPE, MICRO, Metrics
from sidecar.upstream.cloud import CloudDoor
from sidecar.upstream.gpu import GpuMonitor
from sidecar.upstream.local import LocalUpstream

_log = logging.getLogger("sidecar")

WATCH_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 5.0
STDOUT, STDERR = 1, 2
# What a change of takes a restart: keys of these sections, but for those behind them, which are picked up as they
# change. Everything else is, too.
_FIXED: Mapping[str, frozenset[str]] = {
    "listen": frozenset(
        (
            *("drain_seconds", "hosts", "max_inference_body_mb"),
            *("max_connections", "max_header_kb", "header_timeout_seconds", "body_idle_timeout_seconds"),
        )
    ),
    "local": frozenset(("models", "gpu")),
    "telemetry": frozenset(),
}
# The same, but these are only read when the cloud is opened.
_FIXED_WITH_CLOUD: Mapping[str, frozenset[str]] = {
    "budget": frozenset(),
    "audit": frozenset(),
    "local": frozenset(Local.model_fields) - {"gpu"},
}


class StartError(Exception):
    """A sidecar that cannot start. The text names what is in the way and the fix."""


class Sidecar:
    """One running sidecar. `start`, then `wait`, then `stop`."""

    def __init__(self, loaded: Loaded, config: Path | None, env: Mapping[str, str], out: LineWriter) -> None:
        self.settings = loaded.settings
        self._loaded = loaded
        self._config = config
        self._env = env
        self._out = out
        self._stdout: LineWriter | None = None
        self._generation = 1
        self._key = ""
        self._key_since = 0.0
        self._zone = ZoneInfo("UTC")
        # The settings that were in force when the ports, and when the cloud was opened.
        self._opened = self._cloud_opened = loaded.settings
        self._nonce = secrets.token_hex(16)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._error: StartError | None = None
        self.services: Services
        self._batch: Batch
        self.data: Server
        self.admin: Server

    # Life.

    async def start(self) -> None:
        """Opens the ports and begins to serve. Waits for no upstream. Raises StartError."""
        settings = self.settings
        try:
            place = place_of(settings, self._env)
        except CloudIsNotLocalError as error:
            raise StartError(str(error)) from error
        data, admin = self._open_ports()
        metrics = Metrics(self._model_label, __version__)
        metrics.live(self._live_metrics)
        self.services = Services(
            policy=policy_from(settings, self._generation),
            local=LocalUpstream(local_from(settings, place.base_url)),
            hosts=Hosts(settings.listen.hosts),
            metrics=metrics,
            office=PermitOffice(),
            max_body=settings.listen.max_inference_body_mb * 1024 * 1024,
            nonce=self._nonce.encode("ascii"),
        )
        services = self.services
        self._batch = Batch(self._observers(settings))
        services.observers = (self._batch,)
        self._set_canary_gauges()
        if settings.cloud_enabled:
            self._open_cloud(settings)
        self.data = Server(Handler(services).serve, self._protocol_error, _within_files(limits_from(settings)))
        pages = Admin({"version": __version__}, self._metrics_page, self._config_page, lambda: not self.data.draining)
        self.admin = Server(pages.serve, self._protocol_error, Limits(connections=256, head_seconds=10))
        await self.admin.start([admin])
        await self.data.start(data)
        self._say_started(place)
        self._spawn(self._watch_settings())
        self._spawn(self._find_local())
        # What lives now lives to the end: the collector need not look at it again with every call.
        gc.collect()
        gc.freeze()

    async def wait(self) -> None:
        """Until `request_stop`. Raises StartError where it turns out that we cannot work."""
        await self._stopping.wait()
        if self._error is not None:
            raise self._error

    def request_stop(self) -> None:
        """Asks for the end; may be called from a signal handler of the loop."""
        self._stopping.set()

    async def stop(self) -> None:
        """Lets open streams end within the drain time, gives the lease back, writes what is to be written."""
        self._stopping.set()
        for task in list(self._tasks):
            task.cancel()
        seconds = self.settings.listen.drain_seconds
        clean = await self.data.drain(seconds)
        self._batch.flush()
        services = self.services
        if services.keeper is not None:
            await services.keeper.close(min(seconds, 10.0) or 1.0)
        await self.admin.drain(0.5)
        self._batch.flush()
        services.local.close()
        if services.gpu is not None:
            services.gpu.close()
        if services.door is not None:
            services.door.close()
        if services.audit is not None:
            services.audit.close()
        if self._stdout is not None:
            self._stdout.close()
        _log.info("stopped" if clean else "stopped; the drain time was over, so some answers were cut")

    # Parts.

    def _open_ports(self) -> tuple[list[socket.socket], socket.socket]:
        listening, opened = self.settings.listen, list[socket.socket]()
        try:
            for address in listening.data:
                # IPv6 loopback is best effort: it may not be there. What matters is that some port is.
                last_resort = address == listening.data[-1] and not opened
                try:
                    opened.append(listen(*split_address(address)))
                except PortError as error:
                    if split_address(address)[0] != "::1" or last_resort:
                        raise StartError(_port_fix(error, "listen.data", address)) from error
                    _log.warning("%s; apps that prefer IPv6 do not reach the sidecar there", error)
            try:
                admin = listen(*split_address(listening.admin))
            except PortError as error:
                raise StartError(_port_fix(error, "listen.admin", listening.admin)) from error
        except StartError:
            for sock in opened:
                sock.close()
            raise
        return opened, admin

    def _open_cloud(self, settings: Settings) -> None:
        services = self.services
        self._cloud_opened = settings
        key = self._key = settings.ollama_cloud.resolve_api_key() or ""
        self._key_since = time.time()
        services.door = CloudDoor(cloud_from(settings), services.office, key, f"ollama-sidecar/{__version__}")
        services.door.generation = self._generation
        path = None if str(settings.audit.path) == "-" else str(settings.audit.path)
        if settings.audit.stdout:
            self._stdout = LineWriter(STDOUT)
        services.audit = AuditLog(path, self._stdout)
        services.audit.api_key(key, "loaded")
        self._zone = ZoneInfo(settings.budget.timezone)
        store = EmbeddedStore(str(settings.budget.embedded.path), self._zone)
        holder = Holder(secrets.token_hex(16), caps_from(settings))
        services.keeper = Keeper(store, holder, settings.budget.wait_ms / 1000)
        services.keeper.start()
        gpu = settings.local.gpu
        if gpu.source != "none":
            services.gpu = GpuMonitor(gpu.source, gpu.url)

    def _observers(self, settings: Settings) -> tuple[Callable[[CallRecord], None], ...]:
        metrics = self.services.metrics
        return (CallLog(self._out), metrics) if LEVELS[settings.log.level] <= logging.INFO else (metrics,)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _protocol_error(self, error: MessageError, data: bytes) -> bytes:
        self.services.metrics.protocol_errors.labels(str(error.status)).inc()
        return protocol_error(error, data)

    # Settings that change.

    async def _watch_settings(self) -> None:
        watch = FileWatch(self._loaded.files)
        loop = asyncio.get_running_loop()
        mistakes = ""
        while watch.paths:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                # In a thread: a mount that hangs holds no call up.
                changed = await loop.run_in_executor(None, watch.changed)
                # After a mistake all is read again each time: what will mend it may be a file that is not watched
                # yet, such as a key that is mounted a moment later.
                if not changed and not mistakes:
                    continue
                loaded = await loop.run_in_executor(None, load, self._config, self._env)
                if loaded.digest != self._loaded.digest:
                    self._take(loaded)
                elif mistakes:
                    _log.info("the settings are valid again, and as they were")
                mistakes = ""
                watch = FileWatch(loaded.files)
            except SettingsError as errors:
                if str(errors) != mistakes:
                    mistakes = str(errors)
                    self.services.metrics.config_errors.inc()
                    for error in errors.errors:
                        _log.error("changed settings are not valid, the last good ones stay: %s", error)
            except Exception:  # noqa: BLE001 - without the watch a new key would never be picked up
                self.services.metrics.config_errors.inc()
                _log.exception("changed settings could not be taken, the last good ones stay")

    def _take(self, loaded: Loaded) -> None:
        before, after = self.settings, loaded.settings
        services = self.services
        policy = policy_from(after, self._generation + 1)
        self._generation += 1
        services.policy = policy
        self._loaded, self.settings = loaded, after
        services.hosts = Hosts(after.listen.hosts)
        services.max_body = after.listen.max_inference_body_mb * 1024 * 1024
        self.data.limits = _within_files(limits_from(after))
        if after.log.level != before.log.level:
            logging.getLogger().setLevel(LEVELS[after.log.level])
            self._batch.flush()
            self._batch.observers = self._observers(after)
        self._take_cloud(after)
        self._set_canary_gauges()
        services.metrics.config_reloads.inc()
        fixed = self._restart_needed()
        if fixed:
            _log.warning("changed settings that take a restart: %s", ", ".join(fixed))
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        _log.info("changed settings are in force%s", ", but for those" if fixed else "")

    def _take_cloud(self, after: Settings) -> None:
        services = self.services
        if services.door is None:
            if after.cloud_enabled:
                self._open_cloud(after)
            return
        services.door.change(cloud_from(after), self._generation)
        key = after.ollama_cloud.resolve_api_key() or ""
        if key and key != self._key:
            services.door.set_key(key)
            self._key, self._key_since = key, time.time()
            if services.audit is not None:
                services.audit.api_key(key, "rotated")
        if services.keeper is not None:
            services.keeper.set_caps(caps_from(after))

    def _restart_needed(self) -> list[str]:
        """The keys whose values wait for a restart."""
        found = _differences(self._opened, self.settings, _FIXED)
        if self.services.door is not None:
            found += _differences(self._cloud_opened, self.settings, _FIXED_WITH_CLOUD)
        return found

    # The local server.

    async def _find_local(self) -> None:
        pool = self.services.local.pool
        said: Found | None = None
        while True:
            try:
                found = await probe(pool, self._nonce)
            except LoopError as loop_error:
                self._error = StartError(
                    f"local.base_url {loop_error} leads back to this sidecar. "
                    "Set it to where Ollama listens, e.g. http://127.0.0.1:11435"
                )
                self._stopping.set()
                return
            if found.is_ollama:
                _log.info("found Ollama %s at %s", found.version, pool.origin)
                return
            if found != said:
                self._say_not_found(found)
                said = found
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _say_not_found(self, found: Found) -> None:
        origin = self.services.local.pool.origin
        if not found.missing:
            _log.warning(
                "what answers at %s is no Ollama (HTTP %d for /api/version). Set local.base_url to where it listens",
                origin,
                found.status,
            )
            return
        start = f"Start it there (OLLAMA_HOST={origin.host_header.decode()} ollama serve)"
        if not is_loopback(origin.host):
            start = "Start it there"
        _log.warning(
            "no Ollama answers at %s yet (%s); it is looked for every %g s. "
            "%s, or set local.base_url to where it listens",
            origin,
            found.missing,
            LOOK_AGAIN_SECONDS,
            start,
        )

    def _say_started(self, place: Place) -> None:
        off = self.services.policy.cloud_off
        _log.info(
            "serving on %s, admin on %s; local Ollama %s (by %s), cloud %s, strategy %s, settings from %s",
            ", ".join(_shown(*address) for address in self.data.addresses),
            _shown(*self.admin.addresses[0]),
            place.base_url,
            place.said_by,
            f"off: {off}" if off else self.settings.ollama_cloud.base_url,
            self.settings.ollama_cloud.decision_strategy,
            self._config if self._config is not None else "defaults and environment, without a file",
        )
        if place.warning:
            _log.warning("%s", place.warning)
        for warning in self._loaded.warnings:
            _log.warning("%s", warning)

    # What the admin port shows.

    def _metrics_page(self) -> Page:
        self._batch.flush()
        if self.services.keeper is not None:
            self.services.metrics.begin_day(periods_at(time.time(), self._zone).day)
        return Page(200, CONTENT_TYPE.encode(), self.services.metrics.expose())

    def _config_page(self) -> Mapping[str, object]:
        return {
            "generation": self._generation,
            "restart_needed": self._restart_needed(),
            "settings": masked(self.settings),
        }

    def _model_label(self, name: str) -> str | None:
        if name in self.services.policy.catalogue:
            return name
        # `LLaMA3`, `llama3:latest` and `library/llama3` are one model to Ollama, so they are one label.
        listed = short(name)
        return listed.removesuffix(":latest") if listed in self.services.local.models.known_names() else None

    def _set_canary_gauges(self) -> None:
        canary = self.services.policy.canary
        for task_type in ("extraction", "generation", "vlm"):
            self.services.metrics.canary_wanted.labels(task_type).set(canary.share_of(task_type) / 100)

    def _live_metrics(self) -> Iterable[tuple[str, str, dict[str, str], float]]:
        services, now = self.services, asyncio.get_running_loop().time()
        own = "ollama_sidecar_"
        yield own + "open_connections", "Client connections", {}, self.data.open_connections
        yield own + "local_calls", "Our inference calls at the local server or waiting", {}, services.local.calls
        yield own + "local_queue_depth", "Calls that wait for a place there", {}, services.local.waiting
        yield own + "log_lines_dropped", "Log lines that could not be written", {}, self._out.dropped
        if services.door is not None:
            state = services.door.breaker.state(now)
            for name in ("closed", "half_open", "open"):
                text = "The cloud's circuit breaker: 1 for its state"
                yield own + "breaker_state", text, {"state": name}, float(name == state)
            yield own + "rate_limited", "1 while the cloud asked for a pause", {}, float(services.door.rate_limited)
            age = time.time() - self._key_since
            yield own + "api_key_age_seconds", "Since this key is in use", {}, age
        if services.audit is not None:
            yield own + "audit_failures", "Writes of the audit log that failed", {}, services.audit.failures
        if services.keeper is not None:
            standing = services.keeper.standing
            text = "This sidecar's lease, in USD"
            for name, amount in (
                ("free", standing.free),
                ("reserved", standing.reserved),
                ("settled", standing.settled),
            ):
                yield own + "lease_usd", text, {"state": name}, amount / MICRO
            yield own + "store_failures", "Steps that the budget store did not answer", {}, services.keeper.failures
            reply = standing.reply
            if reply is not None:
                text = "Share of the shared budget that is not settled, in per cent"
                pairs = (
                    ("daily", reply.caps.daily, reply.settled_daily),
                    ("monthly", reply.caps.monthly, reply.settled_monthly),
                )
                for period, cap, settled in pairs:
                    left = max(cap - settled, 0) * 100 / cap if cap else 0.0
                    yield "ollama_cloud_budget_remaining_pct", text, {"period": period}, left


def _differences(before: Settings, after: Settings, sections: Mapping[str, frozenset[str]]) -> list[str]:
    found = []
    for section, taken_up in sections.items():
        one, other = getattr(before, section), getattr(after, section)
        keys = [key for key in type(one).model_fields if key not in taken_up]
        found += [f"{section}.{key}" for key in keys if getattr(one, key) != getattr(other, key)]
    return found


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Ports.


def _port_fix(error: PortError, key: str, address: str) -> str:
    """What is wrong with a port, and what to do about it, by who has it."""
    cause = error.__cause__
    if not (isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE):
        return f"{error}. Set {key} to an address of this machine and a port that this user may open"
    version, ours = _ask_version(*split_address(address))
    if ours or " by ollama-sidecar (" in str(error):
        return f"{error}. Another sidecar runs there: stop it, or set {key} to another port"
    if key == "listen.data" and (version or " by ollama (" in str(error)):
        return (
            f"{error}. Ollama{f' {version}' if version else ''} itself listens there: start it elsewhere "
            "(OLLAMA_HOST=127.0.0.1:11435 ollama serve), so that apps find the sidecar on its port"
        )
    return f"{error}. Stop it, or set {key} to another port"


def _ask_version(host: str, port: int) -> tuple[str, bool]:
    """The version of the Ollama at a port, empty where there is none, and whether a sidecar of ours answered."""
    # /proc does not name another user's process, and Ollama as a service is one.
    connection = http.client.HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, timeout=1)  # noqa: S104
    try:
        connection.request("GET", "/api/version")
        response = connection.getresponse()
        version = json.loads(response.read(4096)).get("version", "")
        ours = response.getheader("X-Request-Id") is not None
    except (OSError, ValueError, AttributeError, RecursionError, http.client.HTTPException):
        return "", False
    finally:
        connection.close()
    return (version if isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version) else ""), ours


# The process.


async def run(loaded: Loaded, config: Path | None, env: Mapping[str, str]) -> int:
    """Serves until SIGTERM (exit 0) or SIGINT (exit 130). Raises StartError."""
    out = LineWriter(STDERR)
    loop = asyncio.get_running_loop()
    _log_to(out, LEVELS[loaded.settings.log.level], loop)
    sidecar = Sidecar(loaded, config, env, out)
    stopping = interrupted = False

    def on_terminate() -> None:
        nonlocal stopping
        stopping = True
        sidecar.request_stop()

    def on_interrupt() -> None:
        nonlocal interrupted
        if stopping:
            os._exit(130)  # the second Ctrl-C means now
        interrupted = True
        on_terminate()

    # Before anything is opened: as PID 1 a process that has no handler does not hear the signal at all.
    for number, action in ((signal.SIGTERM, on_terminate), (signal.SIGINT, on_interrupt)):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, action)
    try:
        await sidecar.start()
        try:
            await sidecar.wait()
        finally:
            await sidecar.stop()
    finally:
        out.close()
    return 130 if interrupted else 0


def _within_files(limits: Limits) -> Limits:
    room = room_for(limits.connections)
    if room < limits.connections:
        _log.warning(
            "the limit on open files has room for %d connections, not for the %d of listen.max_connections; raise it "
            "(ulimit -n), or lower that",
            room,
            limits.connections,
        )
    return replace(limits, connections=room)


def _log_to(out: LineWriter, level: int, loop: asyncio.AbstractEventLoop) -> None:
    """Sends all that is logged, warned of or raised where nobody catches it to `out`, as JSON lines without texts."""
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(out)]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)

    def in_loop(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        # What asyncio says itself quotes arguments and the exception, and either may hold a part of a request.
        error = context.get("exception")
        said = re.match(r"[A-Za-z ]*", str(context.get("message", "")))
        _log.error("%s", said[0].strip() if said else "", exc_info=error if isinstance(error, Exception) else None)

    def in_thread(arguments: threading.ExceptHookArgs) -> None:
        info = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        _log.error("a thread ended with an error", exc_info=info if arguments.exc_value is not None else None)  # type: ignore[arg-type]

    loop.set_exception_handler(in_loop)
    threading.excepthook = in_thread
