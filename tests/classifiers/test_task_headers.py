"""The task headers: trimmed, in any case, repeated, wrong; and the class that only ever restricts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.classifiers.headers import TASK_HEADERS, header_finding, read_task_headers
from sidecar.core.classification import BY_LABEL, DataClass, Finding, combine
from sidecar.core.task import NOTHING_ASKED, Asked
from sidecar.http1 import MessageError, parse_request_head

CLASS = "X-Data-Classification"


class Given:
    """Header fields as a head has them: names in lower case."""

    def __init__(self, *lines: tuple[str, str | bytes]) -> None:
        self.lines = [
            (name.lower().encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
            for name, value in lines
        ]
        self.first: dict[bytes, bytes] = {}
        for name, value in self.lines:
            self.first.setdefault(name, value)

    def all(self, name: bytes) -> list[bytes]:
        return [value for lower, value in self.lines if lower == name]


def read(*lines: tuple[str, str | bytes]) -> Asked:
    return read_task_headers(Given(*lines))


# What each header may say.

ENUMS = [
    ("X-Task-Type", "task_type", ("extraction", "generation", "embedding", "vlm")),
    ("X-Complexity", "complexity", ("low", "medium", "high")),
    ("X-Quality-Requirement", "quality", ("low", "medium", "high")),
]
IDS = [("X-Task-Id", "task_id"), ("X-User-Id", "user_id"), ("X-Request-Id", "request_id")]
NAMES = {
    **{header: name for header, name, _ in ENUMS},
    **dict(IDS),
    "X-Latency-Requirement-Ms": "latency_ms",
    "X-Cloud-Model": "cloud_model",
}
VALID = {
    "X-Task-Type": "extraction",
    "X-Complexity": "high",
    "X-Quality-Requirement": "low",
    "X-Latency-Requirement-Ms": "250",
    "X-Cloud-Model": "gpt-oss:120b",
    "X-Task-Id": "task-1",
    "X-User-Id": "user-1",
    "X-Request-Id": "request-1",
}


def test_all_headers_of_the_contract_are_known_and_kept_from_the_cloud() -> None:
    assert {name.decode() for name in TASK_HEADERS} == {name.lower() for name in (*VALID, CLASS)}


def test_no_header_asks_for_nothing() -> None:
    assert read() is NOTHING_ASKED
    assert read(("X-Other", "high")) is NOTHING_ASKED


def test_all_at_once() -> None:
    asked = read(*VALID.items())
    assert asked == Asked(
        "task-1", "extraction", "high", "low", 250, "gpt-oss:120b", "user-1", "request-1", invalid=()
    )


@pytest.mark.parametrize(("header", "name", "values"), ENUMS)
def test_a_choice_is_trimmed_and_in_any_case(header: str, name: str, values: Sequence[str]) -> None:
    for value in values:
        for written in (value, value.upper(), value.title(), f"  {value}\t"):
            asked = read((header, written))
            assert getattr(asked, name) == value
            assert asked.invalid == ()


@pytest.mark.parametrize(("header", "name", "values"), ENUMS)
@pytest.mark.parametrize("wrong", ["", " ", "highest", "high,low", "high;", "hi gh", b"h\xefgh", b"high\xa0"])
def test_a_wrong_choice_is_the_default_and_named(
    header: str, name: str, values: Sequence[str], wrong: str | bytes
) -> None:
    asked = read((header, wrong))
    assert getattr(asked, name) is None
    assert asked.invalid == (header,)


@pytest.mark.parametrize("header", list(VALID))
def test_the_same_value_twice_is_one_value(header: str) -> None:
    value = VALID[header]
    once, twice = read((header, value)), read((header, value), (header, f" {value} "))
    assert once == twice
    assert twice.invalid == ()


@pytest.mark.parametrize("header", [name for name, _, _ in ENUMS] + ["X-Cloud-Model"])
def test_the_same_value_in_another_case_is_one_value(header: str) -> None:
    value = VALID[header]
    asked = read((header, value), (header, value.upper()))
    assert getattr(asked, NAMES[header]) == value
    assert asked.invalid == ()


@pytest.mark.parametrize(
    ("header", "other"),
    [
        ("X-Task-Type", "vlm"),
        ("X-Complexity", "low"),
        ("X-Quality-Requirement", "high"),
        ("X-Latency-Requirement-Ms", "251"),
        ("X-Cloud-Model", "gpt-oss:20b"),
        ("X-Task-Id", "task-2"),
        ("X-Task-Id", "TASK-1"),
        ("X-User-Id", "user-2"),
        ("X-Request-Id", "request-2"),
        ("X-Request-Id", ""),
    ],
)
def test_two_different_values_are_a_wrong_one(header: str, other: str) -> None:
    for lines in ([VALID[header], other], [other, VALID[header]], [VALID[header], other, VALID[header]]):
        asked = read(*((header, value) for value in lines))
        assert getattr(asked, NAMES[header]) is None
        assert asked.invalid == (header,)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1", 1), ("500", 500), (" 0500 ", 500), ("999999999", 999_999_999), ("86400000000", 86_400_000_000)],
)
def test_a_latency_is_a_whole_number_above_zero(written: str, value: int) -> None:
    asked = read(("X-Latency-Requirement-Ms", written))
    assert (asked.latency_ms, asked.invalid) == (value, ())


@pytest.mark.parametrize(
    "wrong", ["0", "00", "-1", "+5", "1.5", "1e3", "0x10", "1_000", "", "five", "5 ms", b"\xb2", "9" * 5000]
)
def test_a_wrong_latency_is_the_default_and_named(wrong: str | bytes) -> None:
    asked = read(("X-Latency-Requirement-Ms", wrong))
    assert (asked.latency_ms, asked.invalid) == (None, ("X-Latency-Requirement-Ms",))


@pytest.mark.parametrize("header", [*(header for header, _ in IDS), "X-Cloud-Model"])
@pytest.mark.parametrize("value", ["a", "!~", "x" * 128])
def test_an_id_is_1_to_128_visible_ascii_characters_as_they_came(header: str, value: str) -> None:
    asked = read((header, f" {value} "))
    assert (getattr(asked, NAMES[header]), asked.invalid) == (value, ())


@pytest.mark.parametrize("header", [*(header for header, _ in IDS), "X-Cloud-Model"])
@pytest.mark.parametrize("wrong", ["", "x" * 129, "a b", "a\tb", "a\x7f", b"caf\xe9", b"\xff", "a\x00"])
def test_a_wrong_id_is_the_default_and_named(header: str, wrong: str | bytes) -> None:
    asked = read((header, wrong))
    assert (getattr(asked, NAMES[header]), asked.invalid) == (None, (header,))


def test_each_wrong_header_is_named_once_and_the_others_count() -> None:
    asked = read(("X-Task-Type", "x"), ("X-Complexity", "high"), ("X-User-Id", ""), ("X-User-Id", "a b"))
    assert set(asked.invalid) == {"X-Task-Type", "X-User-Id"}
    assert len(asked.invalid) == 2
    assert asked.complexity == "high"


@given(
    st.lists(
        st.tuples(st.sampled_from([*VALID, CLASS]), st.binary(max_size=12) | st.sampled_from(list(VALID.values()))),
        max_size=8,
    )
)
def test_any_bytes_are_read_and_only_values_of_the_table_come_out(lines: list[tuple[str, str | bytes]]) -> None:
    asked = read(*lines)
    for _, name, values in ENUMS:
        assert getattr(asked, name) in (None, *values)
    assert asked.latency_ms is None or asked.latency_ms > 0
    for name in ("task_id", "user_id", "request_id", "cloud_model"):
        value = getattr(asked, name)
        assert value is None or (1 <= len(value) <= 128 and all("!" <= char <= "~" for char in value))
    sent = {header for header, _ in lines}
    for header, name in NAMES.items():
        assert (getattr(asked, name) is not None) + (header in asked.invalid) == (header in sent)


def test_a_real_head_is_read_the_same_way() -> None:
    head = parse_request_head(
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-TASK-TYPE:  Vlm \r\nx-task-type: VLM\r\n"
        b"x-data-CLASSIFICATION: Internal\r\n\r\n"
    )
    assert read_task_headers(head).task_type == "vlm"
    finding = header_finding(head)
    assert finding is not None
    assert finding.data_class is DataClass.INTERNAL


def test_a_header_that_no_reader_agrees_on_is_no_header() -> None:
    with pytest.raises(MessageError):
        parse_request_head(b"POST / HTTP/1.1\r\nHost: x\r\nX-Data-Classification : public\r\n\r\n")


# The class.


def stated(*values: str | bytes) -> Finding | None:
    return header_finding(Given(*((CLASS, value) for value in values)))


def test_without_the_header_there_is_no_finding() -> None:
    assert stated() is None
    assert header_finding(Given(("X-Data-Classifications", "pii"))) is None


@pytest.mark.parametrize("label", ["public", "internal", "confidential", "pii"])
def test_a_class_is_trimmed_in_any_case_and_may_come_twice(label: str) -> None:
    for values in ([label], [label.upper()], [f"\t{label} "], [label, label.title(), f" {label}"]):
        finding = stated(*values)
        assert finding is not None
        assert (finding.data_class, finding.rule, finding.source) == (BY_LABEL[label], "header", "header")


@pytest.mark.parametrize(
    "values",
    [
        [""],
        [" "],
        ["secret"],
        ["public,internal"],
        ["public, public"],
        ["publıc".encode()],
        [b"public\xa0"],
        ["0"],
        ["public", "internal"],
        ["internal", "public"],
        ["public", ""],
        ["public", "unknown"],
        ["public", "PUBLIC", "internal"],
        ["none"],
    ],
)
def test_what_is_no_class_counts_as_confidential(values: list[str | bytes]) -> None:
    finding = stated(*values)
    assert finding is not None
    assert (finding.data_class, finding.rule) == (DataClass.CONFIDENTIAL, "header-not-valid")


values_sent = st.sampled_from(["public", "internal", "confidential", "pii", "PII", " Public ", "", "x"]) | st.binary(
    max_size=10
)


@given(
    default=st.sampled_from(DataClass), content=st.sampled_from(DataClass), values=st.lists(values_sent, min_size=1)
)
def test_a_class_header_never_lowers_a_calls_class(
    default: DataClass, content: DataClass, values: list[str | bytes]
) -> None:
    without = [Finding("pod-default", default, "default"), Finding("email", content, "content")]
    finding = stated(*values)
    assert finding is not None
    assert combine([finding, *without]).data_class >= combine(without).data_class


@given(values=st.lists(values_sent, min_size=1), more=values_sent)
def test_one_more_class_header_never_opens_the_cloud(values: list[str | bytes], more: str | bytes) -> None:
    before, after = stated(*values), stated(*values, more)
    assert before is not None
    assert after is not None
    assert after.data_class.sensitive >= before.data_class.sensitive
    if not before.data_class.sensitive:
        assert after.data_class >= before.data_class


@given(st.lists(values_sent, min_size=1))
def test_a_finding_shows_nothing_of_the_value(values: list[str | bytes]) -> None:
    finding = stated(*values, b"marker-value")
    assert "marker" not in repr(finding)
