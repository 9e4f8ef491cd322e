"""Permits for the one door to the cloud: one call, one body, one use.

A permit is only issued for a call that was decided for the cloud and is not sensitive, and it says for which bytes.
The door takes nothing without one, and none twice: a retry needs a decision of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from sidecar.core.classification import Classification
from sidecar.core.decision import CLOUD, Decision


class PermitError(Exception):
    """A permit that is not valid for what it is shown for. Always a defect of ours: the call must not go."""


@dataclass(frozen=True, slots=True)
class Permit:
    """`body` is the SHA-256 of the classified body; `generation` that of the settings that decided."""

    number: int
    body: bytes
    model: str
    generation: int
    seal: bytes


class PermitOffice:
    """Issues and redeems permits. The key never leaves it, so no other code can make one."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._number = 0
        self._open: set[int] = set()

    def issue(
        self, classification: Classification, decision: Decision, body: bytes, model: str, generation: int
    ) -> Permit:
        """Raises PermitError for what must not go to the cloud."""
        if classification.sensitive:
            raise PermitError("a sensitive call has no way to the cloud")
        if decision.location != CLOUD:
            raise PermitError("the call was not decided for the cloud")
        self._number += 1
        self._open.add(self._number)
        digest = hashlib.sha256(body).digest()
        return Permit(self._number, digest, model, generation, self._seal(self._number, digest, model, generation))

    def redeem(self, permit: Permit, body: bytes, generation: int) -> None:
        """Takes a permit in for this body. Raises PermitError where it is not for it, not ours, old or used."""
        seal = self._seal(permit.number, permit.body, permit.model, permit.generation)
        if not hmac.compare_digest(seal, permit.seal):
            raise PermitError("the permit was not issued here")
        if permit.number not in self._open:
            raise PermitError("the permit was used before")
        self._open.discard(permit.number)
        if permit.generation != generation:
            raise PermitError("the settings have changed since the call was decided")
        if hashlib.sha256(body).digest() != permit.body:
            raise PermitError("the permit is for another body")

    def withdraw(self, permit: Permit) -> None:
        """Ends a permit that was not used."""
        self._open.discard(permit.number)

    def _seal(self, number: int, body: bytes, model: str, generation: int) -> bytes:
        text = b"%d\0%d\0%b\0%b" % (number, generation, body, model.encode("utf-8", "surrogatepass"))
        return hmac.digest(self._key, text, "sha256")
