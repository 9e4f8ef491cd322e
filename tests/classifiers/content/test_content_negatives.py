"""Clean texts of the kinds that people send to models: none of them may be kept from the cloud.

What makes a text `internal` does not keep it, so the measure here is `sensitive`.
"""

from __future__ import annotations

import json
import random
import uuid

import pytest
from content_support import SCANNER, scan

_DRAWN = random.Random(11)

TEXTS = {
    "python": '''
import os, re
from dataclasses import dataclass, field

@dataclass
class Settings:
    """Reads `password` and `api_key` from the environment; `token` is optional."""
    password: str = field(default="", repr=False)
    api_key: str | None = None
    token: SecretStr = Field(..., description="The access token of the account")
    secret_name: str = "db-credentials"

def login(user: str, password: str, *, token: Optional[str] = None) -> bool:
    # internal helper: secret fields are masked
    if not password or len(password) < 12:
        raise ValueError("password is too short")
    client = Client(api_key=os.environ["API_KEY"], secret=get_secret("db"))
    return hmac.compare_digest(hash(password), client.fetch(user)["password_hash"])
''',
    "typescript": '''
import { type User } from "@types/app";
@Injectable() export class Auth {
  private readonly token$ = new BehaviorSubject<string | null>(null);
  constructor(private password: string, secret = process.env.SECRET!) {}
  get headers() { return { Authorization: `Bearer ${this.token}`, "X-Api-Key": this.config.apiKey }; }
}
''',
    "go, rust, c++": '''
func (s *Store) internal(ctx context.Context) error { return s.db.PingContext(ctx) }
let token: &str = tokens.next().unwrap(); use std::collections::HashMap; a::b::fade();
std::vector<std::string> secret{}; x->password = nullptr; #define INTERNAL_BUFFER 4096
''',
    "sql": "SELECT id, email, phone, password FROM users WHERE token = $1 AND secret IS NOT NULL ORDER BY 1;",
    "yaml": '''
apiVersion: v1
kind: Secret
metadata: {name: db, labels: {tier: internal}}
---
env:
  - name: DB_PASSWORD
    valueFrom: {secretKeyRef: {name: db, key: password}}
  - name: API_TOKEN
    value: "$(TOKEN)"
image: registry.example.com/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
''',
    "dotenv example": "DATABASE_URL=postgres://user:password@localhost/app\nSECRET_KEY=changeme\nAPI_KEY=<key>\n",
    "shell": "export TOKEN=$(cat /run/token); curl -H \"Authorization: Bearer $TOKEN\" https://example.com",
    "diff": "@@ -1,4 +1,4 @@\n-password = None\n+password = getpass()\n+1234567890\n index 83db48f..bf2a1c9 100644",
    "git log": "commit 9fceb02d0ae598e95dc970b74767f19372d61af8\n    Fix the secret manager (#1234567)",
    "stack trace": 'File "/usr/lib/site.py", line 1234567, in call\n500 INTERNAL SERVER ERROR (0x7fff5fbff8c8)',
    "json schema": json.dumps(
        {
            "type": "object",
            "properties": {
                "email": {"type": "string", "format": "email"},
                "password": {"type": "string", "minLength": 8},
                "phone": {"type": "string", "pattern": r"^\\+?[0-9]{7,15}$"},
                "token": {"$ref": "#/definitions/token"},
            },
            "required": ["email", "password"],
        }
    ),
    "math": "3.14159265358979 * 2.71828182845905 = 8.539734222673567; 1e-10 < x <= 12345678901; 7! = 5040",
    "matrix": "1 0 0 1 0 1 1 0 1 0 0 1 0 1 1 0\n0 1 1 0 1 0 0 1 0 1 1 0 1 0 0 1",
    "markdown table": "| id | qty | price |\n|---:|----:|------:|\n| 100045 | 12 | 1,299.00 |",
    "products": "iPhone 15 Pro (256 GB), WH-1000XM5, RTX 4090 24GB, ISBN 978-3-16-148410-0, EAN 4006381333931",
    "times": "2024-01-15T10:30:00+02:00 1700000000 1700000000000 10:30:59.123456 15/01/2024 2024-W03 1999-2024",
    "versions": "python==3.11.7, v1.2.3.4, node 20.11.1, lodash@4.17.21, Chrome/120.0.0.0, 2.0.0-rc.1+build.5",
    "emoji": "Great job 👩‍💻! See you at 10 😀🏳️‍🌈 1️⃣ 2️⃣ 3️⃣",
    "lorem": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore.",
    "chat": "Can you keep a secret? The internal combustion engine is no secret; call 911!",
    "german": "Der interne Zustand des Geräts ist geheimnisvoll. Das Telefon wiegt 189 Gramm.",
    "french": "C’est un secret de polichinelle : l’interne de garde a mangé 12 000 pâtes. Le téléphone pèse 189 g.",
    "spanish": "El secreto de la paella es el caldo; el propietario del piso y el interno viven en la calle 12.",
    "italian": "Tutti i diritti riservati. Il segreto del ragù è il tempo; il proprietario della casa lo sa.",
    "japanese": "東京の天気は晴れです。電話は１２時に鳴りました。「秘密の花園」は１９１１年の本です。",
    "russian": "Привет! Это API-ключ? Нет, в Python это просто строка №12.",
    "arabic": "السعر ١٢٣ دولار في عام ٢٠٢٤ مع خصم ١٠٪.",
    "html": "<p>Fish &amp; chips &lt;3 &#8364;12.50</p><input type=\"password\" name=\"password\">",
    "url": "https://example.com/a%20b/c?page=2&token=abc&utm_source=x%2Cy#section-1.2.3.4",
    "latex": r"\frac{1}{2} \alpha_{internal} \nabla \times \mathbf{E} \\ \u \x \textbf{secret}",
    "windows path": r"C:\Users\Public\new\table\x64\u2net\report.txt",
    "regex": r"^(?:\+|00)[1-9]\d{6,14}$ and ^[\w.+-]+@[\w-]+\.[a-z]{2,}$ and \b\d{3}-\d{2}-\d{4}\b",
    "logprobs": json.dumps([{"token": " playing", "logprob": -0.4532015112830366, "bytes": [32, 112]}]),
    "hashes": "\n".join(f"{_DRAWN.getrandbits(256):064x}  file{number}.bin" for number in range(30)),
    "uuids": "\n".join(str(uuid.UUID(int=_DRAWN.getrandbits(128))) for _ in range(30)),
    "embedding": json.dumps([_DRAWN.gauss(0, 1) for _ in range(500)]),
    "public label": "Classification: Public\nTLP:CLEAR\n\nOur opening hours have changed.",
    "licence": '{"name": "x", "license": "Proprietary", "private": true}',
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_a_clean_text_may_go_to_the_cloud(kind: str) -> None:
    assert [
        (hit.rule, TEXTS[kind][hit.start : hit.end]) for hit in scan(TEXTS[kind]) if hit.data_class.sensitive
    ] == []


@pytest.mark.parametrize("kind", TEXTS)
def test_so_may_a_call_that_carries_it(kind: str) -> None:
    content = TEXTS[kind]
    document = {"model": "llama3.1:8b", "messages": [{"role": "user", "content": content}], "max_tokens": 4096}
    texts = ["model", "llama3.1:8b", "messages", "role", "user", "content", content, "max_tokens", "4096"]
    for ascii_only in (True, False):
        hits = SCANNER.scan(json.dumps(document, ensure_ascii=ascii_only).encode(), texts)
        assert [hit.rule for hit in hits if hit.data_class.sensitive] == []
