"""The body of an HTTP request: read up to a limit, and decompressed up to the same limit."""

from __future__ import annotations

import asyncio
import zlib

import grpc
from starlette.requests import Request

# Lets zlib recognise gzip and zlib by their first bytes.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_INVALID = grpc.StatusCode.INVALID_ARGUMENT


class HttpError(Exception):
    """An error in HTTP's own terms, with a message for the client. Raised before a request is decoded.

    Args:
        status: The HTTP status.
        code: The gRPC code for logs and metrics.
        message: What is wrong.
    """

    def __init__(self, status: int, code: grpc.StatusCode, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Reads and decompresses the body of a request.

    Args:
        request: The request.
        max_bytes: The limit for the body, both compressed and decompressed.

    Raises:
        HttpError: The body exceeds the limit, or its compression is unknown or damaged.
        starlette.requests.ClientDisconnect: The client went away before the end of the body.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise HttpError(415, _INVALID, "Content-Encoding must be gzip or deflate, or absent")
    declared = int(request.headers.get("content-length", 0))
    if declared > 2 * max_bytes or (declared > max_bytes and "expect" in request.headers):
        raise _too_large(max_bytes)
    body, received = bytearray(), 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= max_bytes:
            body += chunk
        elif received > 2 * max_bytes:
            break
    if received > max_bytes:  # a slightly larger body was read to its end: most clients send all before they read
        raise _too_large(max_bytes)
    if encoding == "identity":
        return bytes(body)
    return await asyncio.to_thread(_decompressed, bytes(body), max_bytes)


def _decompressed(body: bytes, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        content = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise HttpError(400, _INVALID, "the body is not compressed as Content-Encoding says") from error
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise HttpError(400, _INVALID, "the compressed data of the body ends too early or too late")
    return content


def _too_large(max_bytes: int) -> HttpError:
    return HttpError(413, grpc.StatusCode.RESOURCE_EXHAUSTED, f"the body is larger than max ({max_bytes} bytes)")
