"""What a call is: its task and its class, from its headers, its body and the pod's defaults."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.classifiers.headers import HeaderSource, header_finding
from sidecar.core.classification import Classification, DataClass, Finding, combine
from sidecar.core.task import Asked, Task, resolve_task
from sidecar.dialects.reading import texts_of
from sidecar.routing.bodies import Body
from sidecar.routing.policy import Hit, Policy


@dataclass(slots=True)
class Assessment:
    """One inference call, understood."""

    body: Body
    task: Task
    classification: Classification


def assess(policy: Policy, headers: HeaderSource, asked: Asked, body: Body, new_id: str) -> Assessment:
    """The task and the class of a call. Takes time in proportion to the body; touches nothing but its arguments."""
    facts = body.facts
    task = resolve_task(asked, facts.shape, facts.model, policy.task_defaults, new_id)
    return Assessment(body, task, classify(policy, headers, body))


def classify(policy: Policy, headers: HeaderSource, body: Body) -> Classification:
    """Header, pod default, images and content combined: the most restrictive wins, content may only raise.

    What cannot be scanned, and what two readers could read differently, counts as confidential.
    """
    facts = body.facts
    hits: Sequence[Hit] = ()
    if policy.scanner is not None:
        if facts.images or facts.texts or facts.ambiguous or body.value is None:
            hits = policy.scanner.scan(_without_images(body), [*body.texts, *_around_images(body)])
        else:  # read by every reader alike, so each text stands in it
            hits = policy.scanner.scan(body.decoded, body.texts, contained=True)
    stated = header_finding(headers)
    pictured = facts.images or facts.stray_image
    if not (hits or stated or pictured or facts.ambiguous or facts.opaque):
        return policy.default_class
    findings = [stated] if stated is not None else []
    findings += policy.default_class.findings
    if pictured:
        findings.append(Finding("images", policy.image_class, "default"))
    if facts.ambiguous:
        findings.append(Finding("ambiguous-body", DataClass.CONFIDENTIAL, "body"))
    if facts.opaque:
        findings.append(Finding("opaque-content", DataClass.CONFIDENTIAL, "body"))
    if hits:
        findings += _located(hits, body)
    return combine(findings)


# The end of a JSON string, behind its quote or a data URL's comma, that could be base64 as it stands in a body.
_BASE64_RUN = re.compile(rb'(?<=[",])[A-Za-z0-9+/=\\]{4,}(?=")')


def _without_images(body: Body) -> bytes:
    """The body as sent, without its image data. One pass, however many images there are."""
    if not body.facts.image_data:
        return body.decoded
    images = {data.rpartition(",")[2].encode("ascii") for data in body.facts.image_data}

    def kept(run: re.Match[bytes]) -> bytes:
        data = run[0]
        if b"\\" in data:
            data = data.replace(b"\\/", b"/").replace(b"\\r", b"\r").replace(b"\\n", b"\n")
        return b"" if data in images else run[0]

    return _BASE64_RUN.sub(kept, body.decoded)


def _around_images(body: Body) -> list[str]:
    """What of the images' strings is no image: the heads of their data URLs, which go to the cloud like any text."""
    return list(dict.fromkeys(data.rpartition(",")[0] for data in body.facts.image_data if "," in data))


def _located(hits: Sequence[Hit], body: Body) -> list[Finding]:
    """Hits as findings with the path of their field."""
    images = frozenset(map(id, body.facts.image_data))
    paths = [path for path, text in texts_of(body.value) if id(text) not in images]
    located = []
    for hit in hits:
        if hit.index < 0:
            where = "body"
        elif hit.index < len(paths):
            where = paths[hit.index]
        else:
            where = "a joined text or a number written out" if hit.index < len(body.texts) else "an image's data URL"
        located.append(Finding(hit.rule, hit.data_class, "content", where, hit.start, hit.end))
    return located
