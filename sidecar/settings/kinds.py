"""What a key can hold: text, secrets, numbers with bounds, flags, choices, lists and mappings.

Every check takes a `Scalar` of the file as well as the plain Python value, and answers in words that name the
value and the fix. pydantic's own texts speak of types; the person who reads ours edits a YAML file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SecretStr,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sidecar.settings.document import Scalar
from sidecar.settings.errors import listed, show

K = TypeVar("K")
V = TypeVar("V")

_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9_]*)?(\.[0-9_]*)?([eE][-+]?[0-9]{1,2})?")
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_VISIBLE = re.compile(r"[!-~]+")
_MAX_TEXT = 4096


def reject(message: str, fix: str) -> PydanticCustomError:
    """The one error of a validator of ours: what is wrong, and what to write instead."""
    return PydanticCustomError("setting", "{message}. {fix}", {"message": message, "fix": fix})


# --- text ---------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Text as written: `2024` unquoted is the text 2024, but `no` may mean either of two things."""
    if isinstance(value, bool) or (isinstance(value, Scalar) and value.kind == "bool"):
        raise reject(f"{show(value)} is a yes/no value in YAML, not text", f'Quote it: "{value}"')
    if not isinstance(value, str | int | float | Decimal):
        raise reject(f"must be text, not {show(value)}", "Write one value, in quotes where it holds ': '")
    written = str(value)
    if len(written) > _MAX_TEXT or not written.isprintable():
        raise reject(f"{show(written)} is too long or holds control characters", "Write one short line")
    return written


def phrase(value: object) -> str:
    found = text(value).strip()
    if not found:
        raise reject("an empty entry would match everything", "Write a word or a phrase, or remove the entry")
    return found


def secret(value: object) -> SecretStr | None:
    if value is None or isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or (isinstance(value, Scalar) and value.kind == "bool"):
        raise reject("must be text", "Quote it")
    return SecretStr(str(value)) if value.strip() else None


def api_key(value: object) -> SecretStr | None:
    found = secret(value)
    if found is not None:
        key_problem(found.get_secret_value())
    return found


def key_problem(key: str) -> None:
    """Raise unless the key can stand in a header line. Says where it is wrong, never what it is."""
    if not _VISIBLE.fullmatch(key):
        at = next(index for index, char in enumerate(key, 1) if not "!" <= char <= "~")
        raise reject(
            f"character {at} of the key is not visible ASCII",
            "Copy the key again, without blanks, quotes and line ends",
        )
    if len(key) > _MAX_TEXT:
        raise reject(f"the key is longer than {_MAX_TEXT} characters", "Copy the key again")


def or_unset(check: Callable[[object], V]) -> Callable[[object], V | None]:
    """An optional value: null and "" mean that it is not set."""
    return lambda value: None if value is None or value == "" else check(value)


# --- numbers, flags, choices --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """A bounded number. Decimal throughout: a price of 0.07 must not become 0.07000000000000001."""

    low: float
    high: float
    above: bool = False  # whether the low end itself is excluded
    whole: bool = False
    places: int = 6

    def __call__(self, value: object) -> Decimal:
        fix = f"Write {self.range()}"
        if not isinstance(value, str | int | float | Decimal):
            raise reject(f"{show(value)} is not a number", fix)
        written = str(value).strip()
        if re.fullmatch(r"[-+]?0[0-9_]+(\.[0-9_]*)?", written):
            raise reject(f"{show(value)} begins with 0, which YAML reads as octal", fix)
        if not re.search("[0-9]", written) or len(written) > 40 or not _NUMBER.fullmatch(written):
            raise reject(f"{show(value)} is not a number", fix)
        number = Decimal(written.replace("_", ""))
        if number < Decimal(str(self.low)) or (self.above and number == Decimal(str(self.low))):
            raise reject(f"{show(value)} is too small", fix)
        if number > Decimal(str(self.high)):
            raise reject(f"{show(value)} is too large", fix)
        number = Decimal(int(number)) if number == int(number) else number.normalize()
        exponent = number.as_tuple().exponent
        if self.whole and number != int(number):
            raise reject(f"{show(value)} is not a whole number", fix)
        if isinstance(exponent, int) and -exponent > self.places:
            raise reject(f"{show(value)} has more than {self.places} decimals", fix)
        return number

    def range(self) -> str:
        what = "a whole number" if self.whole else "a number"
        between = f"above {self.low:g} up to" if self.above else f"from {self.low:g} to"
        return f"{what} {between} {int(self.high) if self.high == int(self.high) else self.high}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = {key: item for key, item in handler(schema).items() if key not in ("anyOf", "pattern")}
        low = "exclusiveMinimum" if self.above else "minimum"
        return {**found, "type": "integer" if self.whole else "number", low: self.low, "maximum": self.high}


def flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    found = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise reject(f"{show(value)} is neither true nor false", "Write true or false")
    return found


def choose(noun: str, literal: Any) -> Callable[[object], str]:
    """One of a Literal's values, blanks and case aside."""
    allowed = get_args(literal)

    def check(value: object) -> str:
        found = value.strip().lower() if isinstance(value, str) else value
        if not isinstance(found, str) or found not in allowed:
            raise reject(f"{show(value)} is not {noun}", f"Use one of: {listed(allowed)}")
        return str(found)

    return check


def choice(noun: str, literal: Any) -> BeforeValidator:
    return BeforeValidator(choose(noun, literal))


def not_built_yet(asked: object, what: str, instead: str) -> AfterValidator:
    """Refuse a value that is part of the contract and is built later; nothing is faked until then."""

    def check(value: V) -> V:
        if value == asked:
            raise reject(f"{show(value)} asks for {what}, which is not built yet", f"Use {instead}")
        return value

    return AfterValidator(check)


def _items(value: object) -> object:
    if isinstance(value, list | tuple):
        return list(value)
    raise reject(f"must be a list, not {show(value)}", "Write [a, b], or one '- a' per line")


def at_least_one(found: tuple[V, ...]) -> tuple[V, ...]:
    if not found:
        raise reject("the list is empty", "Give at least one entry, or remove the key for the default")
    return found


def mapping(value: object) -> object:
    """A mapping; a key with nothing under it (all of it commented out) is an empty one."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    # The value itself is not shown: it may be a key that slipped one level up.
    what = "a list" if isinstance(value, list | tuple) else "a single value"
    raise reject(f"must be a mapping, not {what}", "Write 'key: value' lines below it, indented")


class Section(BaseModel):
    """A mapping whose keys we know. Frozen: a changed file makes new settings and never alters these."""

    # Errors of pydantic's own print their input by default, and the input may be a key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    one_text: ClassVar[bool] = False  # whether a single text stands for the whole mapping too

    @model_validator(mode="before")
    @classmethod
    def _only_a_mapping(cls, value: object) -> object:
        return value if isinstance(value, cls) else mapping(value)


ClassName = Literal["public", "internal", "confidential", "pii"]
LevelName = Literal["low", "medium", "high"]
StrategyName = Literal["cost_optimized", "hybrid", "quality_optimized"]
TaskTypeName = Literal["extraction", "generation", "vlm", "embedding"]

Class = Annotated[ClassName, choice("a data class", ClassName)]
Level = Annotated[LevelName, choice("a level", LevelName)]
Strategy = Annotated[StrategyName, choice("a strategy", StrategyName)]
TaskType = Annotated[TaskTypeName, choice("a task type", TaskTypeName)]

Text = Annotated[str, BeforeValidator(text)]
Phrase = Annotated[str, BeforeValidator(phrase)]
Secret = Annotated[SecretStr | None, BeforeValidator(secret)]
ApiKey = Annotated[SecretStr | None, BeforeValidator(api_key)]
Flag = Annotated[bool, BeforeValidator(flag)]
Percent = Annotated[Decimal, Number(0, 100, places=2)]

Named = Annotated[dict[K, V], BeforeValidator(mapping)]
Items = Annotated[tuple[V, ...], BeforeValidator(_items)]
