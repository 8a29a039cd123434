"""The outermost boundary of every call: bytes to messages, exceptions to statuses.

grpc.aio left to itself sends the text of an exception to the client, also when bytes do not parse. So handlers are
registered without deserialisers: parsing happens here, inside the same try as the call.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from serving.errors import InvalidRequest, NotReady
from serving.server.security.guard import Guard
from serving.server.services.status import DETAILS_KEY, code_of, status_of
from serving.server.telemetry.logs import request_id

# Metadata by which a client names its request; comes back with the answer and is part of what is logged.
REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Context = Any  # grpc.aio.ServicerContext, or what another front end offers of it


class CallObserver(Protocol):
    """Is told of every call."""

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """A call ended, after so many seconds, with the gRPC status code of this name."""


def service_handler(
    service: ServiceDescriptor,
    servicer: object,
    *,
    guard: Guard,
    guards: Mapping[str, Guard] | None = None,
    until: asyncio.Event | None = None,
    observers: Sequence[CallObserver] = (),
) -> grpc.GenericRpcHandler:
    """Makes the handlers of one service, every method inside the boundary.

    Args:
        service: The service's descriptor, from a generated module.
        servicer: An object with a coroutine or asynchronous generator for each method of the service.
        guard: Admits the calls of every method; there is no handler without one.
        guards: Admit the calls of the methods of these names instead.
        until: When it is set, streams of requests end with UNAVAILABLE. For services that don't end theirs themselves.
        observers: Are told of every call.
    """
    handlers = {
        method.name: _method_handler(
            method, getattr(servicer, method.name), (guards or {}).get(method.name, guard), until, observers
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _method_handler(
    method: MethodDescriptor,
    behaviour: Callable[..., Any],
    guard: Guard,
    until: asyncio.Event | None,
    observers: Sequence[CallObserver],
) -> Any:
    request_type = GetMessageClass(method.input_type)
    name = f"/{method.containing_service.full_name}/{method.name}"

    def decoded(request: Any) -> Any:
        if not method.client_streaming:
            return _decode(request_type, request)
        return _decode_each(request_type, request if until is None else _until(until, request))

    def ended(code: grpc.StatusCode, started: float, context: Context) -> None:
        if code is grpc.StatusCode.CANCELLED and (context.time_remaining() or 1) <= 0:
            code = grpc.StatusCode.DEADLINE_EXCEEDED  # gRPC cancels the handler for either reason
        for observer in observers:
            observer.call_ended(name, code.name, time.perf_counter() - started)

    async def call(request: Any, context: Context) -> Any:
        started, code = time.perf_counter(), grpc.StatusCode.CANCELLED
        identity = _identify(context)
        try:
            with guard.admit(context):
                response = await behaviour(decoded(request), context)
            code = grpc.StatusCode.OK
            return response
        except Exception as error:
            code, status = _outcome(error, context)
            if status is None:
                raise
            await _abort(context, code, status, identity)
        finally:
            ended(code, started, context)

    async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
        started, code = time.perf_counter(), grpc.StatusCode.CANCELLED
        identity = _identify(context)
        try:
            with guard.admit(context):
                async for response in behaviour(decoded(request), context):
                    yield response
            code = grpc.StatusCode.OK
        except Exception as error:
            code, status = _outcome(error, context)
            if status is None:
                raise
            await _abort(context, code, status, identity)
        finally:
            ended(code, started, context)

    make = getattr(
        grpc,
        f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        "_rpc_method_handler",
    )
    return make(
        generate if inspect.isasyncgenfunction(behaviour) else call,
        request_deserializer=None,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )


def accepted_request_id(value: str) -> str:
    """An id that a client gave its request, if it may be logged and sent back; else nothing."""
    return value if _REQUEST_ID.fullmatch(value) else ""


def _identify(context: Context) -> tuple[tuple[str, str], ...]:
    """Takes over the id that the client gave its request, for the logs and for the client; returns it as metadata."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and accepted_request_id(value):
            request_id.set(value)
            identity = ((key, value),)
            context.set_trailing_metadata(identity)
            return identity
    return ()


def _decode(request_type: type[Message], content: bytes) -> Message:
    try:
        return request_type.FromString(content)
    except DecodeError as error:
        raise InvalidRequest.of(
            "request", f"{len(content)} bytes that are no {request_type.DESCRIPTOR.name}"
        ) from error


async def _decode_each(request_type: type[Message], contents: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for content in contents:
        yield _decode(request_type, content)


async def _until(event: asyncio.Event, contents: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    iterator, ended = aiter(contents), asyncio.create_task(event.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(iterator))
            await asyncio.wait({following, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                raise NotReady("the server is stopping")
            try:
                yield following.result()
            except StopAsyncIteration:
                return
    finally:
        ended.cancel()


def _outcome(error: Exception, context: Context) -> tuple[grpc.StatusCode, status_pb2.Status | None]:
    """The code that a call ends with, and what to tell the client; None where the servicer has told it already."""
    if isinstance(error, grpc.aio.AbortError):
        return context.code(), None
    status = status_of(error)
    return code_of(status), status


async def _abort(
    context: Context, code: grpc.StatusCode, status: status_pb2.Status, identity: tuple[tuple[str, str], ...]
) -> None:
    try:
        await context.abort(code, status.message, (*identity, (DETAILS_KEY, status.SerializeToString())))
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # the client has gone meanwhile, and grpc.aio would log its own surprise
        raise asyncio.CancelledError from error
