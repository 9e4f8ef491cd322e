"""The admin port: probes, metrics, version; the settings only for peers on this machine."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sidecar.http1 import MessageError
from sidecar.proxy.connection import Exchange
from sidecar.proxy.hosts import Hosts
from sidecar.proxy.respond import answer

_log = logging.getLogger("sidecar.admin")
_JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"
# A request of this port has no use for a body; a small one is read so that the connection can go on.
_MAX_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the admin port: status, media type, body, and header lines with CRLF."""

    status: int
    media: bytes
    body: bytes
    headers: bytes = b""


class Admin:
    """Answers GET and HEAD for its few paths.

    `metrics` gives the text format, `config` the masked settings, `ready` whether we still take calls.
    """

    def __init__(
        self,
        version: Mapping[str, Any],
        metrics: Callable[[], Page],
        config: Callable[[], Mapping[str, Any]],
        ready: Callable[[], bool],
    ) -> None:
        self._metrics = metrics
        self._config = config
        self._ready = ready
        self._version = version
        self._hosts = Hosts()
        self._pages: Mapping[bytes, Callable[[Exchange], Page]] = {
            b"/livez": lambda _: Page(200, _TEXT, b"ok\n"),
            b"/readyz": self._readyz,
            b"/metrics": lambda _: self._metrics(),
            b"/version": lambda _: _json(200, self._version),
            b"/config": self._config_page,
        }

    async def serve(self, exchange: Exchange) -> None:
        """One request."""
        try:
            await exchange.read(_MAX_BODY)
            page = self._page(exchange)
        except MessageError as error:
            page = _json(error.status, {"error": error.message})
        except Exception:  # noqa: BLE001 - a failed page must not look like a lost connection
            _log.exception("an admin page failed")
            page = _json(500, {"error": "the page failed; the log says where"})
        answer(exchange, page.status, page.body, page.media, b"Cache-Control: no-store\r\n" + page.headers)

    def _page(self, exchange: Exchange) -> Page:
        make = self._pages.get(exchange.head.path)
        if make is None:
            known = ", ".join(path.decode() for path in self._pages)
            return _json(404, {"error": f"there is no such page; there are {known}"})
        if exchange.head.method not in (b"GET", b"HEAD"):
            return _json(405, {"error": "only GET and HEAD"}, b"Allow: GET, HEAD\r\n")
        return make(exchange)

    def _readyz(self, _: Exchange) -> Page:
        # Whatever the state of upstreams and stores: an Ollama that is down must not take its app's pod with it.
        # While we drain, new connections are refused, and saying so sends nobody here any more.
        return Page(200, _TEXT, b"ok\n") if self._ready() else Page(503, _TEXT, b"draining\n")

    def _config_page(self, exchange: Exchange) -> Page:
        # A web page that was brought here by DNS rebinding comes from loopback too, but under its own name.
        if not (_is_loopback(exchange.peer) and self._hosts.allows(exchange.head.authority)):
            return _json(403, {"error": "the settings are shown to this machine alone; use a port-forward"})
        return _json(200, self._config())


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:  # a peer that was gone before it could be asked for its address
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _json(status: int, value: Mapping[str, Any], headers: bytes = b"") -> Page:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return Page(status, _JSON, body, headers)
