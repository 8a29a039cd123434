"""What a handler may know of its call on the front end native."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from serving.server.fronts.direct import Metadata


class NativeContext:
    """What a handler may know of its call, as `grpc.aio.ServicerContext` has it.

    Args:
        metadata: Names and values that the client sent.
        peer: Address of the client, such as `ipv4:127.0.0.1:50000`.
        time_remaining: Time until the caller's deadline, in seconds; None if it set none.

    Attributes:
        details: The message of the status that a handler has aborted with.
        trailing_metadata: Names and values to send after the answer; None for none.
    """

    def __init__(self, metadata: Sequence[tuple[str, str | bytes]], peer: str, time_remaining: float | None) -> None:
        self._metadata = metadata
        self._peer = peer
        self._deadline = None if time_remaining is None else time.monotonic() + time_remaining
        self._code = grpc.StatusCode.OK
        self._callbacks: list[Callable[[Any], None]] = []
        self.details = ""
        self.trailing_metadata: list[tuple[str, str | bytes]] | None = None

    def invocation_metadata(self) -> Metadata:
        """Returns names and values that the client sent."""
        return self._metadata

    def peer(self) -> str:
        """Returns the address of the client."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Returns the time until the caller's deadline, in seconds; None if it set none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def code(self) -> grpc.StatusCode:
        """Returns the code that a handler has aborted with; OK before."""
        return self._code

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Sets what is sent after the answer."""
        self.trailing_metadata = list(metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> Any:
        """Ends the call with an error.

        Raises:
            grpc.aio.AbortError: Always.
        """
        self._code, self.details = code, details
        if trailing_metadata:
            self.trailing_metadata = list(trailing_metadata)
        raise grpc.aio.AbortError

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back once the answer is on its way."""
        self._callbacks.append(callback)

    def end(self) -> None:
        """Calls back, the first time."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
