"""A stand-in for Ollama Cloud: asks for the key, knows only the cloud's routes, and bills by its own prices."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sidecar.standins import anthropic_v1, management, native, openai_v1, responses
from sidecar.standins.dialect import JSON_UTF8, ApiError, json_body
from sidecar.standins.exchange import Answer, Exchange
from sidecar.standins.gojson import dumps
from sidecar.standins.models import CLOUD_MODELS, StandInModel, is_valid, rfc3339
from sidecar.standins.ollama import StandInOllama
from sidecar.standins.wire import Outcome

PRICES: dict[str, tuple[int, int]] = {
    "gpt-oss:20b": (70_000, 300_000),
    "gpt-oss:120b": (150_000, 600_000),
    "qwen3.5:397b": (600_000, 3_600_000),
}
"""Model to (input, output) in micro-USD per million tokens."""
_RANGES = {"24h": ("hour", 3600, 24), "7d": ("day", 86_400, 7), "30d": ("day", 86_400, 30)}
"""Range to granularity, a bucket's length in seconds, and how many whole buckets come before the current one."""


@dataclass(frozen=True)
class Bill:
    """What one request cost. `at` is the wall clock's time in seconds, `cost_micro_usd` an integer."""

    model: str
    tokens_in: int
    tokens_out: int
    cost_micro_usd: int
    request_index: int
    outcome: Outcome
    at: float


