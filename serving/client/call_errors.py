"""The error that clients raise for a failed call, with the details that the server sent."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


class CallFailed(Exception):
    """A call that the server refused, or that did not reach a server.

    Attributes:
        code: The gRPC status code.
        violations: For INVALID_ARGUMENT: field and description of everything that was wrong.
    """

    def __init__(self, code: grpc.StatusCode, message: str, violations: tuple[tuple[str, str], ...] = ()) -> None:
        self.code = code
        self.violations = violations
        super().__init__(f"{code.name}: {message}")


def call_failed(error: grpc.RpcError) -> CallFailed:
    """Converts gRPC's error, with the fields that the server named."""
    violations = []
    status = rich_status(error)
    for detail in status.details if status is not None else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            violations += [(v.field, v.description) for v in bad_request.field_violations]
    return CallFailed(error.code(), error.details() or "no further details", tuple(violations))


def rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    """Returns the google.rpc.Status in a call's trailing metadata, or None."""
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return None
