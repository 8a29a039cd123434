"""From errors to what HTTP says of them: the one table beside `serving.server.services.status`."""

from __future__ import annotations

import json
import math

import grpc

from serving.server.services.status import code_of, status_of

HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class HttpRefusal(Exception):
    """Something that is wrong in HTTP's own terms, with a message for the client. Raised before a request is decoded.

    Args:
        status: Of the answer.
        code: The status that logs and metrics show.
        message: What is wrong.
    """

    def __init__(self, status: int, code: grpc.StatusCode, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


class BodyTooLarge(HttpRefusal):
    """A body beyond the limit, which is that of messages."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413, grpc.StatusCode.RESOURCE_EXHAUSTED, f"the body is larger than max ({max_bytes} bytes)")


def refusal(error: Exception) -> tuple[grpc.StatusCode, int, dict[str, str], bytes]:
    """What a client is told of an error; logs the traceback of an unexpected one.

    Returns:
        The code for logs and metrics, HTTP's status, headers, and the body: an object with `error`, as Triton has it.
    """
    headers: dict[str, str] = {}
    if isinstance(error, HttpRefusal):
        return error.code, error.status, headers, error_body(str(error))
    told = status_of(error)
    code = code_of(told)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    return code, HTTP_STATUS.get(code, 500), headers, error_body(told.message)


def error_body(message: str) -> bytes:
    """The body of an answer that tells an error."""
    return json.dumps({"error": message}).encode()