def price(tokens_in: int, tokens_out: int, prices: tuple[int, int]) -> int:
    """Micro-USD for a call, input and output apart, each rounded up."""
    return -(-tokens_in * prices[0] // 1_000_000) - (-tokens_out * prices[1] // 1_000_000)


async def _search(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "api.WebSearchRequest")
    if not body.field("query"):
        raise ApiError(400, "query is required")
    await server.pace(exchange, 0)
    count = max(1, min(10, int(body.field("max_results") or 5)))
    results = [
        {
            "title": f"Stand-in result {number}",
            "url": f"https://example.com/stand-in/{number}",
            "content": "This is a stand-in's search result; nothing was searched.",
        }
        for number in range(1, count + 1)
    ]
    return Answer(200, list(JSON_UTF8), dumps({"results": results}))


async def _fetch(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "api.WebFetchRequest")
    if not body.field("url"):
        raise ApiError(400, "url is required")
    await server.pace(exchange, 0)
    page = {"title": "Stand-in page", "content": "This is a stand-in's page; nothing was fetched.", "links": []}
    return Answer(200, list(JSON_UTF8), dumps(page))


async def _usage(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    """{"range","scope","granularity","from","until","totals":{…},"buckets":[{"from","until",…},…]}: counts, tokens
    and `usage_usd` (a number of dollars); the last bucket is the current one and says `partial`. With
    `group_by=model` the totals and each bucket also have `models`, a list of the same figures by `model`."""
    if not isinstance(server, StandInCloud):
        raise ApiError(404, "not found")
    query = parse_qs(urlsplit(exchange.request.target).query)
    chosen = query.get("range", ["7d"])
    groups = query.get("group_by", [])
    if len(chosen) > 1 or chosen[0] not in _RANGES or groups not in ([], ["model"]):
        raise ApiError(400, "invalid query")
    granularity, length, whole = _RANGES[chosen[0]]
    now = server.clock()
    current = int(now) // length * length
    visible = [bill for bill in server.bills if bill.at + server.usage_lag <= now]
    buckets = []
    for number in range(whole + 1):
        start = current - (whole - number) * length
        end = min(start + length, now)
        inside = [bill for bill in visible if start <= bill.at < start + length]
        bucket = {"from": _time(start), "until": _time(end)} | _figures(inside, by_model=bool(groups))
        buckets.append(bucket | ({"partial": True} if number == whole else {}))
    since = current - whole * length
    report = {
        "range": chosen[0],
        "scope": "self",
        "granularity": granularity,
        "from": _time(since),
        "until": _time(now),
        "totals": _figures([bill for bill in visible if bill.at >= since], by_model=bool(groups)),
        "buckets": buckets,
    }
    return Answer(200, list(JSON_UTF8), dumps(report))


class StandInCloud(StandInOllama):
    """A stand-in for Ollama Cloud (https://ollama.com); not the real thing, nobody is charged.

    `key`: the one bearer token it takes. `prices`: see `PRICES`; a model without a price costs nothing.
    `price_factor` multiplies every price from now on (peak hours). `usage_lag`: seconds until a bill shows in
    /api/usage. `clock` gives the wall clock's time for bills. A request is billed once it has begun to work, for the
    input and for what was generated until it ended, however it ended; the count is the stand-in's own and owes
    nothing to what its answers say. See `StandInOllama` for the rest.
    """

    label = "cloud"
    routes = {  # noqa: RUF012 - a constant of the class, as the base has one
        "HEAD": {"/": management.root},
        "GET": {
            "/": management.root,
            "/api/tags": management.tags,
            "/api/usage": _usage,
            "/v1/models": openai_v1.models,
        },
        "POST": {
            "/api/chat": native.chat,
            "/api/generate": native.generate,
            "/api/show": management.show,
            "/api/web_search": _search,
            "/api/web_fetch": _fetch,
            "/v1/chat/completions": openai_v1.chat_completions,
            "/v1/responses": responses.responses,
            "/v1/messages": anthropic_v1.messages,
        },
    }

    def __init__(
        self,
        models: Iterable[StandInModel | str] = CLOUD_MODELS,
        *,
        key: str = "stand-in-key",
        prices: Mapping[str, tuple[int, int]] = PRICES,
        price_factor: int = 1,
        usage_lag: float = 0.0,
        clock: Callable[[], float] = time.time,
        **settings: Any,
    ) -> None:
        super().__init__(models, **settings)
        self.key = key
        self.prices = dict(prices)
        self.price_factor = price_factor
        self.usage_lag = usage_lag
        self.clock = clock
        self.bills: list[Bill] = []

    @property
    def billed_micro_usd(self) -> int:
        return sum(bill.cost_micro_usd for bill in self.bills)

    def authorize(self, exchange: Exchange) -> None:
        if exchange.request.header_values("authorization") != [f"Bearer {self.key}"]:
            raise ApiError(401, "unauthorized", early=True)

    def model_for(self, exchange: Exchange, name: str, operation: str) -> StandInModel:
        """Base names only: `gpt-oss:120b-cloud` is what a local server calls it."""
        if not name:
            raise ApiError(400, "model is required")
        model = self.models.find(name) if is_valid(name) else None
        if model is None:
            raise ApiError(404, f"model '{name}' not found")
        return model

    def reaches_cloud(self, exchange: Exchange) -> None:
        """Nothing to note: this is where it goes."""

    def ended(self, exchange: Exchange) -> None:
        run = exchange.generation
        if run is None:
            return
        name = run.model.name
        prices = self.prices.get(name, self.prices.get(name.removesuffix(":latest"), (0, 0)))
        cost = price(run.tokens_in, run.tokens_out, prices) * self.price_factor
        request = exchange.request
        self.bills.append(
            Bill(name, run.tokens_in, run.tokens_out, cost, request.index, request.outcome, self.clock())
        )


def _figures(bills: list[Bill], *, by_model: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "request_count": len(bills),
        "usage_usd": sum(bill.cost_micro_usd for bill in bills) / 1_000_000,
        "input_tokens": sum(bill.tokens_in for bill in bills),
        "cached_input_tokens": 0,
        "output_tokens": sum(bill.tokens_out for bill in bills),
    }
    if by_model:
        groups: defaultdict[str, list[Bill]] = defaultdict(list)
        for bill in bills:
            groups[bill.model].append(bill)
        figures["models"] = [{"model": name} | _figures(group, by_model=False) for name, group in groups.items()]
    return figures


def _time(seconds: float) -> str:
    return rfc3339(int(seconds) * 1_000_000_000)
