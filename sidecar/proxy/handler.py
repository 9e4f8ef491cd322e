"""The journey of a request, from its head to its last byte. Read `Handler.serve`, then `Handler._infer`.

 1 accept        connection.py    bytes → head; malformed ones end there
 2 match         dialects         inference, or through to the local server untouched
 3 read          routing.bodies   the body's facts, without changing it
 4 assess        routing.assess   task and class
 5 decide        routing.decide   strategy, then gates
 6 cloud         cloud_call.py    reserve, permit, audit, send; or a reason to go local
 7 local         local_call.py    only what is known to run there
 8 relay         relay.py         bytes as they came, watched for usage
 9 settle        cloud_call.py    exactly once, also when the client leaves
10 observe       telemetry        log, metrics, audit see the CallRecord
"""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import unquote_plus

from sidecar.classifiers.headers import read_task_headers
from sidecar.core.decision import LOCAL, NONE
from sidecar.core.models import cloud_base
from sidecar.core.record import CallRecord
from sidecar.dialects import dialect_of, is_canonical, match
from sidecar.dialects.base import Route
from sidecar.dialects.edits import with_model
from sidecar.dialects.reading import UnreadableError, fold
from sidecar.dialects.splice import NotEditableError
from sidecar.http1 import MessageError, RequestHead
from sidecar.proxy.call import Call, request_id, trace_id
from sidecar.proxy.cloud_call import TryLocal, run_cloud
from sidecar.proxy.connection import Exchange
from sidecar.proxy.local_call import run_local, unreachable
from sidecar.proxy.passthrough import pass_through
from sidecar.proxy.respond import RefusedError, answer_error
from sidecar.proxy.services import Services
from sidecar.routing.assess import assess
from sidecar.routing.bodies import Body, read_body
from sidecar.routing.decide import REQUESTED, Conditions, Verdict, decide, shown_model
from sidecar.strategies import gates
from sidecar.upstream.connection import UpstreamError
from sidecar.upstream.models import LocalModel

_log = logging.getLogger("sidecar.proxy")

# Reading a body takes the loop's time in proportion: larger ones are read in a thread.
READ_IN_THREAD = 1024 * 1024
_PROBE = b"x-sidecar-probe"
# The status of a refusal by its reason; what is not in here is a matter of policy.
_REFUSALS = {
    gates.BUDGET_EXCEEDED: 429,
    gates.BUDGET_UNAVAILABLE: 503,
    gates.RATE_LIMITED: 429,
    gates.CLOUD_UNAVAILABLE: 503,
}


