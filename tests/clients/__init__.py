"""Real, unmodified Python clients through the sidecar, between stand-ins: they need nothing that is not on PyPI.

| | ollama | openai | anthropic | langchain-ollama |
| --- | --- | --- | --- | --- |
| whole and streamed, from threads and from the loop | x | x | x | x |
| tools, JSON by a schema, images | x | x | x | x |
| embeddings | x | x | | x |
| the decision asked for by a header, by `task_defaults`, by the model's name | x | x | x | x |
| errors of an unknown model, refusals, a stream that breaks at the cloud | x | x | x | x |
| a client that leaves: streamed and not | x | x | x | x |
| models: list, show, pull, create, copy, delete, ps, blobs | x | list, show | | |

Every inference call in a `Place` is checked for where it ran, whose key went where, and what was booked for it.
"""
