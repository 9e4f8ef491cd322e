"""The commands. Exit codes: 0 good, 1 the answer is no, 2 wrong use or settings, 130 on Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar import __version__

if TYPE_CHECKING:
    from types import FrameType

    from sidecar.settings import Loaded

GOOD, WRONG, INTERRUPTED = 0, 2, 130
# What a write to stdout says where the file behind it takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and gives its exit code."""
    _open_standard_streams()
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough, as in `… | head -1`. At exit Python would flush once more.
        _lose_stdout()
        return GOOD
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _lose_stdout()
        return _wrong(f"cannot write the output: {error.strerror}")
    return code


def _open_standard_streams() -> None:
    """Gives the numbers 0, 1 and 2 to something where they are closed.

    The next file or connection would get such a number, and what is meant for stdout would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for stream in (sys.stdout, sys.stderr):
        # Names and paths may hold what the terminal's encoding has not, or what is no text at all.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Python has none where the number was closed when it began.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _lose_stdout() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _wrong(text: object) -> int:
    print(f"ollama-sidecar: {text}", file=sys.stderr)
    return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ollama-sidecar",
        description="A proxy on Ollama's own port that decides per call: the local Ollama, or Ollama Cloud.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def config(sub: argparse.ArgumentParser) -> None:
        text = "settings, YAML; else the file that OLLAMA_SIDECAR_CONFIG names, else the defaults"
        sub.add_argument("--config", metavar="FILE", type=Path, help=text)

    serve = command("serve", "Serve apps on Ollama's port.", _serve)
    config(serve)
    demo = command("demo", "Show it with stand-ins for both Ollamas; nothing else is needed.", _demo)
    demo.add_argument(
        "--port", type=_port, default=0, help="port for apps; without it Ollama's own, or a free one if that is taken"
    )
    demo.add_argument("--once", action="store_true", help="end after the table")
    check = command("check", "Check a settings file without running; exit code 2 with every mistake in it.", _check)
    check.add_argument("file", metavar="FILE", type=Path)
    explain = command("explain", "Say what would be done with a request, and why; nothing is sent.", _explain)
    explain.add_argument(
        "-H",
        "--header",
        metavar="'Name: value'",
        action="append",
        default=[],
        help="a request header; may be repeated",
    )
    explain.add_argument("--path", default="/api/chat", help="the request's path (default: %(default)s)")
    config(explain)
    explain.add_argument("--json", action="store_true", help="as JSON")
    explain.add_argument(
        "body", metavar="BODYFILE", nargs="?", default="-", help="file with the body; - or nothing: from stdin"
    )
    version = command("version", "Print the version.", _version)
    version.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: write a number from 1 to 65535")
    return int(text)


def _version(arguments: argparse.Namespace) -> int:
    print(json.dumps({"version": __version__}) if arguments.json else f"ollama-sidecar {__version__}")
    return GOOD


def _loaded(path: Path | None) -> Loaded | None:
    """The settings; None where they are wrong, which is said."""
    from sidecar.settings import SettingsError, load

    try:
        return load(path, os.environ)
    except SettingsError as errors:
        count = len(errors.errors)
        if count == 1 and errors.errors[0].key == str(path):  # about the file itself, not about a key in it
            _wrong(errors.errors[0])
            return None
        where = f" in {path}" if path is not None else ""
        print(f"{count} mistake{'s' if count > 1 else ''}{where}", file=sys.stderr)
        print(errors, file=sys.stderr)
        return None


def _check(arguments: argparse.Namespace) -> int:
    loaded = _loaded(arguments.file)
    if loaded is None:
        return WRONG
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{arguments.file}: good")
    return GOOD


def _config(arguments: argparse.Namespace) -> Path | None:
    given = os.environ.get("OLLAMA_SIDECAR_CONFIG", "").strip()
    return arguments.config or (Path(given) if given else None)


def _explain(arguments: argparse.Namespace) -> int:
    loaded = _loaded(_config(arguments))
    if loaded is None:
        return WRONG
    from sidecar.explain import ExplainError, Given, explain, text

    try:
        if arguments.body == "-" and sys.stdin.isatty():
            print("reading the body from the keyboard; end it with Ctrl-D", file=sys.stderr)
        body = sys.stdin.buffer.read() if arguments.body == "-" else Path(arguments.body).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not a path"
        return _wrong(f"{arguments.body}: {reason}")
    try:
        report = explain(loaded.settings, Given(arguments.header, arguments.path, body))
    except ExplainError as error:
        return _wrong(error)
    print(json.dumps(report, indent=2, ensure_ascii=False) if arguments.json else text(report))
    return GOOD


def _demo(arguments: argparse.Namespace) -> int:
    from sidecar.app import StartError
    from sidecar.demo import demo

    try:
        return run_loop(demo(arguments.port, once=arguments.once))
    except StartError as error:
        return _wrong(error)


def _serve(arguments: argparse.Namespace) -> int:
    # Until the loop has its own handlers. Without one, PID 1 of a container does not hear SIGTERM at all.
    signal.signal(signal.SIGTERM, _leave)
    config = _config(arguments)
    loaded = _loaded(config)
    if loaded is None:
        return WRONG
    from sidecar.app import StartError, run

    try:
        return run_loop(run(loaded, config, os.environ))
    except StartError as error:
        return _wrong(error)


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(GOOD)


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Runs on uvloop where there is one; it halves the cost of a call."""
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
