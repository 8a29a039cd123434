"""The error that clients raise for a failed call, with the details that the server sent."""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

# How gRPC begins its message when it has no connection to a server.
_NO_CONNECTION = re.compile(r"failed to connect to all addresses; last error: \w+: |(?=errors resolving )")
# Words of its reason, and what to do about it. The names are those of `Credentials`, with the options of the commands.
_ADVICE = (
    ("WRONG_VERSION_NUMBER", "that server does not use TLS"),
    ("CERTIFICATE_VERIFY_FAILED", "trust the server's certificate or its authority: root_certificates (--tls-ca)"),
    ("Hostname Verification", "its certificate is for another name: server_name (--tls-server-name)"),
    ("Socket closed", "if the server uses TLS, use it too: root_certificates (--tls-ca)"),
    ("resolving", "is the host's name right?"),
)
_ADVICE_ELSE = "is digits-serve running there?"


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
    message = error.details() or "no further details"
    return CallFailed(error.code(), message if status is not None else _explained(message), tuple(violations))


def _explained(message: str) -> str:
    """Returns a message of gRPC's own with what a user can do about it; others as they are."""
    if message == "Deadline Exceeded":
        return f"no answer within the time limit; {_ADVICE_ELSE}"
    if found := _NO_CONNECTION.match(message):
        reason = message[found.end() :].removesuffix(": OK")
        advice = next((advice for words, advice in _ADVICE if words in reason), _ADVICE_ELSE)
        return f"no connection ({reason}); {advice}"
    return message


def rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    """Returns the google.rpc.Status in a call's trailing metadata, or None."""
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return None
