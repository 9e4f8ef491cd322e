"""`explain`: what the sidecar would do with a request, and why, without sending anything.

The way is `proxy.handler`'s, hop by hop, with the same parts. What only a running sidecar knows (what is left of the
budget, the local server's load and models, the breaker) is taken as good, and what asks for it is shown as not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sidecar.classifiers.headers import read_task_headers
from sidecar.core.decision import CLOUD, LOCAL, NONE, Answer
from sidecar.core.models import cloud_base
from sidecar.core.pricing import LEAST_OUTPUT, affordable_output, worst_case
from sidecar.dialects import is_canonical, match
from sidecar.dialects.base import Route
from sidecar.dialects.edits import cloud_body, with_model
from sidecar.dialects.reading import UnreadableError
from sidecar.dialects.splice import NotEditableError
from sidecar.http1 import MessageError, RequestHead, parse_request_head
from sidecar.policies import MICRO, policy_from
from sidecar.proxy.hosts import Hosts
from sidecar.routing.assess import Assessment, assess
from sidecar.routing.bodies import read_body
from sidecar.routing.decide import Conditions, Verdict, decide, price_of, shown_model
from sidecar.routing.policy import Policy
from sidecar.settings import Settings
from sidecar.strategies import gates
from sidecar.telemetry.log import plain

NOT_ASKED = "not asked"
_RUNNING = "only the running sidecar knows"
# Rules that look at what only a running sidecar knows.
_UNKNOWN_RULES = frozenset(("budget", "model_size", "batch", "gpu"))
_REQUEST_ID = "explain"


class ExplainError(Exception):
    """A request that cannot be explained: the text says what is wrong with what was given."""


@dataclass(frozen=True, slots=True)
class Given:
    """The request: header lines as `Name: value`, a path (with a query, if any), and the body."""

    headers: Sequence[str]
    path: str
    body: bytes


def explain(settings: Settings, given: Given) -> dict[str, Any]:
    """The report, as `--json` prints it. Raises ExplainError for what is no request at all."""
    policy = policy_from(settings, 1)
    head = _head(given)
    if not Hosts(settings.listen.hosts).allows(head.authority):
        return _refused("host", "this Host is not served (403); listen.hosts in the settings adds names", policy)
    route = match(head.method, head.path)
    if route is None:
        return _report(
            _decision(LOCAL, "", "passed_through", 1.0, ""),
            notes=["This is no inference call: it goes to the local Ollama as it is."],
        )
    limit = settings.listen.max_inference_body_mb
    if len(given.body) > limit * 1024 * 1024:
        return _refused(
            "bad_request", f"the body is larger than {limit} MB (413); listen.max_inference_body_mb", policy
        )
    asked = read_task_headers(head)
    try:
        body = read_body(route, head.first, head.query, given.body)
    except UnreadableError as error:
        note = f"{error} (400); only a local Ollama that says that its cloud is disabled would get it"
        return _refused("unreadable_body", note, policy)
    assessment = assess(policy, head, asked, body, _REQUEST_ID)
    named = _named(policy, route, assessment)
    verdict = decide(policy, route, assessment, _conditions(policy, head, asked.request_id, named), explain=True)
    journey = _Journey(policy, head, route, assessment, verdict, named)
    journey.run()
    return _report(
        journey.decision,
        task=_task(assessment, asked.invalid),
        classification=_classification(assessment),
        rules=[asdict(_rule(policy, answer)) for answer in verdict.rules],
        gates=[asdict(answer) for answer in journey.gates],
        price=_price(policy, assessment, verdict),
        notes=journey.notes,
    )


def _head(given: Given) -> RequestHead:
    lines = [f"POST {given.path} HTTP/1.1"]
    names = set()
    for header in given.headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or "\r" in header or "\n" in header:
            # What was given may be a header with a key in it, so it is not shown again.
            raise ExplainError("a -H is no header. Write it as 'Name: value'")
        lines.append(f"{name.strip()}: {value.strip()}")
        names.add(name.strip().lower())
    if "host" not in names:
        lines.insert(1, "Host: localhost")
    try:
        return parse_request_head("\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape"))
    except MessageError as error:
        raise ExplainError(f"the path or the headers are not valid HTTP: {error.message}") from error


def _named(policy: Policy, route: Route, assessment: Assessment) -> str | None:
    """The cloud model that the call names by any reading of it; None where it names local ones."""
    facts, task = assessment.body.facts, assessment.task
    if route.web or facts.web_tools:
        mapped = task.cloud_model or policy.cloud_model_for(facts.model, task.task_type)
        return cloud_base(facts.model) or mapped or ""
    bases = map(cloud_base, facts.models or ((facts.model,) if facts.model else ()))
    return next((base for base in bases if base is not None), None)


def _no_budget(policy: Policy) -> bool:
    return min(policy.caps.daily, policy.caps.monthly) <= 0


def _conditions(policy: Policy, head: RequestHead, request_id: str | None, named: str | None) -> Conditions:
    name = policy.canary.sticky_header.lower().encode("latin-1")
    sticky = head.first.get(name, b"").decode("latin-1") if name else ""
    canonical = is_canonical(head.path)
    return Conditions(_no_budget(policy), None, None, 0, named, canonical, sticky, request_id or _REQUEST_ID)


class _Journey:
    """From the verdict to where the call ends: the money, as far as it can be told, and the way to a local model."""

    def __init__(
        self,
        policy: Policy,
        head: RequestHead,
        route: Route,
        assessment: Assessment,
        verdict: Verdict,
        named: str | None,
    ) -> None:
        self._policy = policy
        self._head = head
        self._route = route
        self._assessment = assessment
        self._verdict = verdict
        self._named = named
        self.gates = list(verdict.gates)
        self.notes: list[str] = []
        self.decision: dict[str, Any] = {}

    def run(self) -> None:
        verdict, first = self._verdict, self._verdict.decision
        objection = verdict.objection
        if verdict.to_cloud:
            objection = self._behind_the_gates()
            if objection is None:
                self._say_what_may_come()
                model = verdict.model.name if verdict.model is not None else ""
                self.decision = _decision(CLOUD, model, first.reason, first.confidence, first.strategy)
                return
        reason = first.reason if objection is None else objection.name
        refusal, model = self._to_local(reason, turned=objection is not None)
        if refusal:
            self.notes.append(f"It is refused: {refusal}.")
        location = NONE if refusal else LOCAL
        self.decision = _decision(location, model, reason, first.confidence, first.strategy)

    def _behind_the_gates(self) -> Answer | None:
        """What objects behind the gates that only look: a budget that is too small, a body that cannot be edited."""
        objection = self._money()
        if objection is None:
            later = (gates.BUDGET_EXCEEDED, gates.BUDGET_UNAVAILABLE, gates.RATE_LIMITED, gates.CLOUD_UNAVAILABLE)
            self.gates += [Answer(name, NOT_ASKED, _RUNNING) for name in later]
            body, model = self._assessment.body, self._verdict.model
            try:
                cloud_body(self._route, body.raw, body.value, body.facts, model.name if model else "", 1)
            except NotEditableError as error:
                objection = Answer(gates.LOCAL_ONLY_OPERATION, "objects", str(error))
        if objection is not None:
            self.gates.append(objection)
        return objection

    def _money(self) -> Answer | None:
        """What can be said of the budget without its books: a call that a whole day could not pay."""
        policy, model = self._policy, self._verdict.model
        priced = price_of(policy, self._assessment, model) if model is not None else None
        if model is None or model.price is None or priced is None:
            return None
        worst, _ = priced
        choices = self._assessment.body.facts.choices
        least = worst_case(model.price, worst.tokens_in, min(worst.tokens_out, LEAST_OUTPUT * choices)).micro_usd
        cap = min(policy.caps.daily, policy.caps.monthly)
        if least > cap:
            text = f"even a short answer could cost {_usd(least)} USD, the budget is {_usd(cap)} USD"
            return Answer(gates.BUDGET_EXCEEDED, "objects", text)
        if worst.micro_usd > cap:
            tokens = affordable_output(model.price, worst.tokens_in, cap, worst.tokens_out) // choices
            self.notes.append(f"The whole budget pays for {tokens} tokens of answer: the answer is cut there.")
        return None

    def _say_what_may_come(self) -> None:
        if self._head.get(b"origin") is not None:
            self.notes.append(
                "It is from a web page: it stays local where the local Ollama does not grant its origin."
            )
        if self._route.web or self._assessment.body.facts.web_tools:
            self.notes.append("A local Ollama that says that its cloud is disabled would get it instead.")

    def _to_local(self, reason: str, *, turned: bool) -> tuple[str, str]:
        """Why the call is refused (empty: it is not), and the local model that gets it."""
        body, policy = self._assessment.body, self._policy
        facts, task = body.facts, self._assessment.task
        if self._verdict.refuse or (turned and policy.fallback.wanted(reason) == "error"):
            return "the settings want an error here (ollama_cloud.fallback)", ""
        if self._route.web or facts.web_tools:
            return "the local Ollama would search in the cloud itself", ""
        if self._named is None:
            return "", facts.model
        model = policy.local_models.get(task.task_type, "")
        if not model:
            return f"no local model is set for {task.task_type} (local.models)", ""
        if facts.ambiguous or body.decoded is not body.raw or not _renamable(body.raw, model):
            return "its body cannot be edited to name the local model", ""
        return "", model


def _renamable(raw: bytes, model: str) -> bool:
    try:
        with_model(raw, model)
    except NotEditableError:
        return False
    return True


# The parts of the report.


def _report(
    decision: dict[str, Any],
    *,
    task: dict[str, Any] | None = None,
    classification: dict[str, Any] | None = None,
    rules: Sequence[dict[str, str]] = (),
    gates: Sequence[dict[str, str]] = (),
    price: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "task": task,
        "classification": classification,
        "rules": list(rules),
        "gates": list(gates),
        "price": price,
        "decision": decision,
        "notes": list(notes),
    }


def _decision(location: str, model: str, reason: str, confidence: float, strategy: str) -> dict[str, Any]:
    return {
        "location": location,
        "model": shown_model(model),
        "reason": reason,
        "confidence": confidence,
        "strategy": strategy,
    }


def _refused(reason: str, note: str, policy: Policy) -> dict[str, Any]:
    return _report(_decision(NONE, "", reason, 1.0, policy.strategy.name), notes=[f"It is refused: {note}."])


def _task(assessment: Assessment, invalid: Sequence[str]) -> dict[str, Any]:
    task, facts = assessment.task, assessment.body.facts
    names = ("task_type", "complexity", "quality", "latency_ms")
    return {
        "type": task.task_type,
        "complexity": task.complexity,
        "quality": task.quality,
        "latency_ms": task.latency_ms,
        "origins": {name: task.origins.get(name, "inferred") for name in names},
        "model": shown_model(facts.model),
        "cloud_model": task.cloud_model,
        "stream": facts.stream,
        "invalid_headers": list(invalid),
    }


def _classification(assessment: Assessment) -> dict[str, Any]:
    classification = assessment.classification
    return {
        "class": classification.data_class.label,
        "source": classification.source,
        "findings": [
            {
                "rule": finding.rule,
                "class": finding.data_class.label,
                "source": finding.source,
                "where": finding.where,
                "span": [finding.start, finding.end],
            }
            for finding in classification.findings
        ],
    }


def _rule(policy: Policy, answer: Answer) -> Answer:
    if answer.answer != "no" or answer.name not in _UNKNOWN_RULES:
        return answer
    if answer.name == "budget" and _no_budget(policy):
        return answer
    return replace(answer, answer=NOT_ASKED, detail=_RUNNING)


def _price(policy: Policy, assessment: Assessment, verdict: Verdict) -> dict[str, Any] | None:
    """The worst case at the model that the call would have in the cloud, also where it stays local."""
    model, task = verdict.model, assessment.task
    if model is None:
        wanted = task.cloud_model or policy.cloud_model_for(assessment.body.facts.model, task.task_type)
        model = policy.catalogue.get(wanted) if wanted else None
    priced = price_of(policy, assessment, model) if model is not None else None
    if model is None or priced is None:
        return None
    worst, cap = priced
    return {
        "model": model.name,
        "worst_case_usd": worst.micro_usd / MICRO,
        "tokens_in_at_most": worst.tokens_in,
        "tokens_out_at_most": worst.tokens_out,
        "output_cap": cap,
        "price_is_an_estimate": model.estimate,
    }


# For people.


def text(report: dict[str, Any]) -> str:
    """The report for people: the answer first, then how it came about."""
    decision = report["decision"]
    where = {NONE: "refused", LOCAL: "stays local", CLOUD: "goes to the cloud"}[decision["location"]]
    model = f", model {decision['model']}" if decision["model"] else ""
    lines = [f"{where}{model}: {decision['reason']} (confidence {decision['confidence']:g})", *report["notes"]]
    if report["task"] is None:
        return "\n".join(lines)
    lines += _task_lines(report["task"])
    lines += _class_lines(report["classification"])
    lines += ["", f"rules of {decision['strategy']}, the first that applies decides"]
    lines += [_line(rule) for rule in report["rules"]]
    if report["gates"]:
        lines += ["", "gates between it and the cloud, the first that objects keeps it here"]
        lines += [_line(gate) for gate in report["gates"]]
    price = report["price"]
    if price is not None:
        estimate = ", by an estimated price" if price["price_is_an_estimate"] else ""
        lines += [
            "",
            f"worst case in the cloud: {price['worst_case_usd']:.6f} USD with {price['model']}{estimate}",
            f"  at most {price['tokens_in_at_most']} tokens in and {price['tokens_out_at_most']} out",
        ]
    return "\n".join(lines)


def _task_lines(task: dict[str, Any]) -> list[str]:
    lines = ["", "task"]
    for label, name, value in (
        ("type", "task_type", task["type"]),
        ("quality", "quality", task["quality"]),
        ("complexity", "complexity", task["complexity"]),
        ("latency", "latency_ms", f"{task['latency_ms']} ms"),
    ):
        origin = {"header": "from its header", "inferred": "from the request itself"}.get(task["origins"][name])
        lines.append(f"  {label:<12} {value:<12} {origin or 'by the settings (task_defaults)'}")
    if task["invalid_headers"]:
        lines.append(f"  not valid, so ignored: {', '.join(task['invalid_headers'])}")
    return lines


def _class_lines(classification: dict[str, Any]) -> list[str]:
    lines = ["", f"data class {classification['class']}, the strictest of"]
    for finding in classification["findings"]:
        first, end = finding["span"]
        span = f", characters {first} to {end}" if end else ""
        where = f"  in {finding['where']}{span}" if finding["where"] else ""
        lines.append(f"  {finding['class']:<12} {finding['rule']}{where}")
        if finding["rule"] == "header-not-valid":
            lines.append(f"  {'':<12} a value that is no class counts as confidential")
    return lines


def _line(answer: dict[str, str]) -> str:
    return f"  {answer['name']:<22} {answer['answer']:<10} {plain(answer['detail'])}".rstrip()


def _usd(micro: int) -> str:
    return f"{micro / MICRO:.6f}"
