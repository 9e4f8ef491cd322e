"""Key words: which words count, where, and what the settings change."""

from __future__ import annotations

import pytest
from content_support import DISGUISES, configured, data_class, rules, scan

from sidecar.core.classification import DataClass

CONFIDENTIAL, INTERNAL = "keyword-confidential", "keyword-internal"


@pytest.mark.parametrize(
    "text",
    [
        "this document is confidential.",
        "Confidential: see below",
        "proprietary information of ACME",
        "confidential and proprietary",
        "dies ist vertraulich",
        "vertrauliche Unterlagen",
        "un document confidentiel",
        "des données confidentielles",
        "información confidencial",
        "documentos confidenciales",
        "documentos confidenciais",
        "documento confidenziale",
        "vertrouwelijke gegevens",
        "dokument poufny",
        "dane poufnego charakteru",
        "これはconfidentialです",
        '"confidential"',
        "q3-confidential.pdf",
        "strictly\nconfidential",
        "Status: STRICTLY CONFIDENTIAL: Internal Only\nWe sell the plant.",
        "Confidential: strategy for the takeover of Acme",
        "CONFIDENTIAL: 12 employees will be laid off",
        "CONFIDENTIAL: 2",
        "Streng vertraulich: Strategie 2025",
        "vertraulich: nummer 5",
        "confidential: internal",
        "confidential: none of this leaves the room",
        "confidential: 12 employees",
        "confidential: 12, 13 and 14 go",
        "confidential:" + " " * 200 + "int",
        '"CONFIDENTIAL": 12 employees',
        "CONFIDENTIAL(draft) plan",
        "confidential(draft) plan",
        "CONFIDENTIAL = do not share",
        "CONFIDENTIAL = 12 people",
        "confidential = do not share",
    ],
)
def test_words_for_confidential_count_anywhere(text: str) -> None:
    assert (CONFIDENTIAL, DataClass.CONFIDENTIAL) in {(hit.rule, hit.data_class) for hit in scan(text)}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_they_are_found_in_every_disguise(disguise: str) -> None:
    assert CONFIDENTIAL in rules(DISGUISES[disguise]("strictly confidential"))


@pytest.mark.parametrize("text", ["соnfidеntial", "сοnfidential", "ｃonfidential", "ᴄonﬁdential".replace("ᴄ", "c")])
def test_look_alike_letters_are_seen_through(text: str) -> None:
    assert rules(text) == {CONFIDENTIAL}


@pytest.mark.parametrize(
    "text",
    [
        "is_confidential",
        "confidential_data = 3",
        "isConfidential",
        "CONFIDENTIAL = 2",
        "confidential=True",
        "DataClass.CONFIDENTIAL",
        "row.confidential",
        "def confidential(self):",
        "confidential: bool = False",
        '"confidential": false',
        '"Confidential": true, "next": 1',
        "confidential?: boolean;",
        "confidential: string | null;",
        "confidential: Optional[bool] = None",
        "confidential: int\r\nname: str",
        "{confidential: 1, public: 0}",
        "def f(confidential: bool, other):",
        "if confidential(doc) and other:",
        "const confidential = new Map()",
        "confidential = not public",
        "confidential = a if b else c",
        "WHERE confidential = false ORDER BY id",
        "enum { PUBLIC = 0, CONFIDENTIAL = 2, PII = 3 }",
        "CONFIDENTIAL = 0x2  # a level",
        "CONFIDENTIAL = auto()",
        "$confidential",
        "non-confidential data",
        "nonconfidential",
        "confidentiality agreements in general",
        '"license": "Proprietary"',
        "License :: Other/Proprietary License",
        "SPDX-License-Identifier: LicenseRef-Proprietary",
    ],
)
def test_names_in_code_are_no_prose(text: str) -> None:
    assert rules(text) == set()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("SECRET", CONFIDENTIAL),
        ("the SECRET plan", CONFIDENTIAL),
        ("STRENG GEHEIM", CONFIDENTIAL),
        ("DOCUMENTO SECRETO", CONFIDENTIAL),
        ("SECRÈTE", CONFIDENTIAL),
        ("TAJNE", CONFIDENTIAL),
        ("NUR INTERN", INTERNAL),
        ("INTERNAL", INTERNAL),
        ("USO INTERNO", INTERNAL),
        ("# Secret project", CONFIDENTIAL),
        ("## our secret plan", CONFIDENTIAL),
        ("Secret Project\n=====", CONFIDENTIAL),
        ("Secret Project\r\n-----\r\ntext", CONFIDENTIAL),
        ("<h1 class='x'>Secret plan</h1>", CONFIDENTIAL),
        ("### Geheime Planung", CONFIDENTIAL),
        ("# Internal roadmap", INTERNAL),
        ("## Interne Planung", INTERNAL),
        ("text\nSecret\ntext", CONFIDENTIAL),
        ("**Secret**", CONFIDENTIAL),
        ("=== Geheim ===", CONFIDENTIAL),
        ("Strictly secret", CONFIDENTIAL),
        ("[secret] Roadmap", CONFIDENTIAL),
        ("[internal] memo", INTERNAL),
        ("(intern) Notiz", INTERNAL),
        ("Wewnętrzne", INTERNAL),
        ("a trade secret of ours", CONFIDENTIAL),
        ("trade\nsecrets", CONFIDENTIAL),
        ("top-secret", CONFIDENTIAL),
        ("unser Geschäftsgeheimnis", CONFIDENTIAL),
        ("VS-NfD", CONFIDENTIAL),
        ("secret d'affaires", CONFIDENTIAL),
        ("un secreto comercial", CONFIDENTIAL),
        ("segreto industriale", CONFIDENTIAL),
        ("bedrijfsgeheim", CONFIDENTIAL),
        ("segredo de negócio", CONFIDENTIAL),
        ("tajemnica przedsiębiorstwa", CONFIDENTIAL),
        ("strictly internal", INTERNAL),
        ("un document interne", INTERNAL),
    ],
)
def test_words_for_secret_and_internal_count_where_they_mark_a_document(text: str, rule: str) -> None:
    assert rule in rules(text)
    assert data_class(text) is (DataClass.CONFIDENTIAL if rule == CONFIDENTIAL else DataClass.INTERNAL)


