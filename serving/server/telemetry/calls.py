"""A call while it is answered: what metrics and logs say of it when it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Protocol
from urllib.parse import unquote

_current: ContextVar[Call | None] = ContextVar("call", default=None)


class CallObserver(Protocol):
    """Observes every call, and every request in a stream."""

    def call_ended(self, call: Call, code: str, seconds: float) -> None:
        """Called when a call has ended, with the name of its gRPC status code and its duration."""

    def request_ended(self, request: Call, code: str, seconds: float) -> None:
        """Called when one request of a stream has been answered; the stream itself is a call that ends later."""

    def calls_ended(self, method: str, model: str, version: str, code: str, seconds: Sequence[float]) -> None:
        """Called when several calls have ended that had no `Call`, with the duration of each."""


class Call:
    """One call, or one request of a stream.

    Args:
        method: Full name, `/package.Service/Method`, or an HTTP method and the pattern of its path.
        context: Knows who called.
        observers: Are told when it ends.
        stream: The call that this is a request of; None for a call.

    Attributes:
        model: Name of the model that it was routed to; empty for none, or if the requests of a stream went to several.
        version: Version of that model; empty like the name.
        images: Number of its images.
        is_stream: Whether it has requests of its own, which are reported by themselves too.
    """

    def __init__(
        self, method: str, context: Any, observers: Sequence[CallObserver], *, stream: Call | None = None
    ) -> None:
        self.method = method
        self.model = ""
        self.version = ""
        self.images = 0
        self._context = context
        self._observers = observers
        self._stream = stream
        self.is_stream = False
        self._routes: set[tuple[str, str]] = set()
        self._ended = False
        self._started = time.perf_counter()
        _current.set(self)

    @property
    def peer(self) -> str:
        """Address of the caller, such as `127.0.0.1:50000`, `[::1]:50000` or `unix:`."""
        peer = unquote(self._context.peer())
        return peer.removeprefix("ipv4:").removeprefix("ipv6:")

    def request(self) -> Call:
        """Begins one request of this stream, in the task that answers it."""
        self.is_stream = True
        return Call(self.method, self._context, self._observers, stream=self)

    def routed_to(self, model: str, version: int) -> None:
        """Records which model and version it was routed to. Both come from the repository, never from a client."""
        self.model, self.version = model, str(version)

    def end(self, code: str) -> None:
        """Reports its end, with the name of its gRPC status code; only the first time."""
        if self._ended:
            return
        self._ended = True
        seconds = time.perf_counter() - self._started
        if self._stream is None:
            for observer in self._observers:
                observer.call_ended(self, code, seconds)
        else:
            self._stream._include(self)
            for observer in self._observers:
                observer.request_ended(self, code, seconds)

    def _include(self, request: Call) -> None:
        self.images += request.images
        if request.model:
            self._routes.add((request.model, request.version))
        self.model, self.version = next(iter(self._routes)) if len(self._routes) == 1 else ("", "")


def current_call() -> Call:
    """Returns the call that the running task answers, or that its parent task does; a new one if there is none."""
    return _current.get() or Call("", None, ())
