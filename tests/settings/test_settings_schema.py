"""The models as documentation: every key says what it is, and every secret is known as one."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from sidecar.settings import Settings
from sidecar.settings.catalogue import Catalogue
from sidecar.settings.kinds import Section
from sidecar.settings.schema import known_paths, place_at, shown_value


def _fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield prefix + name, field
    for inner in section.__subclasses__():
        yield from _fields(inner, f"{inner.__name__}.")


def test_every_field_is_documented() -> None:
    assert Catalogue in Section.__subclasses__()
    for name, field in _fields(Section):
        assert field.description, name
        assert field.description[0].isupper() or field.description.split()[0].islower(), name
        assert field.description.endswith((".", "?")), name


def test_every_section_is_documented() -> None:
    for inner in Section.__subclasses__():
        assert inner.__doc__, inner


def test_every_secret_is_masked() -> None:
    secret = {name for name, field in _fields(Section) if SecretStr in getattr(field.annotation, "__args__", ())}
    assert secret == {"OllamaCloud.api_key", "RedisStore.url"}
    assert {".".join(path) for path in known_paths() if shown_value(path, "x") == "***"} == {
        "ollama_cloud.api_key",
        "budget.redis.url",
    }


def test_places() -> None:
    assert place_at(("nothing",)) is None
    assert place_at(("canary", "percent", "more")) is None
    assert [getattr(place_at(path), "what", None) for path in known_paths() if path[0] == "canary"] == [
        "section",
        "other",
        "mapping",
        "text",
        "text",
    ]


def test_a_json_schema_can_be_made() -> None:
    schema = Settings.model_json_schema()
    assert schema["additionalProperties"] is False
    percent = schema["$defs"]["Canary"]["properties"]["percent"]
    assert (percent["type"], percent["minimum"], percent["maximum"]) == ("number", 0, 100)


WRONG: tuple[object, ...] = (
    *(None, True, 1, -1, 1.5, 10**30, float("nan"), Decimal("NaN"), "x", "", b"x", object()),
    *([], [None], [[]], [{}], {}, {"a": 1}, {"a": None}, {"a": ["x"]}, {"extraction": None}, {"extraction": []}),
    *({"a": {"capabilities": 3}}, {"a": {"capabilities": [1, None]}}, {"a": {"context_length": []}}),
)


@pytest.mark.parametrize("path", list(known_paths()), ids=".".join)
def test_every_refusal_is_in_our_words(path: tuple[str, ...]) -> None:
    for value in WRONG:
        tree = value
        for part in reversed(path):
            tree = {part: tree}
        try:
            Settings.model_validate(tree)
        except ValidationError as error:
            types = {item["type"] for item in error.errors()}
        else:
            types = set()
        assert types <= {"setting", "extra_forbidden"}, value
