"""Stand-ins for a local Ollama and for Ollama Cloud, for `ollama-sidecar demo` and for the tests.

They speak HTTP as the real ones do and bill as a cloud does, but there is no model behind them: what they "generate"
is invented from a hash of the prompt. They say so wherever a person looks: every answer carries the header
`X-Stand-In: local|cloud`, and their prose begins with "This is a stand-in". They import nothing of the proxy, so that
it is never checked against its own reading of the protocol.

In a test:

    async with StandInCloud(["gpt-oss:120b"], key="k", prices={"gpt-oss:120b": (150_000, 600_000)}) as cloud:
        cloud.misbehave = [None, faults.Status(429, retry_after=2), faults.Cut("mid_record", after_writes=3)]
        gate = cloud.gate = StepGate(open_through=2)     # two tokens pass, then the work stands
        …                                                # calls go to cloud.base_url
        request = await gate.reached(3)                  # or: await cloud.wait_for_request(n)
        await request.closed_by_peer.wait()              # the client has gone …
        await request.finished.wait()                    # … and the generation with it
        assert request.aborted and cloud.bills[-1].tokens_out == 2

`http` the server · `wire` what it received · `exchange` what it answers · `pacing` gates · `generation`, `schema`,
`models` what a model would say · `dialect`, `native`, `openai_v1`, `responses`, `anthropic_v1`, `management` the
routes · `ollama`, `cloud` the two stand-ins · `faults` what they can be told to do wrong.
"""

from sidecar.standins import faults
from sidecar.standins.cloud import Bill, StandInCloud
from sidecar.standins.exchange import Answer, Exchange, Piece
from sidecar.standins.generation import count_tokens
from sidecar.standins.http import StandInServer
from sidecar.standins.models import StandInModel
from sidecar.standins.ollama import StandInOllama
from sidecar.standins.pacing import Gate, StepGate
from sidecar.standins.wire import RecordedRequest

__all__ = [
    "Answer",
    "Bill",
    "Exchange",
    "Gate",
    "Piece",
    "RecordedRequest",
    "StandInCloud",
    "StandInModel",
    "StandInOllama",
    "StandInServer",
    "StepGate",
    "count_tokens",
    "faults",
]
