"""Room for connections among the files that the process may have open."""

from __future__ import annotations

import contextlib
import resource

# For the log, the budget, the audit log, the listeners, and questions to the upstreams.
RESERVED = 64


def room_for(connections: int) -> int:
    """Raises the soft limit on open files as far as so many connections need, each with one to an upstream.

    Returns how many there is room for: at least 1. (A Go server raises its limit by itself, so the local Ollama has
    no such bound; 1024, the usual one, ends at 480 calls.)
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # a system with a bound of its own, such as macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, (soft - RESERVED) // 2))
