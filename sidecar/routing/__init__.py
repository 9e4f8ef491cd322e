"""From a request's bytes to a decision, without a socket: what the handler does and what `explain` shows."""
