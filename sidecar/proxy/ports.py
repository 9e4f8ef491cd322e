"""Opening a listening port, and saying who holds it where it is taken."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path

BACKLOG = 1024
_LISTENING = "0A"


class PortError(Exception):
    """A port that cannot be opened. The text names the address, the reason and the fix."""


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises PortError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise PortError(f"cannot listen on {shown}: {error.strerror}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortError(f"{shown} is taken{_by(host, port)}") from error
        raise PortError(f"cannot listen on {shown}: {error.strerror}") from error
    return sock


def _by(host: str, port: int) -> str:
    holder = holder_of(host, port)
    return f" by {holder}" if holder else ""


def holder_of(host: str, port: int) -> str:
    """The process that listens where an address cannot be opened, as `name (pid N)`; empty where nobody can say.

    Linux tells by /proc: the listening socket's inode, then the process that has it open.
    """
    inodes = _listening_inodes(host, port)
    if not inodes:
        return ""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{name} (pid {process.name})"
        except OSError:
            continue  # ended in the meantime, or another user's
    return "another user's process"


def _listening_inodes(host: str, port: int) -> frozenset[str]:
    """The sockets in the way of an address: those on it or on all addresses; any, where it is all of them itself."""
    try:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    wanted = {ipaddress.ip_address(entry[4][0]) for entry in resolved}
    everywhere = any(address.is_unspecified for address in wanted)
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            address, _, number = columns[1].rpartition(":")
            if columns[3] != _LISTENING or int(number, 16) != port:
                continue
            held = _address(address)
            if everywhere or held.is_unspecified or held in wanted:
                found.add(f"socket:[{columns[9]}]")
    return frozenset(found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of /proc/net/tcp: words of four bytes, each in the machine's own order."""
    raw = bytes.fromhex(text)
    packed = b"".join(
        int.from_bytes(raw[start : start + 4], sys.byteorder).to_bytes(4, "big") for start in range(0, len(raw), 4)
    )
    address = ipaddress.ip_address(packed)
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
