"""The small commands and wrong use, as a new user meets them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from sidecar import __version__
from sidecar.cli import main
from support.process import run_command

COMMANDS = ("serve", "demo", "check", "explain", "version")
TEN_MISTAKES = """\
ollama_cloud:
  api_key: k
  decision_strategy: hybird
  cost_limits: {daily_budget_usd: -1}
  base_url: http://cloud.example
  fallback: {on_rate_limit: queue}
canary: {percent: 101}
classification: {default: secret}
listen: {data: [localhost], admin: "127.0.0.1:99999"}
budget: {timezone: Europe/Belrin}
lcoal: {}
"""
TEN_KEYS = (
    "ollama_cloud.decision_strategy",
    "ollama_cloud.cost_limits.daily_budget_usd",
    "ollama_cloud.base_url",
    "ollama_cloud.fallback.on_rate_limit",
    "canary.percent",
    "classification.default",
    "listen.data[0]",
    "listen.admin",
    "budget.timezone",
    "lcoal",
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("OLLAMA")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")


def used(*arguments: str) -> int:
    """The exit code, also where the parser ends it."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


# check


def test_a_good_file_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("ollama_cloud: {api_key: k}\n")
    assert used("check", str(path)) == 0
    assert capsys.readouterr() == (f"{path}: good\n", "")


def test_a_good_file_can_have_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("listen: {data: ['0.0.0.0:11434']}\n")
    assert used("check", str(path)) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: good\n"
    assert [line.partition(":")[0] for line in err.splitlines()] == ["warning", "warning"]
    assert "cloud is off" in err
    assert "is not loopback" in err


def test_ten_mistakes_are_all_named_in_the_order_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(TEN_MISTAKES)
    assert used("check", str(path)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, *rest = err.splitlines()
    assert first == f"10 mistakes in {path}"
    assert [line.split(": ")[0] for line in rest] == [f"{n}. {key}" for n, key in enumerate(TEN_KEYS, 1)]
    assert all(" (line " in line for line in rest)


def test_the_secret_of_a_wrong_file_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text('ollama_cloud: {api_key: "sk canary", base_url: "http://u:canary@x.example"}\napi_key: canary\n')
    assert used("check", str(path)) == 2
    assert "canary" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(bytes(range(256))), "is not UTF-8 text"),
        (lambda path: path.write_bytes(b"a: [\n"), "is not valid YAML"),
        (lambda path: path.write_bytes(b"- a\n"), "holds a list where a mapping is expected"),
    ],
)
def test_a_file_that_is_none_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, text: str
) -> None:
    path = tmp_path / "settings.yaml"
    assert callable(make)
    make(path)
    assert used("check", str(path)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ollama-sidecar: {path}: {text}")
    assert len(err.splitlines()) == 1


def test_an_empty_file_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("")
    assert used("check", str(path)) == 0
    assert "cloud is off" in capsys.readouterr().err


async def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    name = b"a\xff.yaml"
    (tmp_path / os.fsdecode(name)).write_text("ollama_cloud: {api_key: k}")
    done = await run_command("check", os.fsdecode(name), home=tmp_path)
    assert (done.code, done.out) == (0, "a\\udcff.yaml: good\n")


async def test_a_locale_without_unicode_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "größe.yaml").write_text("canary: {percent: ½}\n")
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = await run_command("check", "größe.yaml", home=tmp_path, env=env)
    assert done.code == 2
    assert "canary.percent" in done.err
    assert "Traceback" not in done.err


# version and help


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert used("version") == 0
    assert capsys.readouterr().out == f"ollama-sidecar {__version__}\n"
    assert used("version", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), *((command, "--help") for command in COMMANDS)])
def test_every_command_has_help_that_fits_80_columns(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert used(*arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("usage: ollama-sidecar ")
    assert max(map(len, out.splitlines())) <= 80
    if len(arguments) == 1:
        for command in COMMANDS:
            assert f"    {command} " in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("nonsense",), "invalid choice: 'nonsense' (choose from"),
        (("serve", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("serve", "--config"), "argument --config: expected one argument"),
        (("serve", "settings.yaml"), "unrecognized arguments: settings.yaml"),
        (("check",), "the following arguments are required: FILE"),
        (("check", "a", "b"), "unrecognized arguments: b"),
        (("explain", "-H"), "argument -H/--header: expected one argument"),
        (("demo", "--port", "99999"), "'99999' is not a port: write a number from 1 to 65535"),
        (("demo", "--port", "-1"), "is not a port"),
        (("demo", "--port", "http"), "'http' is not a port"),
        (("demo", "--port", "0"), "'0' is not a port"),
    ],
)
def test_wrong_use_is_2_with_the_usage(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert used(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: ollama-sidecar ")
    assert text in err


@pytest.mark.parametrize("command", ["serve", "explain"])
def test_a_settings_file_that_is_not_there_is_2(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = tmp_path / "not-there.yaml"
    assert used(command, "--config", str(missing)) == 2
    by_option = capsys.readouterr().err
    monkeypatch.setenv("OLLAMA_SIDECAR_CONFIG", str(missing))
    assert used(command) == 2
    assert capsys.readouterr().err == by_option
    assert f"{missing}: cannot be read" in by_option


def test_the_ten_mistakes_are_ten() -> None:
    assert len(TEN_KEYS) == 10
    assert yaml.safe_load(TEN_MISTAKES)
