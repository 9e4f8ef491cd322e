"""Label lines give their own class; limits of distribution make a text internal."""

from __future__ import annotations

import pytest
from content_support import DISGUISES, configured, data_class, rules

from sidecar.core.classification import DataClass

PUBLIC, INTERNAL, CONFIDENTIAL, PII = DataClass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Classification: Internal", INTERNAL),
        ("Classification: Restricted", CONFIDENTIAL),
        ("Classification: secret", CONFIDENTIAL),
        ("Classification: Top Secret", CONFIDENTIAL),
        ("Classification: Strictly Confidential", CONFIDENTIAL),
        ("Classification: PII", PII),
        ("Classification: Public", PUBLIC),
        ("Classification – Internal", INTERNAL),
        ("**Classification:** Secret", CONFIDENTIAL),
        ("| Classification | Restricted |", CONFIDENTIAL),
        ('"classification": "restricted"', CONFIDENTIAL),
        ('{\\"classification\\": \\"restricted\\"}', CONFIDENTIAL),
        ("data_classification=internal", INTERNAL),
        ("X-Data-Classification: pii", PII),
        ("Title | Classification: restricted | Page 1", CONFIDENTIAL),
        ("Classification: internal / restricted", CONFIDENTIAL),
        ("Classification: public or internal", INTERNAL),
        ("Classification: public | restricted", CONFIDENTIAL),
        ("Sensitivity: Restricted", CONFIDENTIAL),
        ("Security level: internal use only", INTERNAL),
        ("Klassifizierung: intern", INTERNAL),
        ("Klassifizierung: geheim", CONFIDENTIAL),
        ("Vertraulichkeitsstufe: öffentlich", PUBLIC),
        ("Niveau de confidentialité : restreint", CONFIDENTIAL),
        ("Clasificación: Reservado", CONFIDENTIAL),
        ("Classificazione: Riservato", CONFIDENTIAL),
        ("Rubricering: geheim", CONFIDENTIAL),
        ("Classificação: restrito", CONFIDENTIAL),
        ("Klauzula: zastrzeżone", CONFIDENTIAL),
        ("TLP:RED", CONFIDENTIAL),
        ("TLP:AMBER", CONFIDENTIAL),
        ("tlp: amber+strict", CONFIDENTIAL),
        ("TLP:GREEN", INTERNAL),
        ("TLP:CLEAR", PUBLIC),
        ("TLP:WHITE", PUBLIC),
    ],
)
def test_a_label_gives_its_own_class(text: str, expected: DataClass) -> None:
    assert data_class(text) is expected
    assert ("label-line" in rules(text)) is (expected is not PUBLIC)


@pytest.mark.parametrize(
    "text",
    [
        "image classification: cat",
        "Classification: object detection",
        "the classification of internal combustion engines",
        "reclassification: internal",
        "Classification: internally",
        "Classification: C3",
        "XTLP:RED",
        "TLP:REDDISH",
        "Sensitivity: 0.93",
    ],
)
def test_other_lines_are_no_labels(text: str) -> None:
    assert "label-line" not in rules(text)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_labels_are_found_in_every_disguise(disguise: str) -> None:
    assert "label-line" in rules(DISGUISES[disguise]("Classification: restricted"))


@pytest.mark.parametrize(
    "text",
    [
        "for employees only",
        "For internal use only",
        "internal-use-only",
        "FOR OFFICIAL USE ONLY",
        "Do not distribute.",
        "must not be redistributed",
        "not for external distribution",
        "do not share this document outside the company",
        "nur für den internen Gebrauch",
        "nur für den Dienstgebrauch",
        "Nicht zur Weitergabe bestimmt",
        "à usage interne",
        "ne pas diffuser",
        "solo para uso interno",
        "no divulgar",
        "non divulgare",
        "alleen voor intern gebruik",
        "não divulgar",
        "do użytku wewnętrznego",
        "for\nemployees\nonly",
    ],
)
def test_a_limit_of_distribution_is_internal(text: str) -> None:
    assert data_class(text) is INTERNAL
    assert "distribution-limit" in rules(text)


@pytest.mark.parametrize(
    "text", ["we distribute milk", "do not worry", "for employees and guests", "please share it with everyone"]
)
def test_ordinary_sentences_are_no_limits(text: str) -> None:
    assert rules(text) == set()


def test_marks_of_documents_stay_without_the_default_words() -> None:
    scanner = configured(keyword_defaults=False)
    assert rules("Classification: secret", scanner) == {"label-line"}
    assert rules("for employees only", scanner) == {"distribution-limit"}
