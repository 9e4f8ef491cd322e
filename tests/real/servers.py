"""The real servers: one that runs the local models, one that runs the cloud's, and what the first wants outside."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import psutil

from real_ollama import TEMPLATE, RealOllama, binary
from tiny_model import model

# With more threads than it has cores to itself, llama.cpp spends its time waiting for the one that is not running.
# With a seed of its own a model says the same each time, also to a client that cannot send one.
PARAMETERS: dict[str, Any] = {"num_thread": 1, "seed": 1}
# As `tiny`, but its text never comes to an end: it takes longer than any test waits for it.
ENDLESS = "endless"
ENDLESS_PARAMETERS = {**PARAMETERS, "num_predict": -1, "top_k": 2, "repeat_penalty": 1.3, "repeat_last_n": 64}
_LOGGED = re.compile(r'\[GIN\] [^|]*\| +(\d+) \|[^|]*\|[^|]*\| (\S+) +"([^"]*)"')
_SHOWN = {
    "details": {"format": "", "family": "gptoss"},
    "model_info": {"general.architecture": "gptoss"},
    "capabilities": ["completion", "tools"],
    "modified_at": "2026-01-01T00:00:00Z",
}


@dataclass(frozen=True)
class Wanted:
    """A request that a server made to the outside."""

    method: str
    target: str
    body: bytes


class Outside:
    """All that a real server can reach beside this machine: it remembers what is asked, tells what a cloud model is,
    and refuses the rest."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        outside = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outside.wanted.append(Wanted(self.command, self.path, body))
                known = (self.command, self.path.partition("?")[0]) == ("POST", "/api/show")
                answer = json.dumps(_SHOWN if known else {"error": "there is no outside"}).encode()
                self.send_response(200 if known else 502)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_CONNECT = _serve  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def since(self, mark: int) -> list[Wanted]:
        """What was asked after `mark`, but for what a model is: that names it and says nothing of a call."""
        return [one for one in self.wanted[mark:] if one.target.partition("?")[0] != "/api/show"]


class Server(RealOllama):
    """A real Ollama on a free port with the tiny model under the given names and as `endless`."""

    def __init__(self, names: Sequence[str], log: Path, outside: Outside) -> None:
        super().__init__(free_port(), names, log=log)
        self.log = log
        self._digest = ""
        self._outside = outside

    def __enter__(self) -> Self:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self._folder / "models"),
            "OLLAMA_CLOUD_BASE_URL": self._outside.address,
            "HTTPS_PROXY": self._outside.address,
            "HTTP_PROXY": self._outside.address,
            "OLLAMA_KEEP_ALIVE": "1h",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([str(binary()), "serve"], env=environment, stdout=log, stderr=log)
        try:
            self._wait()
            self._load()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _load(self) -> None:
        data = model()
        self._digest = digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.ask("POST", f"/api/blobs/{digest}", data)
        for name, parameters in (*((name, PARAMETERS) for name in self._names), (ENDLESS, ENDLESS_PARAMETERS)):
            files = {"files": {"tiny.gguf": digest}, "template": TEMPLATE, "parameters": parameters}
            self.post("/api/create", {"model": name, "stream": False, **files})

    def post(self, path: str, body: Any) -> Any:
        """One call straight to it; the answer's JSON, None for an empty one."""
        answer = self.ask("POST", path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def runner(self) -> psutil.Process:
        """The process that generates for all of its models, which are one file; one of them has to be loaded."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children()
        return next(one for one in children if any(self._digest[7:] in word for word in one.cmdline()))

    def runner_port(self) -> int:
        """Where that process listens. It generates one text at a time, whoever asks."""
        words = self.runner().cmdline()
        return int(words[words.index("--port") + 1])

    def worked(self) -> float:
        """The processor time of that process: it stands still while nothing is generated."""
        times = self.runner().cpu_times()
        return float(times.user + times.system)

    def logged(self, mark: int = 0) -> list[tuple[int, str, str]]:
        """Status, method and path of the requests that its log tells of, behind so many bytes of it."""
        text = self.log.read_bytes()[mark:].decode("utf-8", "replace")
        return [(int(status), method, path) for status, method, path in _LOGGED.findall(text)]

    def mark(self) -> int:
        """Where its log ends now."""
        return self.log.stat().st_size


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
