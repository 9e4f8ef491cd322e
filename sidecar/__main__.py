"""`python -m sidecar` is the command `ollama-sidecar`."""

import sys

from sidecar.cli import main

sys.exit(main())
