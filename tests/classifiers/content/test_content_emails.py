"""Mailboxes count wherever and however they are written; what only looks like one does not."""

from __future__ import annotations

import random

import pytest
from content_support import DISGUISES, mailbox, rules, scan

from sidecar.core.classification import DataClass


@pytest.mark.parametrize(
    "text",
    [
        "jane.doe@example.com",
        "Jane Doe <jane+lists@mail.example.co.uk>, bye",
        "o'brien@example.com",
        "noreply@example.org",
        "mailto:a.b@example.com?subject=x",
        "josé@exämple.de",
        "user@xn--exmple-cua.com",
        "連絡先はtaro@example.co.jpまで",
        "jane@corp.local",
        '"jane doe"@example.com',
        "postmaster@[192.0.2.1]",
        "leak: jane@example.com:hunter2",
        "?email=jane@example.com&page=2",
        "JANE@EXAMPLE.COM",
        "Contact me...jane.doe@example.com",
        "E-mail" + "." * 30 + "jane.doe@example.com",
        "-" * 70 + "jane@example.com",
        "please-write-to-the-following-address-of-ours-and-nowhere-else-jane.doe@example.com",
        "jane.doe@example.com...thanks",
        "jane.doe@example.com" + ".a" * 200,
        "jane.doe@example.com(work)",
        "連絡先は taro@example.co.jp(会社)",
        "連絡先は taro@example.co.jpまで(会社)",
        "super@gmail.com is my address",
        "this@example.org",
        "hg@example.com",
        "see jane.doe@example.com.pdf",
    ],
)
def test_a_mailbox_is_pii(text: str) -> None:
    assert [hit.data_class for hit in scan(text) if hit.rule == "email"] == [DataClass.PII]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_mailbox_is_found_in_every_disguise(disguise: str) -> None:
    assert "email" in rules(DISGUISES[disguise](mailbox(random.Random(3))))


@pytest.mark.parametrize(
    "text",
    [
        "user@localhost",
        "see icon foo@2x.png and logo@3x.webp",
        "git clone git@github.com:org/repo.git",
        "npm i @types/node @scope/pkg@1.2.3 lodash@4.17.21",
        "@app.route('/x')\ndef x(): ...",
        "y = a@b.T + W@x.transpose()",
        "this@MainActivity.finish()",
        "return@forEach.also { }",
        "super@Outer.name",
        "git@github.com: Permission denied (publickey)",
        "hg@code.example.com:repo",
        "ssh -T git@gitlab.example.com",
        "(a@b.to(device) + c@d.mm(e) + f@g.view())",
        "me...@example.com".replace("me", ""),
        "foo@bar...com",
        "https://medium.com/@user.name",
        "systemctl status getty@tty1.service",
        "@media (min-width: 3em) { }",
        "//a[@href='x.y']",
        "https://0123456789abcdef0123456789abcdef@sentry.example.com/1",
        "a@@b.com",
        "@ example.com",
        "a" * 65 + "@example.com",
    ],
)
def test_what_only_looks_like_a_mailbox_does_not_count(text: str) -> None:
    assert "email" not in rules(text)


def test_the_span_is_the_mailbox() -> None:
    for text in (
        "Grüße an jane.doe@example.com, danke",
        "Grüße…me...jane.doe@example.com...thanks",
        "'jane.doe@example.com(work)'",
    ):
        (hit,) = scan(text)
        assert text[hit.start : hit.end] == "jane.doe@example.com"