@pytest.mark.parametrize(
    "text",
    [
        "let's keep it a secret",
        "die geheime Zutat der Suppe",
        "le code secret du cadenas",
        "the internal state of the machine",
        "Der interne Zustand",
        "el estado interno",
        "an intern of ours",
        "secret\ninternal\n",
        "internal class Foo { }",
        "kind: Secret",
        "- Secret\n- ConfigMap",
        "kubectl create secret generic x",
        "SECRET_KEY = 1",
        "INTERNAL_ERROR",
        "500 INTERNAL SERVER ERROR",
        "StatusCode.INTERNAL",
        "AWS SECRET ACCESS KEY",
        "echo $SECRET ${SECRET} <SECRET>",
        "SECRET=abc",
        "# internal helper",
        "# secret used for signing",
        "# Secret key for signing",
        "## Secrets management",
        "## Internal state",
        "# Internal = 1; x()",
        "# " + "word " * 40 + "Secret",
        "Top Secret Santa".replace("Top ", ""),
        "ein Internist",
        "secretary",
    ],
)
def test_elsewhere_they_are_ordinary_words(text: str) -> None:
    assert rules(text) == set()


def test_strict_counts_them_everywhere_as_whole_words() -> None:
    strict = configured(keywords_strict=True)
    assert rules("let's keep it a secret", strict) == {CONFIDENTIAL}
    assert rules("die geheime Zutat", strict) == {CONFIDENTIAL}
    assert rules("el estado interno", strict) == {INTERNAL}
    assert rules("CONFIDENTIAL = 2", strict) == {CONFIDENTIAL}
    assert rules("secretary, internist, is_secret", strict) == set()


def test_without_defaults_only_the_words_of_the_settings_count() -> None:
    scanner = configured(keyword_defaults=False, keywords_confidential=("Falcon",))
    assert rules("SECRET confidential INTERNAL trade secret", scanner) == set()
    assert rules("the falcon flies", scanner) == {CONFIDENTIAL}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("Falcon", "project FALCON"),
        ("project falcon", "Project  Falcon"),
        ("project falcon", "project\nfalcon"),
        ("C++ core", "the c++ core team"),
        ("機密", "これは機密です"),
        ("Übernahme", "die übernahme"),
        ("Übernahme", "die U\u0308bernahme"),
        ("naïve", "na&iuml;ve"),
        (" falcon ", "falcon"),
        ("fal(con", "fal(con"),
    ],
)
@pytest.mark.parametrize("setting", ["keywords_confidential", "keywords_internal"])
def test_configured_words_count_anywhere(word: str, text: str, setting: str) -> None:
    rule = CONFIDENTIAL if setting == "keywords_confidential" else INTERNAL
    assert rules(text, configured(**{setting: (word,)})) == {rule}


@pytest.mark.parametrize("text", ["falconry", "_falcon", "falcon2", "millefalcon", "fal con", "пfalcon"])
def test_configured_words_count_as_whole_words_only(text: str) -> None:
    assert rules(text, configured(keywords_confidential=("falcon",))) == set()


def test_empty_words_are_ignored() -> None:
    assert rules("any text", configured(keywords_confidential=("", "  "), keywords_internal=("",))) == set()


def test_the_span_is_the_word() -> None:
    text = "# Größe: Secret plan"
    (hit,) = scan(text)
    assert text[hit.start : hit.end] == "Secret"