class Handler:
    """Answers every request on the data port."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def serve(self, exchange: Exchange) -> None:
        """One request. Whatever goes wrong, the client hears of it in its own dialect."""
        head, services = exchange.head, self.services
        identity = request_id(head)
        try:
            self._check_host(head)
            route = match(head.method, head.path)
            if route is not None:
                await self._infer(exchange, route, identity)
            else:
                services.metrics.count_passed(head.method)
                await pass_through(services, exchange, identity)
        except (RefusedError, MessageError) as error:
            code = error.code if isinstance(error, RefusedError) else "bad_request"
            self._answer_error(exchange, error.status, error.message, code, _id_line(identity))
        except Exception:  # noqa: BLE001 - the last resort of a proxy: whatever it was, the app gets an answer
            self._failed(exchange, identity, _id_line(identity))

    def _check_host(self, head: RequestHead) -> None:
        if not self.services.hosts.allows(head.authority):
            raise RefusedError(403, "host", "this Host is not served here; listen.hosts in the settings adds names")
        if head.first.get(_PROBE) == self.services.nonce and self.services.nonce:
            raise RefusedError(508, "loop", "the sidecar's own probe came back to it")

    def _failed(self, exchange: Exchange, identity: str, ours: bytes) -> None:
        _log.exception("a request failed inside the sidecar", extra={"fields": {"request_id": identity}})
        self._answer_error(exchange, 500, "the sidecar failed; its log says where", "internal_error", ours)

    @staticmethod
    def _answer_error(exchange: Exchange, status: int, message: str, code: str, ours: bytes) -> None:
        if exchange.responded:
            exchange.abort()
            return
        answer_error(exchange, dialect_of(exchange.head.path), status, message, code, ours)

    # An inference call.

    async def _infer(self, exchange: Exchange, route: Route, identity: str) -> None:
        head = exchange.head
        asked = read_task_headers(head)
        record = CallRecord(identity, trace_id(head), route.path, route.dialect.name, time.time())
        record.invalid_headers = asked.invalid
        call = Call(exchange, route, self.services.policy, record, asked)
        try:
            await self._journey(call)
        except (RefusedError, MessageError) as error:
            self._refuse(call, error)
        except asyncio.CancelledError:
            self._interrupted(call)
            raise
        except Exception:  # noqa: BLE001 - as above, with what is known of the call
            record.outcome, record.status, record.location = "internal_error", 500, NONE
            record.reason = record.reason or "internal_error"
            self._failed(exchange, identity, call.headers())
        finally:
            record.duration = exchange.loop.time() - exchange.started
            for observe in self.services.observers:
                try:
                    observe(record)
                except Exception:  # noqa: BLE001 - an answer is not lost over how it is counted
                    _log.exception("a call could not be recorded", extra={"fields": {"request_id": identity}})

    async def _journey(self, call: Call) -> None:
        services, exchange, record = self.services, call.exchange, call.record
        raw = await exchange.read(services.max_body)
        try:
            if len(raw) > READ_IN_THREAD:
                await exchange.loop.run_in_executor(None, self._understand, call, raw)
            else:
                self._understand(call, raw)
        except UnreadableError as error:
            await self._unreadable(call, raw, str(error))
            return
        assessment = call.assessment
        record.task, record.classification = assessment.task, assessment.classification
        record.stream = assessment.body.facts.stream
        record.local_model = shown_model(assessment.body.facts.model)
        named, local_model = await self._what_it_names(call)
        verdict = decide(call.policy, call.route, assessment, self._conditions(call, named, local_model))
        self._note(record, verdict)
        if verdict.to_cloud:
            failed = await run_cloud(services, call, verdict)
            if failed is None:
                return
            self._turn_local(call, verdict, failed)
        elif verdict.objection is not None:
            self._turn_local(call, verdict, TryLocal(verdict.objection.name, verdict.objection.detail))
        elif verdict.refuse:
            raise self._refusal(record.reason, "the day's or month's budget is used up")
        await self._run_local(call, verdict, named)

    def _understand(self, call: Call, raw: bytes) -> None:
        head = call.exchange.head
        body = read_body(call.route, head.first, head.query, raw)
        call.assessment = assess(call.policy, head, call.asked, body, call.record.request_id)

    async def _unreadable(self, call: Call, raw: bytes, why: str) -> None:
        """A body that we cannot read could name a model that runs on the cloud. It goes on only where none can."""
        record = call.record
        record.reason = record.decided_reason = "unreadable_body"
        models = self.services.local.models

        async def check() -> None:
            if not await models.cloud_disabled():
                raise RefusedError(400, "unreadable_body", why)

        await check()  # before it waits for a place
        record.decided_location = LOCAL
        await run_local(self.services, call, raw, "", check)

    async def _what_it_names(self, call: Call) -> tuple[str | None, LocalModel | None]:
        """The cloud model that the call names by any reading of it, else what is known of its local one.

        Both are None where it names none, or where the local server cannot be asked now.
        """
        facts = call.assessment.body.facts
        models = self.services.local.models
        if (call.route.web or facts.web_tools) and not await models.cloud_disabled():
            # The local server would post a query of the model's to the cloud: it was not told never to.
            return cloud_base(facts.model) or self._mapped(call), None
        found: LocalModel | None = None
        for name in facts.models or ((facts.model,) if facts.model else ()):
            base = cloud_base(name)
            if base is not None:
                return base, None
            try:
                known = models.cached(name) or await models.ask(name)
            except UpstreamError:
                continue  # if the call goes there in the end, it will ask again, and say so
            if known.remote_model:
                return cloud_base(known.remote_model) or known.remote_model, known
            found = found or known
        return None, found

    @staticmethod
    def _mapped(call: Call) -> str:
        task = call.assessment.task
        return task.cloud_model or call.policy.cloud_model_for(call.assessment.body.facts.model, task.task_type) or ""

    def _conditions(self, call: Call, named: str | None, model: LocalModel | None) -> Conditions:
        services, policy, head = self.services, call.policy, call.exchange.head
        sticky = ""
        if policy.canary.sticky_header:
            sticky = head.first.get(policy.canary.sticky_header.lower().encode("latin-1"), b"").decode("latin-1")
        busy = None
        if services.gpu is not None and policy.strategy.needs_gpu and not policy.cloud_off:
            busy = services.gpu.read()
        return Conditions(
            services.keeper is not None and services.keeper.exceeded,
            busy,
            model.gigabytes if model is not None else None,
            services.local.calls,
            named,
            is_canonical(head.path),
            sticky,
            call.record.request_id,
        )

    @staticmethod
    def _note(record: CallRecord, verdict: Verdict) -> None:
        decision = verdict.decision
        record.decided_location, record.decided_reason = decision.location, decision.reason
        record.reason, record.confidence, record.strategy = decision.reason, decision.confidence, decision.strategy
        record.bucket, record.in_canary = verdict.bucket, verdict.in_canary

    def _turn_local(self, call: Call, verdict: Verdict, failed: TryLocal) -> None:
        """A cloud call that cannot go, or did not work: to the local server with the reason, or a refusal."""
        record, services = call.record, self.services
        record.reason, record.detail, record.fallback = failed.reason, failed.detail, failed.tried
        model = verdict.model.name if verdict.model is not None else ""
        if failed.tried:
            services.metrics.fallbacks.labels(failed.reason).inc()
        else:
            services.metrics.denials.labels(failed.reason).inc()
            if services.audit is not None:
                services.audit.denied(record, failed.reason, shown_model(model))
        if call.policy.fallback.wanted(failed.reason) == "error":
            raise self._refusal(failed.reason, failed.detail)

    @staticmethod
    def _refusal(reason: str, detail: str) -> RefusedError:
        return RefusedError(_REFUSALS.get(reason, 403), reason, f"refused ({reason}): {detail}")

    async def _run_local(self, call: Call, verdict: Verdict, named: str | None) -> None:
        """The local server gets a call only when every reading of it names a model that is known to run there."""
        body, record = call.assessment.body, call.record
        facts, raw, model = body.facts, body.raw, body.facts.model
        searches = call.route.web or facts.web_tools
        if searches and not await self.services.local.models.cloud_disabled():
            raise self._refusal(record.reason, f"{record.detail}; the local Ollama would search in the cloud itself")
        if named is not None:
            model = call.policy.local_models.get(call.assessment.task.task_type, "")
            if not model:
                raise self._refusal(
                    record.reason,
                    f"{record.detail}; no local model is set for {call.assessment.task.task_type} (local.models)",
                )
            raw = self._renamed(call, body, model)
        record.local_model = shown_model(model)
        names = (model,) if named is not None else facts.models
        await run_local(self.services, call, raw, model, lambda: self._check_local(call, names, searches=searches))

    def _renamed(self, call: Call, body: Body, model: str) -> bytes:
        query = unquote_plus(call.exchange.head.query.decode("latin-1"))
        if body.facts.ambiguous or body.decoded is not body.raw or "model" in fold(query):
            raise self._refusal(call.record.reason, f"{call.record.detail}; its body cannot be edited")
        try:
            return with_model(body.raw, model)
        except NotEditableError:
            raise self._refusal(call.record.reason, f"{call.record.detail}; its body cannot be edited") from None

    async def _check_local(self, call: Call, names: tuple[str, ...], *, searches: bool) -> None:
        record, models = call.record, self.services.local.models
        if searches and not await models.cloud_disabled():
            raise self._remote(record, "the local Ollama would search in the cloud itself")
        for name in names:
            if not name.strip():
                continue
            if cloud_base(name) is not None:
                raise self._remote(record, "its model is run by the cloud")
            try:
                known = models.cached(name) or await models.ask(name)
            except UpstreamError as error:
                record.outcome, record.error, record.location = "upstream_error", error.message, NONE
                raise unreachable(record.reason, error) from error
            if known.remote_model:
                raise self._remote(record, "its model is run by the cloud")

    def _remote(self, record: CallRecord, why: str) -> RefusedError:
        """What seemed to be a local call has turned out to be none: no gate has let it go to the cloud."""
        if not record.fallback:
            record.reason = REQUESTED
        return self._refusal(record.reason, why)

    # When it does not end well.

    @staticmethod
    def _refuse(call: Call, error: RefusedError | MessageError) -> None:
        record, exchange = call.record, call.exchange
        if exchange.responded:
            record.outcome = "broken"
            exchange.abort()
            return
        if isinstance(error, MessageError):
            record.outcome, record.reason = "client_error", "bad_request"
        elif record.outcome == "ok":
            record.outcome = "client_error" if error.code == "unreadable_body" else "refused"
        code = error.code if isinstance(error, RefusedError) else "bad_request"
        record.status, record.location, record.error = error.status, NONE, error.message
        answer_error(exchange, call.route.dialect, error.status, error.message, code, call.headers())

    @staticmethod
    def _interrupted(call: Call) -> None:
        """The client left, or the drain's time is over: the second kind still hears why."""
        record, exchange = call.record, call.exchange
        record.outcome = "client_disconnect" if exchange.left else "drained"
        if exchange.left:
            return
        message = "the sidecar is shutting down"
        if not exchange.responded:
            exchange.close = True
            record.status, record.location, record.reason = 503, NONE, record.reason or "shutting_down"
            answer_error(exchange, call.route.dialect, 503, message, "shutting_down", call.headers())
        elif call.relay is not None and (call.relay.done.cancelled() or not call.relay.done.done()):
            call.relay.break_off(
                call.route.dialect.stream_error(call.route, message, "shutting_down"), call.route.separator
            )


def _id_line(identity: str) -> bytes:
    return f"X-Request-Id: {identity}\r\n".encode("ascii")
