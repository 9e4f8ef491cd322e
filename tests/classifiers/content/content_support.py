"""Samples for the tests of the content scanner: generated values, and the disguises a text can come in.

Nothing here is anybody's: domains are those of RFC 2606, numbers are drawn and given a valid check digit, tokens
are put together at run time, so that no secret scanner takes them for real ones.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Sequence

from sidecar.classifiers.content import ContentConfig, ContentScanner, Hit
from sidecar.core.classification import DataClass

ALPHANUMERIC = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
SCANNER = ContentScanner(time_budget_s=60)


def scan(text: str, scanner: ContentScanner = SCANNER) -> list[Hit]:
    """The hits in one text, without a body."""
    return scanner.scan(None, [text])


def rules(text: str, scanner: ContentScanner = SCANNER) -> set[str]:
    return {hit.rule for hit in scan(text, scanner)}


def strictest(hits: Sequence[Hit]) -> DataClass:
    return max((hit.data_class for hit in hits), default=DataClass.PUBLIC)


def data_class(text: str, scanner: ContentScanner = SCANNER) -> DataClass:
    return strictest(scan(text, scanner))


def configured(**settings: object) -> ContentScanner:
    return ContentScanner(ContentConfig(**settings), time_budget_s=60)  # type: ignore[arg-type]


def draw(alphabet: str, size: int, seed: int = 7) -> str:
    """`size` random characters, the same ones for the same seed, with a digit and a letter among them."""
    chosen = random.Random(seed * 1009 + size)
    return "".join(chosen.choice(alphabet) for _ in range(size - 2)) + "4" + ("a" if "a" in alphabet else "A")


def luhn_digit(payload: str) -> str:
    """The check digit of ISO/IEC 7812-1 annex B, worked out here on its own."""
    total = 0
    for place, character in enumerate(reversed(payload)):
        digit = int(character)
        if place % 2 == 0:
            digit = digit * 2 - 9 if digit > 4 else digit * 2
        total += digit
    return str(-total % 10)


CARD_SHAPES = (("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("6011", 16),
               ("36", 14), ("3528", 16), ("62", 16), ("4", 19))  # fmt: skip


def card(chosen: random.Random) -> str:
    prefix, length = chosen.choice(CARD_SHAPES)
    payload = prefix + "".join(chosen.choice(string.digits) for _ in range(length - len(prefix) - 1))
    return payload + luhn_digit(payload)


def iban(chosen: random.Random) -> str:
    """ISO 13616: a random account of a country without a check of its own, with valid check digits."""
    country, size = chosen.choice((("DE", 18), ("AT", 16), ("LU", 16), ("DK", 14)))
    account = "".join(chosen.choice(string.digits) for _ in range(size))
    digits = "".join(str(int(character, 36)) for character in account + country + "00")
    return f"{country}{98 - int(digits) % 97:02d}{account}"


def ssn(chosen: random.Random) -> str:
    area = chosen.choice([number for number in range(1, 900) if number not in {666, 78, 219, 457}])
    return f"{area:03d}-{chosen.randint(1, 99):02d}-{chosen.randint(1, 9999):04d}"


def mailbox(chosen: random.Random) -> str:
    name = "".join(chosen.choice(string.ascii_lowercase) for _ in range(chosen.randint(2, 9)))
    return f"{name}.{chosen.choice(['doe', 'roe', 'x1'])}@{chosen.choice(['example.com', 'mail.example.org'])}"


def grouped(number: str, separator: str = " ") -> str:
    return separator.join(number[at : at + 4] for at in range(0, len(number), 4))


def fullwidth(text: str) -> str:
    return "".join(chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character for character in text)


def arabic_digits(text: str) -> str:
    return text.translate({ord(digit): 0x660 + int(digit) for digit in string.digits})


DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in prose": lambda text: f"Well, here it is: {text} - did you get it?",
    "JSON in a string": lambda text: json.dumps({"role": "user", "content": f"line one\n{text}\nline three"}),
    "JSON escapes": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
    "zero-width spaces": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "grapheme joiners": "\u034f".join,
    "full-width": fullwidth,
    "HTML entities": lambda text: "".join(f"&#{ord(character)};" for character in text),
    "hex HTML entities": lambda text: "".join(f"&#x{ord(character):X};" for character in text),
    "percent": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 in a URL": lambda text: (
        "https://example.com/u/" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=") + " bye"
    ),
    "base64 in lines": lambda text: base64.encodebytes(f"{'lorem ipsum ' * 20}\n{text}\n".encode()).decode(),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "hex": lambda text: text.encode().hex(),
}  # fmt: skip
