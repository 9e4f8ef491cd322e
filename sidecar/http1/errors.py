"""What is wrong with a message, and the status that says so."""

from __future__ import annotations


class MessageError(Exception):
    """A message that is refused. `message` never quotes the offending line: it may hold a secret.

    `status` is the answer for a request (RFC 9110, section 15.5); for a response it is 502 to the client.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
