"""The Host check of a loopback listener, against DNS rebinding: the rule is Ollama's own."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
MAX_KNOWN = 256
# `host:port`: an address in brackets or not, or a name. Anything else (user info, a path, a list) is no Host, and
# what it would be read as is up to the reader.
_AUTHORITY = re.compile(
    r"(?:\[(?P<six>[0-9a-f:.]+(?:%[0-9a-z._~-]+)?)\]|(?P<bare>[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*)|(?P<name>[0-9a-z._-]*))"
    r"(?::[0-9]*)?",
    re.IGNORECASE | re.ASCII,
)


class Hosts:
    """Which Host values a web page in a browser could not have brought here.

    `localhost`, names under `.localhost`, `.local` and `.internal`, this machine's name, any IP literal, an empty
    Host, and the names that the settings add.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._names = {"", "localhost", socket.gethostname().lower(), *(name.lower().rstrip(".") for name in extra)}
        self._known: set[bytes] = set()

    def allows(self, authority: bytes) -> bool:
        if authority in self._known:
            return True
        match = _AUTHORITY.fullmatch(authority.decode("latin-1").strip())
        if match is None:
            return False
        name, address = match["name"], match["six"] or match["bare"]
        if name is not None:
            name = name.lower().rstrip(".")
            if not (name in self._names or name.endswith(_LOCAL_SUFFIXES) or _is_address(name)):
                return False
        elif not _is_address(address):
            return False
        if len(self._known) < MAX_KNOWN:
            self._known.add(authority)
        return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
