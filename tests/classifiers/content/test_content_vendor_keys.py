"""Keys and tokens with a form of their own, put together here from parts."""

from __future__ import annotations

import base64
import json
import string

import pytest
from content_support import ALPHANUMERIC, DISGUISES, HEX, draw, rules, scan

from sidecar.core.classification import DataClass


def _part(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


JWT = ".".join((_part(b'{"alg":"HS256","typ":"JWT"}'), _part(b'{"sub":"1234567890"}'), draw(ALPHANUMERIC, 43)))

TOKENS = {
    "aws-access-key": "AK" + "IA" + draw(string.ascii_uppercase + "234567", 16),
    "github-token": "gh" + "p_" + draw(ALPHANUMERIC, 36),
    "gitlab-token": "gl" + "pat-" + draw(ALPHANUMERIC, 20),
    "slack-token": "xo" + "xb-123456789012-" + draw(ALPHANUMERIC, 24),
    "slack-webhook": "https://hooks.slack" + ".com/services/T0000/B0000/" + draw(ALPHANUMERIC, 24),
    "google-api-key": "AI" + "za" + draw(ALPHANUMERIC, 35),
    "azure-storage-key": "DefaultEndpointsProtocol=https;Account" + "Key=" + draw(ALPHANUMERIC, 86) + "==",
    "azure-sas": "https://x.blob.example.com/c?sv=2022-11-02&ss=b&s" + "ig=" + draw(ALPHANUMERIC, 43) + "%3D",
    "openai-key": "s" + "k-proj-" + draw(ALPHANUMERIC, 48),
    "anthropic-key": "s" + "k-ant-api03-" + draw(ALPHANUMERIC, 80),
    "hugging-face-token": "h" + "f_" + draw(ALPHANUMERIC, 34),
    "stripe-key": "r" + "k_live_" + draw(ALPHANUMERIC, 24),
    "npm-token": "np" + "m_" + draw(ALPHANUMERIC, 36),
    "pypi-token": "py" + "pi-AgEIcHlwaS5vcmc" + draw(ALPHANUMERIC, 60),
    "sendgrid-key": "S" + "G." + draw(ALPHANUMERIC, 22) + "." + draw(ALPHANUMERIC, 43),
    "twilio-key": "S" + "K" + draw(HEX, 32),
    "telegram-token": "123456789:A" + "A" + draw(ALPHANUMERIC, 33),
    "private-key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE" + draw(ALPHANUMERIC, 40),
    "google-service-account": json.dumps({"type": "service_account", "private_key_id": draw(HEX, 40)}),
    "jwt": JWT,
}


@pytest.mark.parametrize("rule", TOKENS)
def test_a_token_is_confidential(rule: str) -> None:
    found = {(hit.rule, hit.data_class) for hit in scan(f"use {TOKENS[rule]} for it")}
    assert (rule, DataClass.CONFIDENTIAL) in found


@pytest.mark.parametrize("rule", TOKENS)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_token_is_found_in_every_disguise(rule: str, disguise: str) -> None:
    assert rule in rules(DISGUISES[disguise](TOKENS[rule]))


@pytest.mark.parametrize(
    "head",
    [
        "-----BEGIN " + "PRIVATE KEY-----",
        "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----",
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "-----BEGIN EC " + "PRIVATE KEY-----",
        "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----",
        "---- BEGIN SSH2 ENCRYPTED " + "PRIVATE KEY ----",
        "PuTTY-User-Key-File-2: ssh-rsa",
    ],
)
def test_every_kind_of_private_key_counts(head: str) -> None:
    assert rules(f"{head}\\nabc") == {"private-key"}


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN CERTIFICATE-----\nMIIE",
        "-----BEGIN PUBLIC KEY-----\nMIIE",
        "AKIA is the prefix of a key",
        "gh" + "p_" + "x" * 36,
        "gh" + "p_your_token_here",
        "x" + TOKENS["aws-access-key"],
        TOKENS["aws-access-key"] + "Z",
        "class sk-fading-circle-container-wide",
        "sk-learn-and-other-long-names-of-things",
        "pypi-attestations-and-other-long-names-of-packages-that-people-publish-1",
        "xoxo-kisses",
        f"eyJ{draw(ALPHANUMERIC, 20)}.{draw(ALPHANUMERIC, 20)}.x",
        ".".join((_part(b'{"typ":"JWT"}'), _part(b'{"sub":"1"}'), "abc")),
        "https://hooks.slack.com/services/",
        "npm_config_registry",
        "SG.module.name",
        json.dumps({"type": "service_account", "project_id": "x"}),
    ],
)
def test_what_is_no_token(text: str) -> None:
    assert rules(text) == set()
