"""Which calls belong to the canary: a bucket per key, so that a conversation does not change models midway."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Canary:
    """Shares of eligible calls that may go to the cloud, in hundredths of a per cent: 0..10000, exact at both ends.

    `by_task_type` wins over `share`. `sticky_header` names the header that keeps calls together, if there is one.
    """

    share: int = BUCKETS
    by_task_type: Mapping[str, int] = field(default_factory=dict)
    salt: str = ""
    sticky_header: str = ""

    def share_of(self, task_type: str) -> int:
        return self.by_task_type.get(task_type, self.share)

    def admits(self, bucket: int, task_type: str) -> bool:
        """Monotonic in the share: raising it only adds members."""
        return bucket < self.share_of(task_type)


def bucket(salt: str, key: str) -> int:
    """0..9999, from the first eight bytes of the SHA-256 of salt and key."""
    digest = hashlib.sha256((salt + key).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def conversation_key(system_text: str, first_user_text: str) -> str:
    """One key for all calls of a conversation: its system text and first user message do not change."""
    return hashlib.sha256(f"{system_text}\0{first_user_text}".encode("utf-8", "surrogatepass")).hexdigest()
