"""The direct way to answer common calls, as front ends know it: bytes in, an answer soon, no task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

Metadata = Sequence[tuple[str, str | bytes]]


class Running(Protocol):
    """A call that is being answered."""

    def done(self) -> bool:
        """Whether it has ended."""

    def cancel(self) -> object:
        """Ends it, since nobody waits any more or the server stops."""


# Takes the request, the context and where the answer goes; returns None if the handler must answer the call.
DirectMethod = Callable[[bytes, Any, Any], Running | None]


def directly(handler: Any, begin: DirectMethod) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that tries the direct way first, and else does as the one that it was given."""

    async def call(request: bytes, context: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        begun = begin(request, context, _FutureResponder(future, context))
        # gRPC's context keeps the error of an abort, and that keeps this frame, until garbage is collected.
        if begun is None:
            ordinary = handler.unary_unary(request, context)
            del request
            return await ordinary
        del request
        try:
            return await future
        except asyncio.CancelledError:
            begun.cancel()
            raise
        except _Refused as refused:
            ending = refused
        try:
            await context.abort(ending.code, ending.message, ending.metadata)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # the client has gone, and grpc.aio would log an error of its own
            raise asyncio.CancelledError from error

    def serialize(response: Any) -> bytes:
        content: bytes = response if isinstance(response, bytes) else handler.response_serializer(response)
        return content

    return grpc.unary_unary_rpc_method_handler(call, request_deserializer=None, response_serializer=serialize)


class _Refused(Exception):
    def __init__(self, code: grpc.StatusCode, message: str, metadata: Metadata) -> None:
        self.code = code
        self.message = message
        self.metadata = tuple(metadata)


class _FutureResponder:
    """Ends a call through a future."""

    def __init__(self, future: asyncio.Future[bytes], context: Any) -> None:
        self._future = future
        self._context = context

    def respond(self, content: bytes, metadata: Metadata) -> None:
        if not self._future.done():
            if metadata:
                self._context.set_trailing_metadata(metadata)
            self._future.set_result(content)

    def fail(self, code: grpc.StatusCode, message: str, metadata: Metadata) -> None:
        if not self._future.done():
            self._future.set_exception(_Refused(code, message, metadata))
