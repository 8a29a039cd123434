"""From the core's errors to gRPC status codes: the one table, and the one place that builds error details."""

from __future__ import annotations

import logging
import secrets

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from serving.errors import (
    DeadlinePassed,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    QueueFull,
    TooManyCalls,
    Unauthenticated,
)

# Trailing metadata that carries a google.rpc.Status, as gRPC's richer error model has it.
DETAILS_KEY = "grpc-status-details-bin"

_logger = logging.getLogger(__name__)

# Errors whose message is meant for the caller. Anything else is INTERNAL and keeps its message to the log.
_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooManyCalls: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    NotImplementedError: grpc.StatusCode.UNIMPLEMENTED,
}


def status_of(error: Exception) -> status_pb2.Status:
    """The status that a client gets for an error, with details; logs the traceback of an unexpected one."""
    code = _CODES.get(type(error))
    if code is None:
        incident = secrets.token_hex(4)
        _logger.error("internal error %s", incident, exc_info=error)
        return status_pb2.Status(
            code=grpc.StatusCode.INTERNAL.value[0], message=f"internal error; the server's log has it as {incident}"
        )
    return status_pb2.Status(code=code.value[0], message=str(error), details=[_packed(d) for d in _details(error)])


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """The enumeration member for a status."""
    return next(code for code in grpc.StatusCode if code.value[0] == status.code)


def _details(error: Exception) -> list[Message]:
    if isinstance(error, InvalidRequest):
        return [
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations
                ]
            )
        ]
    if isinstance(error, QueueFull | TooManyCalls):
        delay = Duration()
        delay.FromMicroseconds(int(error.retry_after_s * 1e6))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
