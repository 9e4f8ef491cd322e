"""One mistake, one message: exactly what a person reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from settings_support import errors, loaded

VAR = "OLLAMA_SIDECAR_"

MISTAKES = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name: str) -> None:
    case = MISTAKES[name]
    env = {VAR + variable: value for variable, value in case.get("variables", {}).items()}
    expected = case["error"] if isinstance(case["error"], list) else [case["error"]]
    assert errors(case.get("file", ""), {"CLOUD_KEY": "sk-secret", **env}) == expected


def test_a_variable_that_is_no_text() -> None:
    assert errors("", {VAR + "CANARY__SALT": "a\udcffb"}) == [
        "canary.salt: the variable is not UTF-8 text (OLLAMA_SIDECAR_CANARY__SALT). Set it to text"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\xff\xfe\x00\x01",
            "FILE: is not UTF-8 text (line 1). Save it as UTF-8, or check that it is the settings file",
        ),
        (b"# " + b"x" * (1 << 20), "FILE: is larger than 1 MiB. Check that it is the settings file"),
    ],
)
def test_not_a_settings_file(content: bytes, message: str) -> None:
    assert errors(content) == [message]


def test_alias_bomb() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{one}: &{one} [{', '.join([f'*{before}'] * 10)}]"
        for before, one in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert errors("\n".join(lines)) == [
        "e[0]: has more than 20000 values once aliases are expanded (line 5). Write it with fewer or smaller aliases"
    ]


def test_depth() -> None:
    assert errors("canary: " + "[" * 100 + "]" * 100) == [
        "canary[0][0][0]: is nested deeper than 32 levels (line 1). No key of ours is that deep: remove it"
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# nothing\n",
        "---\n",
        "null\n",
        "ollama_cloud:\nlisten:\n  # all of it commented out\n",
        "canary: {by_task_type: }",
        "ollama_cloud: {enabled: yes, cost_limits: {daily_budget_usd: '7.5', monthly_budget_usd: 1e+06}}",
        "ollama_cloud: {cost_limits: {daily_budget_usd: 0, monthly_budget_usd: 0}}",
        "ollama_cloud: {cost_limits: {daily_budget_usd: 50, monthly_budget_usd: 10}}",
        "ollama_cloud: {base_url: 'http://localhost:9999/'}",
        "ollama_cloud: {pricing: {'gpt-oss:120b': {price_factor_max: 2}}}",
        'listen: {data: ["127.0.0.1:0", "127.0.0.1:0"], admin: "127.0.0.1:0"}',
        'listen: {data: ["0.0.0.0:11434", "[::]:11434"]}',
        "local: {base_url: http://127.0.0.2:11434}",
        "local: {models: {vlm: hub:5000/my-cloud}}",
        "log: {level: ' INFO '}",
        "canary: &c {percent: 10}\nlog: {level: info}",
    ],
)
def test_no_mistake(content: str) -> None:
    loaded(content)
