"""Assignments of secrets: a value that could be one counts, code and templates do not."""

from __future__ import annotations

import json

import pytest
from content_support import ALPHANUMERIC, DISGUISES, HEX, configured, draw, rules, scan
from hypothesis import given
from hypothesis import strategies as st

from sidecar.classifiers.content.rules.passwords import entropy
from sidecar.core.classification import DataClass

TOKEN = draw(ALPHANUMERIC, 32)


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2",
        "password=Tr0ub4dor&3",
        "DB_PASSWORD=kj3h4kjh34",
        "export PGPASSWORD='Tr0ub4dor&3'",
        'password = "correcthorsebatterystaple"',
        'self.password = "S3cret!pw"',
        'if password == "S3cret!pw":',
        "pwd := 'S3cret!pw'",
        "Server=x;User Id=sa;Password=P@ssw0rd1;",
        "jdbc:mysql://h/db?user=a&password=Tr0ub4dor3",
        "Passwort: Sommer2024!",
        "Das Passwort lautet Sommer2024!",
        "the password is Xk9#mm2p",
        "password:\nXk9#mm2p",
        "**Password:** Xk9#mm2p",
        "password:\u00a0Xk9#mm2p",
        "Mot de passe : Xk9mm2p",
        "contraseña: Xk9mm2p",
        "wachtwoord: Xk9mm2p",
        "hasło: Xk9mm2p",
        "pw: Xk9mm2p",
        '"password":\n"hunter2!x"',
        '"password"\r\n\t:\r\n\n\t"hunter2!x"',
        '"password"' + " " * 50 + ":" + " " * 50 + '"hunter2!x"',
        'password:\n  "hunter2!x"',
        "DB_PASS=hunter2",
        "user=admin password=admin123",
        "first password: hunter2",
        "<password>hunter2</password>",
        json.dumps({"password": "S3cret!pw"}),
        json.dumps({"name": "DB_PASSWORD", "value": "hunter2X!"}),
        f'api_key = "{TOKEN}"',
        f"apiKey: '{TOKEN}'",
        f"X-Api-Key: {TOKEN}",
        f"aws_secret_access_key = {draw(ALPHANUMERIC + '/+', 40)}",
        json.dumps({"client_secret": TOKEN}),
        f"secret: {draw(HEX, 32)}",
        f"https://example.com/y?api_key={TOKEN}&page=1",
    ],
)
def test_an_assigned_secret_is_confidential(text: str) -> None:
    assert ("credential-assignment", DataClass.CONFIDENTIAL) in {(hit.rule, hit.data_class) for hit in scan(text)}


def test_a_secret_behind_an_option_is_confidential() -> None:
    assert rules("mysql --password Tr0ub4dor3 -u x") == {"credential-option"}
    assert rules(f"cli --token {TOKEN}") == {"credential-option"}
    assert rules("curl -u admin:hunter2 https://example.com") == {"credential-option"}
    assert rules("docker run -u 1000:1000 --user root:root x") == set()
    assert rules("cli --password --user x") == rules("cli --token $TOKEN") == set()


@pytest.mark.parametrize("disguise", DISGUISES)
def test_it_is_found_in_every_disguise(disguise: str) -> None:
    assert "credential-assignment" in rules(DISGUISES[disguise]('password = "S3cret!pw-x"'))


@given(st.text(ALPHANUMERIC, min_size=20, max_size=60).filter(lambda value: entropy(value) > 3.5))
def test_any_random_token_in_quotes_is_found(value: str) -> None:
    if any(character.isdigit() for character in value) and any(character.isalpha() for character in value):
        assert "credential-assignment" in rules(f'api_key = "{value}";')


CODE = (
    'password = os.environ["X"]',
    "password = os.getenv('DB_PASSWORD')",
    "token: str",
    "password=None",
    "password: Optional[str] = None,",
    "<password>",
    "password: <password>",
    "password: ${TOKEN}",
    "token = '{{ token }}'",
    "password: xxxx",
    "password: ********",
    "password: ...",
    "password: your_password",
    "password: changeme",
    "password: my-password",
    "def login(password: str, token: Optional[str]):",
    "max_tokens=4096",
    "pad_token = '[PAD]'",
    'eos_token: "<|endoftext|>"',
    f"next_page_token = '{TOKEN}'",
    "secretName: db-credentials",
    "secret: my-app-secret-2",
    "The password is required.",
    "The password is\nrequired2 for that",
    "the password is case-sensitive and base64-encoded",
    "passwords: 12 chars minimum",
    "Forgot password?",
    "token = self.next_token()",
    "api_key = get_key(1)",
    "token = tokens[0]",
    "password = user.password",
    "password = request.form['password']",
    "pwd = getpass()",
    "password: SecretStr",
    "password = DB_PASSWORD_V2",
    'f"password={password}"',
    '"token": "playing"',
    '{"password": "Kennwort", "secret": "geheim"}',
    '{"properties": {"token": {"type": "string"}}}',
    '{"password": "Enter your password"}',
    "SELECT * FROM users WHERE password = ?",
    "password:\n  secretKeyRef:\n    name: x",
    "secret: /run/secrets/db_password_1",
    "token: https://example.com/oauth2/token",
    "token count: 12345",
    'encryption_key = "arn:aws:kms:us-west-2:123456789012:key/1"',
    "password = %s",
    "password=$PASSWORD",
    "token=abc",
    "<password> is1needed here",
    "bypass: hunter2",
)


@pytest.mark.parametrize("text", CODE)
def test_code_and_templates_do_not_count(text: str) -> None:
    assert rules(text) == set()


def test_the_span_reaches_to_the_end_of_the_value() -> None:
    text = 'x; password = "Tr0ub4dor&3"; y'
    (hit,) = scan(text)
    assert text[hit.start : hit.end] == 'password = "Tr0ub4dor&3'
    assert rules(text, configured(allow=("password =",))) == {"credential-assignment"}
