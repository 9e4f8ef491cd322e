"""ollama-sidecar: a reverse proxy on Ollama's own port that decides per call between local and cloud.

The hops of one call are told by `proxy.handler`. The layers, each importing only those below it:

    cli, demo           commands
    app                 the composition root: the one place that knows concrete classes and settings
    proxy               client connections, the journey of a call, the admin port
    upstream stores telemetry      connections out · the budget's books · log, metrics, audit
    routing             from a request's bytes to a decision, pure
    dialects classifiers strategies    bytes ⇄ facts · data classes · rules and gates
    http1 core          HTTP/1.1 on bytes · values and arithmetic, pure
"""

__version__ = "0.1.0"
