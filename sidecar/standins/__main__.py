"""`python -m sidecar.standins local|cloud [--port N] [--key K]`: one stand-in in the foreground, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from sidecar.standins.cloud import StandInCloud
from sidecar.standins.ollama import StandInOllama

_KEPT_REQUESTS = 100


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sidecar.standins", description="A stand-in, not the real thing.")
    parser.add_argument("which", choices=("local", "cloud"), help="a local Ollama, or Ollama Cloud")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0, the default, takes a free one")
    parser.add_argument("--key", default="stand-in-key", help="the bearer token that the cloud takes")
    parser.add_argument("--model", action="append", help="a model that it has; may be repeated")
    parser.add_argument("--token-delay", type=float, default=0.02, help="seconds between two tokens")
    given = parser.parse_args(arguments)
    try:
        return asyncio.run(_serve(given))
    except KeyboardInterrupt:
        return 130


async def _serve(given: argparse.Namespace) -> int:
    server: StandInOllama
    # Nobody reads the record of a stand-in that runs by itself: keep it small.
    settings = {"token_delay": given.token_delay, "record_bodies": False, "keep_requests": _KEPT_REQUESTS}
    models = {"models": given.model} if given.model else {}
    if given.which == "cloud":
        server = StandInCloud(key=given.key, **models, **settings)
        what = "Ollama Cloud"
    else:
        server = StandInOllama(**models, **settings)
        what = "a local Ollama"
    try:
        await server.start(port=given.port)
    except OSError as error:
        sys.stderr.write(f"cannot listen on 127.0.0.1:{given.port}: {error.strerror}\n")
        return 2
    stopped = asyncio.Event()
    received: list[int] = []
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        received.append(number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    sys.stdout.write(f"a stand-in for {what} (not the real thing) listens on {server.base_url}\n")
    sys.stdout.flush()
    try:
        await stopped.wait()
    finally:
        await server.close()
    sys.stdout.write("stand-in ended\n")
    return 130 if received == [signal.SIGINT] else 0


if __name__ == "__main__":
    sys.exit(main())
