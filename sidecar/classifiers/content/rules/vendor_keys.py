"""Keys and tokens whose issuers gave them a recognisable form, as the issuers document it for secret scanning."""

from __future__ import annotations

import base64
import binascii
import json
import re

from sidecar.classifiers.content.model import Candidate, Rule, when
from sidecar.core.classification import DataClass

_BLANKED = re.compile(r"[xX]{6}|\*{3}|\.{3}|([A-Za-z0-9])\1{9}|(?i:your|placeholder|redacted)")


def _is_token(candidate: Candidate) -> bool:
    """Not inside a longer word, and not a stand-in such as `ghp_xxxxxxxx`."""
    return candidate.stands_alone and not _BLANKED.search(candidate.text)


def _is_mixed_token(candidate: Candidate) -> bool:
    """Also with letters and digits in one long piece, unlike names of things such as `sk-fading-circle-1`."""
    return _is_token(candidate) and any(
        re.search("[0-9]", piece) and re.search("[A-Za-z]", piece)
        for piece in re.findall(r"[A-Za-z0-9]{12,}", candidate.text)
    )


def _has_digit(candidate: Candidate) -> bool:
    return _is_token(candidate) and re.search("[0-9]", candidate.text) is not None


def _is_jwt(candidate: Candidate) -> bool:
    """RFC 7519: the header is base64url of a JSON object that names an algorithm."""
    header = candidate.text.partition(".")[0]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return False
    return isinstance(decoded, dict) and "alg" in decoded


def _always(_: Candidate) -> bool:
    return True


# (rule, RE2 of the whole token, its head for the prefilter, the check)
_FORMS = (
    ("aws-access-key", r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}", r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{4}", _is_token),
    ("github-token", r"gh[pousr]_[0-9A-Za-z]{30,}", r"gh[pousr]_[0-9A-Za-z]{4}", _is_token),
    ("github-token", r"github_pat_[0-9A-Za-z_]{22,}", r"github_pat_[0-9A-Za-z]", _is_token),
    (
        "gitlab-token",
        r"gl(?:pat|dt|rt|ptt|cbt|soat|ft|agent|imt|oas)-[0-9A-Za-z_.-]{20,}",
        r"gl(?:pat|dt|rt|ptt|cbt|soat|ft|agent|imt|oas)-[0-9A-Za-z_-]{4}",
        _is_token,
    ),
    ("slack-token", r"xox[abeoprs](?:\.xox[a-z])?-[0-9A-Za-z-]{10,}", r"xox[abeoprs][.-]", _has_digit),
    ("slack-token", r"xapp-[0-9]-[0-9A-Za-z-]{20,}", r"xapp-[0-9]-", _is_token),
    (
        "slack-webhook",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{20,}",
        r"hooks\.slack\.com/",
        _has_digit,
    ),
    (
        "discord-webhook",
        r"discord(?:app)?\.com/api/webhooks/[0-9]{8,}/[A-Za-z0-9_-]{30,}",
        r"/api/webhooks/[0-9]",
        _is_token,
    ),
    ("google-api-key", r"AIza[0-9A-Za-z_-]{35}", r"AIza[0-9A-Za-z_-]{4}", _is_token),
    ("google-oauth-token", r"GOCSPX-[0-9A-Za-z_-]{20,}|ya29\.[0-9A-Za-z_-]{20,}", r"GOCSPX-|ya29\.", _is_token),
    (
        "google-service-account",
        r'private_key(?:_id)?\\?"[ \t\r\n]*:[ \t\r\n]*\\?"[^\s"]{8}',
        r"service_account",
        _always,
    ),
    (
        "azure-storage-key",
        r"(?i)(?:Account|SharedAccess)Key=[A-Za-z0-9+/]{30,}={0,2}",
        r"(?i)(?:Account|SharedAccess)Key=",
        _always,
    ),
    ("azure-sas", r"[?&;](?:amp;)?sig=[A-Za-z0-9%+/_-]{30,}", r"[?&;]sig=[A-Za-z0-9%+/]{4}", _always),
    ("anthropic-key", r"sk-ant-[0-9A-Za-z_-]{16,}", r"sk-ant-", _has_digit),
    ("openai-key", r"sk-[0-9A-Za-z_-]{20,}", r"\bsk-[0-9A-Za-z_-]{8}", _is_mixed_token),
    ("hugging-face-token", r"(?:hf|api_org)_[0-9A-Za-z]{30,}", r"hf_[0-9A-Za-z]{8}|api_org_", _is_token),
    ("stripe-key", r"(?:sk|rk)_live_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z+/]{24,}", r"[sr]k_live_|whsec_", _is_token),
    ("npm-token", r"npm_[0-9A-Za-z]{36}", r"npm_[0-9A-Za-z]{4}", _is_token),
    ("pypi-token", r"pypi-[0-9A-Za-z_-]{50,}", r"pypi-[0-9A-Za-z_-]{8}", _is_mixed_token),
    ("sendgrid-key", r"SG\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}", r"\bSG\.[0-9A-Za-z_-]{8}", _is_token),
    ("twilio-key", r"SK[0-9a-f]{32}", r"\bSK[0-9a-f]{8}", _is_token),
    ("digitalocean-token", r"do[opr]_v1_[0-9a-f]{64}", r"do[opr]_v1_", _is_token),
    ("shopify-token", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}", r"shp(?:at|ca|pa|ss)_", _is_token),
    ("vault-token", r"hv[sbr]\.[0-9A-Za-z_-]{24,}", r"\bhv[sbr]\.[0-9A-Za-z_-]{8}", _is_token),
    ("docker-token", r"dckr_(?:pat|oat)_[0-9A-Za-z_-]{20,}", r"dckr_", _is_token),
    ("telegram-token", r"[0-9]{8,10}:AA[0-9A-Za-z_-]{33}", r"[0-9]:AA[0-9A-Za-z_-]{4}", _is_token),
    ("groq-key", r"gsk_[0-9A-Za-z]{40,}", r"gsk_[0-9A-Za-z]{4}", _is_token),
    ("age-key", r"AGE-SECRET-KEY-1[0-9A-Z]{40,}", r"AGE-SECRET-KEY-1", _is_token),
    # RFC 7468 and RFC 4880; the head alone counts, as the body may be wrapped, escaped or cut.
    (
        "private-key",
        r"-----? ?BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)? ?-----?|PuTTY-User-Key-File-[0-9]",
        r"-BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY|- BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY|PuTTY-User-Key-File-",
        _always,
    ),
    (
        "jwt",
        r"eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{4,}\.[0-9A-Za-z_-]*",
        r"eyJ[0-9A-Za-z_-]+\.[0-9A-Za-z_-]",
        _is_jwt,
    ),
)  # fmt: skip

RULES = tuple(
    Rule(name, DataClass.CONFIDENTIAL, pattern, when(check), words=(trigger,))
    for name, pattern, trigger, check in _FORMS
)
