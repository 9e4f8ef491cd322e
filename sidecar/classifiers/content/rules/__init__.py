"""All rules, in groups of one file each. A new rule is one entry in its group's tuple."""

from __future__ import annotations

from sidecar.classifiers.content.model import ContentConfig, Rule
from sidecar.classifiers.content.rules import (
    addresses,
    bank,
    connections,
    emails,
    keywords,
    labels,
    national_ids,
    passwords,
    phones,
    vendor_keys,
)


def build(config: ContentConfig) -> tuple[Rule, ...]:
    """The rules that `config` asks for, the ones of the most restrictive class first."""
    return (
        *emails.RULES,
        *bank.RULES,
        *national_ids.RULES,
        *phones.RULES,
        *vendor_keys.RULES,
        *connections.RULES,
        *passwords.RULES,
        *keywords.rules(config),
        *labels.RULES,
        *addresses.rules(config.ip_class),
    )
