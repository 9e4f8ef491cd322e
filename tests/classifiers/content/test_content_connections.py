"""Passwords in URLs and in HTTP headers."""

from __future__ import annotations

import pytest
from content_support import ALPHANUMERIC, DISGUISES, draw, rules, scan

from sidecar.core.classification import DataClass

TOKEN = draw(ALPHANUMERIC, 32)


@pytest.mark.parametrize(
    "text",
    [
        "postgres://admin:s3cr3tPw@db.example.com/app",
        "postgres://user:pass@db.example.com/x",
        "mongodb+srv://u:p4ssw0rd@cluster0.example.net",
        "amqp://guest:guest@rabbit:5672",
        "redis://:s3cret@cache:6379/0",
        "mysql://root:toor@127.0.0.1/x",
        "https://bob:hunter2@example.com/x",
        "smtp://a:b%40c@mail.example.com",
        "postgres://postgres:postgres@[::1]/x",
    ],
)
def test_a_url_with_a_password_is_confidential(text: str) -> None:
    assert {(hit.rule, hit.data_class) for hit in scan(text)} >= {("connection-string", DataClass.CONFIDENTIAL)}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_it_is_found_in_every_disguise(disguise: str) -> None:
    assert "connection-string" in rules(DISGUISES[disguise]("postgres://admin:s3cr3tPw@db.example.com/app"))
    assert "authorization" in rules(DISGUISES[disguise](f"Authorization: Bearer {TOKEN}"))


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:8080/path@v2",
        "https://example.com:443/a:b@c",
        "postgres://user:password@localhost/db",
        "postgres://${USER}:${PASS}@db/x",
        "postgres://{user}:{password}@db/x",
        "postgres://%s:%s@db/x",
        "postgres://<user>:<password>@host/x",
        "redis://:********@cache",
        "ssh://git@example.com/x.git",
        "a ratio of 1://2:3 @ noon",
    ],
)
def test_urls_without_a_password_or_with_a_stand_in(text: str) -> None:
    assert rules(text) == set()


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {TOKEN}",
        f"curl -H 'Authorization: Bearer {TOKEN}' https://example.com",
        f'{{"Authorization": "Bearer {TOKEN}"}}',
        "authorization: basic dXNlcjpwYXNz",
        f"proxy-authorization: Token {TOKEN}",
        f"send it as bearer {TOKEN}",
    ],
)
def test_credentials_of_http_are_confidential(text: str) -> None:
    assert {(hit.rule, hit.data_class) for hit in scan(text)} >= {("authorization", DataClass.CONFIDENTIAL)}


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer <token>",
        "Authorization: Bearer $TOKEN",
        "Authorization: Bearer ${TOKEN}",
        'headers["Authorization"] = f"Bearer {token}"',
        "Authorization: Bearer YOUR_API_TOKEN",
        "Authorization: Bearer xxxxxxxxxxxx",
        "authorization is required",
        "the bearer of internationalization",
    ],
)
def test_templates_of_http_headers_do_not_count(text: str) -> None:
    assert rules(text) == set()
