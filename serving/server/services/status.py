"""Where a status code is chosen: the one table from errors to gRPC codes, and from those to HTTP statuses.

Also the one place that builds error details.
"""

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
    DeviceLost,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    QueueFull,
    TooManyCalls,
    Unauthenticated,
)

# Trailing metadata that carries a google.rpc.Status, as gRPC's richer error model defines it.
DETAILS_KEY = "grpc-status-details-bin"

_logger = logging.getLogger(__name__)

# Errors whose message is meant for the caller. Any other error is INTERNAL, and its message goes only to the log.
_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooManyCalls: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    DeviceLost: grpc.StatusCode.UNAVAILABLE,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    NotImplementedError: grpc.StatusCode.UNIMPLEMENTED,
}

HTTP_STATUSES: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def status_of(error: Exception) -> status_pb2.Status:
    """Returns the status that the client gets for an error, with details. Logs the traceback of an unexpected error."""
    code = _CODES.get(type(error))
    if code is None:
        incident = secrets.token_hex(4)
        _logger.error("internal error %s", incident, exc_info=error)
        return status_pb2.Status(
            code=grpc.StatusCode.INTERNAL.value[0],
            message=f"internal error; the server's log has details under {incident}",
        )
    return status_pb2.Status(code=code.value[0], message=str(error), details=[_packed(d) for d in _details(error)])


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """Returns the code of a status as a member of the enumeration."""
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
