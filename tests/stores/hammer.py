"""A process that takes money from a budget file until there is none: prints each grant before it asks for the next.

It begins when it reads a line: python hammer.py FILE HOLDER NEED CAP
"""

from __future__ import annotations

import sys
from zoneinfo import ZoneInfo

from sidecar.core.budget import Caps, Step
from sidecar.stores.embedded import EmbeddedStore
from sidecar.stores.keeper import StoreError

# 2026-11-23 12:00 UTC: all processes are in one day, whatever the day is.
NOON = 1_795_435_200.0


def main(path: str, holder: str, need: int, cap: int) -> None:
    store = EmbeddedStore(path, ZoneInfo("UTC"), lambda: NOON)
    seq, errors = 0, 0
    sys.stdin.readline()
    while errors < 50:
        seq += 1
        try:
            reply = store.step_now(Step(holder, seq, "", 0, 0, 0, need, 1, Caps(cap, cap)))
        except StoreError as error:
            errors += 1
            # Processes that do nothing else can keep one from its turn for as long as it waits for it.
            if "locked" not in str(error):
                print(f"error: {error}", flush=True)
            continue
        if not reply.granted:
            return
        print(reply.granted, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
