"""What a failed call tells a client: its status, the fields that were wrong, when to try again."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


class CallFailed(Exception):
    """A call that the server refused or could not be made.

    Attributes:
        code: gRPC's status code.
        violations: For INVALID_ARGUMENT: field and description of everything that was wrong.
    """

    def __init__(self, code: grpc.StatusCode, message: str, violations: tuple[tuple[str, str], ...] = ()) -> None:
        self.code = code
        self.violations = violations
        super().__init__(f"{code.name}: {message}")


def pause_before_retry(error: grpc.RpcError, remaining_s: float) -> float:
    """How long the server asks to wait, in seconds; raises where it does not ask or the time would not suffice."""
    status = _rich_status(error)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and status is not None:
        for detail in status.details:
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                pause: float = retry.retry_delay.ToTimedelta().total_seconds()
                if pause < remaining_s:
                    return pause
    raise call_failed(error) from error


def call_failed(error: grpc.RpcError) -> CallFailed:
    """Makes our error of gRPC's, with the fields that the server named."""
    violations = []
    status = _rich_status(error)
    for detail in status.details if status is not None else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            violations += [(v.field, v.description) for v in bad_request.field_violations]
    return CallFailed(error.code(), error.details() or "no further details", tuple(violations))


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return None
