"""The facts of one inference call, as its dialect read them from the body; and what the answer told of itself."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.task import Shape


class Facts:
    """What a call says of itself.

    `models` are all the models that a reader of the body could take it to name: one, unless readers could differ.
    `ambiguous` says why two readers could read the body differently, and `opaque` what in it cannot be scanned;
    either makes the call confidential. `cloud_blocker` says why the cloud cannot serve it as it stands. Empty: no.
    `output_cap` is the app's own bound on output tokens; None where it set none, or none that is a bound.
    `image_data` are the strings of image data, which are no text; `stray_image` says that one is where none belongs.
    `reruns` says that a server may run the call twice, with the first run's output in the second prompt. `tool_items`
    are its tools and earlier tool calls, and `tool_bytes` the most bytes that their JSON can become.
    """

    # Class attributes for what most calls leave as it is: a call pays for what it says.
    model: str = ""
    models: tuple[str, ...] = ()
    stream: bool = False
    shape: Shape = Shape()
    messages: int = 1
    choices: int = 1
    output_cap: int | None = None
    context_tokens: int | None = None
    tools: int = 0
    tool_items: int = 0
    tool_bytes: int = 0
    reruns: bool = False
    thinks: bool = False
    load_only: bool = False
    web_tools: bool = False
    usage_asked: bool = False
    image_data: tuple[str, ...] = ()
    stray_image: bool = False
    texts: tuple[str, ...] = ()
    system_text: str = ""
    first_user_text: str = ""
    ambiguous: str = ""
    opaque: str = ""
    cloud_blocker: str = ""

    @property
    def images(self) -> int:
        return self.shape.images


@dataclass(slots=True)
class Usage:
    """Token counts of one answer as its server reported them, both None until it did.

    `complete` says that the answer's own last record came; `error` that the answer ended in an error record;
    `finish` is the server's reason to stop, e.g. `stop` or `length`.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    complete: bool = False
    error: bool = False
    finish: str = ""

    @property
    def known(self) -> bool:
        return self.tokens_in is not None and self.tokens_out is not None

    def forget(self) -> None:
        """For what was told too early: as if it had not been told."""
        self.tokens_in = self.tokens_out = None
