"""Builds a real Ollama from its Go module and runs it with a tiny model: `build`, `serve PORT`, `path`.

For the end-to-end checks; nobody needs it to use the product. What it builds is kept outside the checkout, under
$OLLAMA_SIDECAR_TOOLS or the user's cache, by version, and is built again where it is missing. Needs Go, a C++
compiler and, to build, Debian's packages of two header-only libraries.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tiny_model import model

VERSION = "0.24.0"
MINIAUDIO = "1.71"
DEBIAN = ("nlohmann-json3-dev", "libstb-dev")
MODEL = "tiny"
TEMPLATE = (
    "{{ if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}{{ .Prompt }}"
)


def home() -> Path:
    """Where built tools are kept."""
    given = os.environ.get("OLLAMA_SIDECAR_TOOLS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "ollama-sidecar"


def binary() -> Path:
    """The real server's program, whether it is there or not."""
    return home() / f"ollama-{VERSION}" / "ollama"


def build() -> Path:
    """Builds it where it is missing: some minutes. Prints what it does."""
    target = binary()
    if os.access(target, os.X_OK):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _say(f"building Ollama {VERSION} into {target.parent} (some minutes)")
    _install_headers()
    include = target.parent / "include"
    _miniaudio(include)
    environment = {
        **os.environ,
        "CGO_ENABLED": "1",
        "GOFLAGS": "-buildvcs=false",
        "GOBIN": str(target.parent),
        # Go's module archive leaves out folders called vendor, and with them three header-only libraries.
        "CGO_CPPFLAGS": f"-I{include}",
    }
    flags = f"-s -w -X github.com/ollama/ollama/version.Version={VERSION}"
    started = time.monotonic()
    subprocess.run(
        ["go", "install", "-ldflags", flags, f"github.com/ollama/ollama@v{VERSION}"], env=environment, check=True
    )
    _say(f"built in {time.monotonic() - started:.0f} s")
    return target


def _install_headers() -> None:
    missing = [name for name in DEBIAN if not _installed(name)]
    if not missing:
        return
    _say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if subprocess.run(install, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(install, env=environment, stdout=subprocess.DEVNULL, check=True)


def _installed(name: str) -> bool:
    return subprocess.run(["dpkg", "-s", name], capture_output=True, check=False).returncode == 0


def _pip() -> list[str]:
    """This interpreter's pip, or the machine's: an environment made by another tool may have none."""
    return [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip3") or "pip3"]


def _miniaudio(include: Path) -> None:
    """The third library's header is inside a source package on PyPI."""
    with tempfile.TemporaryDirectory() as folder:
        download = ["download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder, f"miniaudio=={MINIAUDIO}"]
        subprocess.run([*_pip(), *download], check=True)
        archive = next(Path(folder).glob("miniaudio-*.tar.gz"))
        with tarfile.open(archive) as package:
            found = package.extractfile(f"miniaudio-{MINIAUDIO}/miniaudio/miniaudio.h")
            if found is None:
                raise SystemExit("miniaudio.h is not in its package any more")
            (include / "miniaudio").mkdir(parents=True, exist_ok=True)
            (include / "miniaudio" / "miniaudio.h").write_bytes(found.read())


class RealOllama:
    """A running server with the tiny model under the given names; a context manager."""

    def __init__(self, port: int, names: Sequence[str] = (MODEL,), *, log: Path | None = None) -> None:
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self._names = names
        self._log = log
        self._folder = Path(tempfile.mkdtemp(prefix="real-ollama-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RealOllama:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self._folder / "models"),
            "OLLAMA_NO_CLOUD": "0",
        }
        log = self._log.open("wb") if self._log else subprocess.DEVNULL
        self._process = subprocess.Popen([str(binary()), "serve"], env=environment, stdout=log, stderr=log)
        try:
            self._wait()
            self._load()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One request; the whole answer."""
        request = urllib.request.Request(self.base_url + path, data=body or None, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: bytes = answer.read()
        return data

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask("GET", "/api/version")
            except (urllib.error.URLError, ConnectionError):
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the real Ollama did not start") from None
                time.sleep(0.05)
            else:
                return

    def _load(self) -> None:
        data = model()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.ask("POST", f"/api/blobs/{digest}", data)
        first, *others = self._names
        create = {"model": first, "files": {"tiny.gguf": digest}, "template": TEMPLATE, "stream": False}
        self.ask("POST", "/api/create", json.dumps(create).encode())
        for name in others:
            self.ask("POST", "/api/copy", json.dumps({"source": first, "destination": name}).encode())


def _say(text: str) -> None:
    print(f"real_ollama: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build it where it is missing")
    commands.add_parser("path", help="print where its program is")
    serve = commands.add_parser("serve", help="run it with the tiny model until Ctrl-C")
    serve.add_argument("port", type=int)
    serve.add_argument("--name", action="append", help=f"the model's names (default: {MODEL})")
    arguments = parser.parse_args()
    if arguments.command == "path":
        print(binary())
        return 0
    build()
    if arguments.command == "serve":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with RealOllama(arguments.port, arguments.name or [MODEL], log=Path("/dev/stderr")) as server:
            _say(f"a real Ollama {VERSION} is at {server.base_url}; Ctrl-C ends it")
            try:
                signal.pause()
            except KeyboardInterrupt:
                return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
