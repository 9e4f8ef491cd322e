"""Variables of ours over the file, and `${VAR}` inside it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from settings_support import errors, loaded

from sidecar.settings import masked

VAR = "OLLAMA_SIDECAR_"
KEY = {VAR + "OLLAMA_CLOUD__API_KEY": "sk-secret"}

# --- variables of ours --------------------------------------------------------------------------------------


def test_a_variable_wins_over_the_file() -> None:
    found = loaded("canary: {percent: 10, salt: a}", {VAR + "CANARY__PERCENT": "50"}).settings.canary
    assert (int(found.percent), found.salt) == (50, "a")


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_is_unset(value: str) -> None:
    assert loaded("canary: {percent: 10}", {VAR + "CANARY__PERCENT": value}).settings.canary.percent == 10


def test_one_key_beats_its_section_and_a_section_is_merged_key_by_key() -> None:
    env = {VAR + "CANARY": "{percent: 20, salt: b}", VAR + "CANARY__PERCENT": "30"}
    found = loaded("canary: {percent: 10, sticky_header: X-A}", env).settings.canary
    assert (int(found.percent), found.salt, found.sticky_header) == (30, "b", "X-A")


def test_a_mapping_is_replaced_and_its_entries_are_added() -> None:
    content = "canary: {by_task_type: {vlm: 1, extraction: 2}}"
    whole = {VAR + "CANARY__BY_TASK_TYPE": "{extraction: 10}"}
    assert loaded(content, whole).settings.canary.by_task_type == {"extraction": 10}
    one = {VAR + "CANARY__BY_TASK_TYPE__EXTRACTION": "10"}
    assert loaded(content, one).settings.canary.by_task_type == {"vlm": 1, "extraction": 10}
    assert loaded("", one).settings.canary.by_task_type == {"extraction": 10}


def test_names_of_the_user_s_own_keep_their_spelling() -> None:
    content = "ollama_cloud: {models: {by_local_model: {Llama3: a:1}}}"
    env = {VAR + "OLLAMA_CLOUD__MODELS__BY_LOCAL_MODEL__LLAMA3__VISION_CLOUD": "b:1"}
    targets = loaded(content, env).settings.ollama_cloud.models.by_local_model
    assert {name: (to.extraction_cloud, to.vision_cloud) for name, to in targets.items()} == {
        "Llama3": ("a:1", "b:1")
    }


@pytest.mark.parametrize(
    ("variable", "value", "key", "expected"),
    [
        ("LISTEN__ADMIN", "[::]:21434", ("listen", "admin"), "[::]:21434"),
        ("LISTEN__ADMIN", '"0.0.0.0:21434"', ("listen", "admin"), "0.0.0.0:21434"),
        ("LISTEN__DATA", '["[::1]:1"]', ("listen", "data"), ["[::1]:1"]),
        ("CANARY__SALT", "2024", ("canary", "salt"), "2024"),
        ("CANARY__SALT", "#tag", ("canary", "salt"), "#tag"),
        ("CANARY__SALT", "''", ("canary", "salt"), ""),
        ("CANARY__SALT", "'no'", ("canary", "salt"), "no"),
        ("CANARY__SALT", "${A}", ("canary", "salt"), "${A}"),
        ("OLLAMA_CLOUD__ENABLED", "Off", ("ollama_cloud", "enabled"), False),
        (
            "OLLAMA_CLOUD__COST_LIMITS__DAILY_BUDGET_USD",
            "7.25",
            ("ollama_cloud", "cost_limits", "daily_budget_usd"),
            7.25,
        ),
        ("CLASSIFICATION__DEFAULT", " PII ", ("classification", "default"), "pii"),
    ],
)
def test_values_of_variables(variable: str, value: str, key: tuple[str, ...], expected: object) -> None:
    found: object = masked(loaded("", {VAR + variable: value}).settings)
    for part in key:
        assert isinstance(found, dict)
        found = found[part]
    assert found == expected


@pytest.mark.parametrize("key", ["sk-secret", "no", "~", "#a", "*a", "&a", "!a", "{a", "[a]", "|", "a#b", "12"])
def test_a_key_in_a_variable_is_taken_as_it_stands(key: str) -> None:
    env = {VAR + "OLLAMA_CLOUD__API_KEY": key}
    assert loaded("", env).settings.ollama_cloud.resolve_api_key() == key
    quoted = {VAR + "OLLAMA_CLOUD__API_KEY": f"'{key}'"}
    assert loaded("", quoted).settings.ollama_cloud.resolve_api_key() == key


@pytest.mark.parametrize("first", ["public", "internal", "confidential", "pii"])
@pytest.mark.parametrize("second", ["public", "internal", "confidential", "pii"])
@pytest.mark.parametrize("key", ["default", "images", "ip_addresses"])
def test_of_two_classes_the_stricter_wins(first: str, second: str, key: str) -> None:
    order = ["public", "internal", "confidential", "pii"]
    stricter = max(first, second, key=order.index)
    one = {VAR + f"CLASSIFICATION__{key.upper()}": second}
    whole = {VAR + "CLASSIFICATION": f"{{{key}: {second}}}"}
    for env in (one, whole):
        found = loaded(f"classification: {{{key}: '${{C}}'}}", {"C": first, **env}).settings.classification
        assert getattr(found, key) == stricter
    both = {VAR + "CLASSIFICATION": f"{{{key}: {first}}}", **one}
    assert getattr(loaded("", both).settings.classification, key) == stricter


def test_a_class_that_is_none_is_heard_of_though_a_variable_would_win() -> None:
    found = errors("classification: {default: secret}", {VAR + "CLASSIFICATION__DEFAULT": "pii"})
    assert [text.split(" is")[0] for text in found] == ["classification.default: 'secret'"]


def test_a_variable_takes_the_place_of_what_could_not_be_expanded() -> None:
    assert loaded("canary: {salt: '${NO}'}", {VAR + "CANARY__SALT": "a"}).settings.canary.salt == "a"


def test_a_variable_into_a_list_leaves_the_file_s_error() -> None:
    found = errors("canary: [1]", {VAR + "CANARY__SALT": "a", VAR + "CANARY": "{percent: 1}"})
    assert [text.split(",")[0] for text in found] == ["canary: must be a mapping"]


@pytest.mark.parametrize(
    ("variable", "warning"),
    [
        ("CANARY_PERCENT", "; did you mean OLLAMA_SIDECAR_CANARY__PERCENT?"),
        ("CANARY__PERCNT", "; did you mean OLLAMA_SIDECAR_CANARY__PERCENT?"),
        ("CANARY__PERCENT__MORE", "; did you mean OLLAMA_SIDECAR_CANARY__PERCENT?"),
        ("canary__percent", ""),
        ("XYZZY", ""),
        ("", ""),
    ],
)
def test_an_unknown_variable_only_warns(variable: str, warning: str) -> None:
    found = loaded("", {VAR + variable: "sk-secret", **KEY})
    assert found.warnings == (f"{VAR}{variable}: no such setting, ignored{warning}",)


def test_a_service_of_our_name_is_one_warning() -> None:
    names = ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_80_TCP", "PORT_80_TCP_ADDR"]
    found = loaded("", {VAR + name: "1" for name in names} | KEY)
    assert found.warnings == (
        "OLLAMA_SIDECAR_PORT and 5 more: no such setting, ignored; a Service of our name sets them",
    )


def test_the_file_s_own_variable_is_none_of_ours() -> None:
    assert loaded("", {VAR + "CONFIG": "/etc/x.yaml", **KEY}).warnings == ()


def test_a_reference_in_a_variable_is_warned_of() -> None:
    found = loaded("", {VAR + "CANARY__SALT": "${A}", **KEY})
    assert found.warnings == (
        "OLLAMA_SIDECAR_CANARY__SALT: ${…} is expanded in the file only, here it is taken as it stands",
    )


# --- ${VAR} in the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("'${A}'", "one"),
        ("x-${A}-${A}", "x-one-one"),
        ("${NO:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("${NO:-}", ""),
        ("'${NO:-a: b}'", "a: b"),
        ("$${A}", "${A}"),
        ("$A", "$A"),
        ("'${YAML}'", "{a: [b]} # c"),
        ("${BOOL}", "no"),
    ],
)
def test_expansion(written: str, value: str) -> None:
    env = {"A": "one", "EMPTY": "", "YAML": "{a: [b]} # c", "BOOL": "no"}
    assert loaded(f"canary:\n  salt: {written}\n", env).settings.canary.salt == value


def test_expanded_numbers_and_truth_values() -> None:
    content = "canary:\n  percent: ${P}\nollama_cloud:\n  enabled: ${E}\n"
    found = loaded(content, {"P": "12.5", "E": "false"}).settings
    assert (found.canary.percent, found.ollama_cloud.enabled) == (Decimal("12.5"), False)


def test_expansion_is_bounded() -> None:
    found = errors("canary:\n  salt: " + "${A}" * 20, {"A": "x" * 100_000})
    assert found == ["canary.salt: the variables of the file add up to too much text (line 2). Refer to shorter ones"]


def test_a_variable_that_is_no_text() -> None:
    found = errors("canary:\n  salt: ${A}\n", {"A": "\udcff"})
    assert (
        found == ["canary.salt: the variable A is not UTF-8 text (line 2). Set it, or write ${A:-default}"] or found
    )
