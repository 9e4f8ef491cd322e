"""Room for connections among the open files of a process; each case in a process of its own, since limits are."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import resource, sys
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from sidecar.proxy.files import room_for
print(room_for(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "room", "soft_then"),
    [
        (256, 1000, 4096, 468, 1000),  # as far as it goes
        (256, 10_000, 4096, 4096, 8256),  # as far as is needed
        (9000, 10_000, 4096, 4096, 9000),  # never lowered
        (70, 70, 4096, 3, 70),
        (40, 40, 4096, 1, 40),
    ],
)
def test_the_soft_limit_is_raised_to_what_is_needed(
    soft: int, hard: int, wanted: int, room: int, soft_then: int
) -> None:
    command = [sys.executable, "-c", ASK, str(soft), str(hard), str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [int(word) for word in done.stdout.split()] == [room, soft_then, hard]
