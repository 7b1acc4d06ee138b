"""A signal in plain Python: who wants to know connects, and no listener can stop the others."""

import logging
from collections.abc import Callable


class Signal:
    """Calls its handlers in the order in which they were connected.

    A handler that raises is logged and the next one is called. A handler that is disconnected by an earlier one during
    the same `emit` is not called any more.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[..., object]] = []

    def connect(self, handler: Callable[..., object]) -> None:
        """Call `handler` from now on; connecting it a second time changes nothing."""
        if handler not in self._handlers:
            self._handlers.append(handler)

    def disconnect(self, handler: Callable[..., object]) -> None:
        """Forget `handler`; one that is not connected is no error."""
        if handler in self._handlers:
            self._handlers.remove(handler)

    def disconnectAll(self) -> None:
        self._handlers.clear()

    def emit(self, *arguments: object) -> None:
        for handler in list(self._handlers):
            if handler in self._handlers:
                try:
                    handler(*arguments)
                except Exception:
                    logging.exception("AXON: a handler failed")
