"""Runs the command under cProfile: `profiled.py OUT serve --config FILE`; the statistics go to OUT when it ends."""

from __future__ import annotations

import cProfile
import sys

from sidecar.cli import main

if __name__ == "__main__":
    out = sys.argv[1]
    profiler = cProfile.Profile()
    try:
        profiler.runcall(main, sys.argv[2:])
    finally:
        profiler.dump_stats(out)
