"""IP and MAC addresses raise to the class of the settings; versions, times and paths do not."""

from __future__ import annotations

import pytest
from content_support import configured, data_class, rules

from sidecar.core.classification import DataClass

ADDRESSES = [
    "10.1.2.3",
    "http://192.0.2.1:8080/x",
    "192.0.2.0/24",
    "from 203.0.113.9.",
    "アドレス192.0.2.1です",
    "fe80::1ff:fe23:4567:890a",
    "2001:db8::1",
    "2001:db8:0:0:0:0:0:1",
    "[2001:db8::8:800:200c:417a]:443",
    "::ffff:192.0.2.1",
    "00:1a:2b:3c:4d:5e",
    "00-1A-2B-3C-4D-5E",
    "001a.2b3c.4d5e",
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_internal(text: str) -> None:
    assert data_class(text) is DataClass.INTERNAL
    assert rules(text) <= {"ip-address", "mac-address"}


@pytest.mark.parametrize("text", ADDRESSES)
def test_the_settings_give_the_class(text: str) -> None:
    assert data_class(text, configured(ip_class=DataClass.PII)) is DataClass.PII
    assert rules(text, configured(ip_class=DataClass.PUBLIC)) == set()


@pytest.mark.parametrize(
    "text",
    [
        "v1.2.3.4",
        "version 10.2.3.4",
        '__version__ = "1.2.3.4"',
        "pip install x==10.2.3.4",
        "section 8.2.4.45",
        "Chrome/120.0.0.0 Safari/537.36",
        "127.0.0.1 and 0.0.0.0 and 255.255.255.0",
        "1.3.6.1.4.1.311",
        "192.168.0.1.5",
        "256.1.2.3",
        "01.02.03.2024",
        "::1",
        "::",
        "std::vector<int> a::b",
        "dead::beef",
        "12:34:56",
        "12:34:56:78",
        "2024-01-15 12:34:56.789",
        "00:1a:2b:3c:4d:5e:6f:70:81",
        "00:00:00:00:00:00",
        "20-24-01-15-10-30-59-01",
        "[.26F7.0024.0002]",
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert rules(text) == set()
