"""The outermost boundary of every gRPC call: bytes to messages, errors to statuses, and what is reported of the call.

grpc.aio sends the text of any exception to the client, even if the bytes do not parse. So handlers are registered
without deserializers, and parsing happens here, in the same `try` as the call.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from serving.errors import InvalidRequest, NotReady
from serving.server.security.admission import AdmissionControl
from serving.server.services.message_limits import MessageLimits
from serving.server.services.open_calls import OpenCalls
from serving.server.services.status import DETAILS_KEY, code_of, status_of
from serving.server.telemetry.calls import Call, CallObserver
from serving.server.telemetry.logs import request_id

STOPPING = "the server is stopping"

# Metadata in which a client names its request. The name is logged and sent back.
REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
# Metadata in which a client asks for a load report with its answer: `bin`, `json` or `text`.
LOAD_FORMAT_KEY = "endpoint-load-metrics-format"

Context = Any  # grpc.aio.ServicerContext, or the part of it that another front end offers
Metadata = Sequence[tuple[str, str | bytes]]
# Returns metadata to end an answer with, given the context of its call.
Trailer = Callable[[Context], Metadata]


def method_handlers(
    service: ServiceDescriptor,
    servicer: object,
    *,
    name: str = "",
    admission: AdmissionControl,
    limits: MessageLimits,
    method_admission: Mapping[str, AdmissionControl] | None = None,
    draining: asyncio.Event | None = None,
    observers: Sequence[CallObserver] = (),
    open_calls: OpenCalls | None = None,
    load_report: Trailer = lambda _: (),
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Makes the handlers of one service, each inside the boundary.

    Args:
        service: The service's descriptor, from a generated module.
        servicer: An object with a method for each RPC: a coroutine function, or one that makes an async generator.
        name: The full name under which it is served; its own by default.
        admission: Admits the calls.
        limits: What a message may hold.
        method_admission: Admits the calls of some methods instead, by their names.
        draining: Streams of requests end with UNAVAILABLE when it is set. For servicers that can't end their own.
        observers: Observe every call.
        open_calls: Counts the calls that have not ended.
        load_report: Makes the load report of a call that asks for one.

    Returns:
        A handler for each method, by its full name `/package.Service/Method`.
    """
    name = name or service.full_name
    return {
        f"/{name}/{method.name}": _method_handler(
            f"/{name}/{method.name}",
            method,
            getattr(servicer, method.name),
            (method_admission or {}).get(method.name, admission),
            limits,
            draining,
            observers,
            open_calls or OpenCalls(),
            load_report,
        )
        for method in service.methods
    }


def _method_handler(
    name: str,
    method: MethodDescriptor,
    behavior: Callable[..., Any],
    admission: AdmissionControl,
    limits: MessageLimits,
    draining: asyncio.Event | None,
    observers: Sequence[CallObserver],
    open_calls: OpenCalls,
    load_report: Trailer,
) -> Any:
    request_type = GetMessageClass(method.input_type)

    def decoded(request: Any) -> Any:
        if not method.client_streaming:
            return _decode(request_type, request, limits)
        return _decode_each(request_type, request if draining is None else _until(draining, request), limits)

    def ended(call: Call, code: grpc.StatusCode, context: Context) -> None:
        if code is grpc.StatusCode.CANCELLED and (context.time_remaining() or 1) <= 0:
            code = grpc.StatusCode.DEADLINE_EXCEEDED  # gRPC cancels the handler in either case
        call.end(code.name)

    def report_load(context: Context, identity: Metadata) -> None:
        if report := load_report(context):
            context.set_trailing_metadata((*identity, *report))

    async def call(request: Any, context: Context) -> Any:
        open_calls.add(context)
        running, code = Call(name, context, observers), grpc.StatusCode.CANCELLED
        identity = accept_request_id(context)
        try:
            with admission.admit(context):
                response = await behavior(decoded(request), context)
            report_load(context, identity)
            code = grpc.StatusCode.OK
            return response
        except Exception as error:
            code, status = _outcome(error, context)
            if status is None:
                raise
        finally:
            ended(running, code, context)  # before the client gets the error, as is the case with an answer
        del request  # gRPC's context keeps the error of an abort, and that keeps this frame, until garbage is collected
        return await _abort(context, code, status, (*identity, *load_report(context)))

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        open_calls.add(context)
        running, code = Call(name, context, observers), grpc.StatusCode.CANCELLED
        identity = accept_request_id(context)
        try:
            with admission.admit(context):
                async with aclosing(behavior(decoded(request), context)) as responses:
                    async for response in responses:
                        yield response
            report_load(context, identity)
            code = grpc.StatusCode.OK
            return
        except Exception as error:
            code, status = _outcome(error, context)
            if status is None:
                raise
        finally:
            ended(running, code, context)
        del request
        await _abort(context, code, status, (*identity, *load_report(context)))

    make = getattr(
        grpc,
        f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        "_rpc_method_handler",
    )
    return make(
        call if inspect.iscoroutinefunction(behavior) else stream,
        request_deserializer=None,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )


def deadline_of(context: Context) -> float | None:
    """Returns the caller's deadline on the clock of `time.monotonic`; None if it set none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def accept_request_id(context: Context) -> tuple[tuple[str, str], ...]:
    """Takes over the id that the client gave its request, for the logs and the response; returns it as metadata."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            request_id.set(value)
            identity = ((key, value),)
            context.set_trailing_metadata(identity)
            return identity
    return ()


def _decode(request_type: type[Message], content: bytes, limits: MessageLimits) -> Message:
    try:
        limits.check(request_type, content)
        return request_type.FromString(content)
    except DecodeError as error:
        raise InvalidRequest.of(
            "request", f"{len(content)} bytes that are not a {request_type.DESCRIPTOR.name}"
        ) from error


async def _decode_each(
    request_type: type[Message], contents: AsyncIterator[bytes], limits: MessageLimits
) -> AsyncIterator[Message]:
    async for content in contents:
        yield _decode(request_type, content, limits)


async def _until(event: asyncio.Event, contents: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    iterator, ended = aiter(contents), asyncio.create_task(event.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(iterator))
            await asyncio.wait({following, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                raise NotReady(STOPPING)
            try:
                yield following.result()
            except StopAsyncIteration:
                return
    finally:
        ended.cancel()


def _outcome(error: Exception, context: Context) -> tuple[grpc.StatusCode, status_pb2.Status | None]:
    """Returns the call's code, and the status to send; None if the servicer has aborted the call itself."""
    if isinstance(error, grpc.aio.AbortError):
        return context.code(), None
    status = status_of(error)
    return code_of(status), status


async def _abort(context: Context, code: grpc.StatusCode, status: status_pb2.Status, metadata: Metadata) -> Any:
    try:
        return await context.abort(code, status.message, (*metadata, (DETAILS_KEY, status.SerializeToString())))
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # the client has gone, and grpc.aio would log an error of its own
        raise asyncio.CancelledError from error
