"""Whatever stands in the file: settings or SettingsError, bounded, and never the key in sight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settings_support import HOME, loaded, settings_file

from sidecar.settings import Loaded, Settings, SettingsError, document, load, masked
from sidecar.settings.schema import known_paths, place_at

SECRET = "sk-Zq7"
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PATHS = sorted(known_paths())
NAMES = sorted({path[-1] for path in PATHS})
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["${A}", "${B:-x}", "$${", "${", "~", "-", "127.0.0.1:1", "http://h", "hybrid", "pii", "m:1", SECRET]
    ),
)
keys = st.one_of(st.sampled_from(NAMES), st.text(max_size=6))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=20,
)
fragments = st.sampled_from(
    [
        *("ollama_cloud", "canary", "api_key", "no", "0x1", "é", "\x85", ":", ": ", "\n", "  ", "\t", "-", "- "),
        *("{", "}", "[", "]", ",", "&a", "&a ", "*a", "<<: ", "? ", "!!str ", "!x ", "|", ">", "'", '"', "#"),
        *("${A}", "${", "...", "---", "%YAML 1.1\n"),
    ]
)
junk = st.one_of(
    st.lists(fragments, max_size=25).map(lambda parts: "".join(parts).encode()),
    st.binary(max_size=60),
    trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode()),
    st.dictionaries(st.sampled_from(NAMES), trees, max_size=4).map(lambda tree: yaml.safe_dump(tree).encode()),
)
variables = st.dictionaries(
    st.sampled_from(PATHS).map(lambda path: "OLLAMA_SIDECAR_" + "__".join(path).upper()),
    st.one_of(st.lists(fragments, max_size=6).map("".join), st.text(max_size=8), st.just("\udcff")),
    max_size=3,
)


def _load(path: Path, env: Mapping[str, str]) -> Loaded | SettingsError:
    try:
        return load(path, env)
    except SettingsError as error:
        return error


@QUICK
@given(content=junk, env=variables)
def test_junk_is_settings_or_settings_errors(content: bytes, env: dict[str, str]) -> None:
    with settings_file(content) as path:
        found = _load(path, {**HOME, "A": "1", **env})
    if isinstance(found, Loaded):
        json.dumps(masked(found.settings), allow_nan=False)
        return
    assert found.errors
    for item in found.errors:
        assert item.key
        assert item.message
        assert item.fix
        assert str(item).isprintable()
        assert len(str(item)) < 1500


@QUICK
@given(content=junk)
def test_without_the_c_library_too(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch, settings_file(content) as path:
        patch.setattr(document, "_LOADER", yaml.SafeLoader)
        _load(path, HOME)


def _tree(path: tuple[str, ...], value: object) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@QUICK
@given(
    path=st.sampled_from(PATHS),
    misspelt=st.booleans(),
    listed=st.booleans(),
    reference=st.sampled_from(["", "${", "${sk-Zq7}", "${NO}"]),
)
def test_a_key_that_stands_where_it_is_refused_is_never_shown_as_a_key(
    path: tuple[str, ...], misspelt: bool, listed: bool, reference: str
) -> None:
    """In a section's place, under a misspelt name or inside a list nobody can tell a key from a value."""
    place = place_at(path)
    assert place is not None
    if not (misspelt or place.what in ("section", "mapping", "secret")):
        return
    wrong = (*path[:-1], path[-1] + "x") if misspelt else path
    written = f"{SECRET} x{reference}"
    tree = _tree(wrong, [written] if listed else written)
    with settings_file(yaml.safe_dump(tree)) as file:
        found = _load(file, HOME)
    if isinstance(found, SettingsError):
        assert SECRET not in str(found)
        assert SECRET not in repr(found.errors)


@QUICK
@given(key=st.from_regex(r"[!-~]{6,40}", fullmatch=True).map(lambda text: "Zq7" + text), in_file=st.booleans())
def test_a_valid_key_is_never_in_what_is_shown(key: str, in_file: bool) -> None:
    content = json.dumps({"ollama_cloud": {"api_key": key.replace("${", "$${")}}) if in_file else ""
    env = {} if in_file else {"OLLAMA_SIDECAR_OLLAMA_CLOUD__API_KEY": f"'{key}'" if "'" not in key else key}
    found = loaded(content, env)
    assert found.settings.ollama_cloud.resolve_api_key() == key
    assert key not in json.dumps(masked(found.settings)) + repr(found) + str(found.settings)


percents = st.decimals(0, 100, places=2)


@QUICK
@given(file=st.none() | percents, variable=st.none() | percents)
def test_variable_over_file_over_default(file: object, variable: object) -> None:
    content = f"canary: {{percent: {file}}}" if file is not None else ""
    env = {"OLLAMA_SIDECAR_CANARY__PERCENT": str(variable)} if variable is not None else {}
    expected = variable if variable is not None else file if file is not None else 100
    assert loaded(content, env).settings.canary.percent == expected


@QUICK
@given(first=percents, second=percents)
def test_a_raised_share_only_adds(first: object, second: object) -> None:
    shares = [loaded(f"canary: {{percent: {share}}}").settings.canary.hundredths("vlm") for share in (first, second)]
    assert (shares[0] <= shares[1]) == (str(first) == str(second) or float(str(first)) <= float(str(second)))


@QUICK
@given(prices=st.tuples(st.decimals(0, 1000, places=6), st.decimals(0, 1000, places=6)))
def test_prices_are_whole_micro_dollars(prices: tuple[object, object]) -> None:
    content = f"ollama_cloud: {{pricing: {{m: {{input_per_1m: {prices[0]}, output_per_1m: {prices[1]}}}}}}}"
    found = loaded(content).settings.cloud_models()["m"]
    for given_price, price in zip(prices, (found.input_per_1m, found.output_per_1m), strict=True):
        assert price == given_price
        assert price is not None
        assert price * 10**6 == int(price * 10**6)


@QUICK
@given(names=st.lists(st.sampled_from(PATHS), max_size=5))
def test_defaults_written_out_change_nothing(names: list[tuple[str, ...]]) -> None:
    """Any part of the shown defaults, pasted into a file, gives the defaults again."""
    plain = loaded("")
    content: dict[str, Any] = {}
    for path in names:
        value: Any = masked(plain.settings)
        target = content
        for part in path[:-1]:
            value = value[part]
            target = target.setdefault(part, {})
        target[path[-1]] = value[path[-1]]
    assert loaded(json.dumps(content)).settings == plain.settings
    assert isinstance(plain.settings, Settings)
