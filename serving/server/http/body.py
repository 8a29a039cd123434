"""The body of a request over HTTP: read no further than it may be long, compressed or not."""

from __future__ import annotations

import asyncio
import zlib

import grpc
from starlette.requests import Request

from serving.server.http.errors import BodyTooLarge, HttpRefusal

# gzip and zlib, told apart by how they begin.
_EITHER = zlib.MAX_WBITS | 32
_INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Reads a body.

    Args:
        request: Whose.
        max_bytes: What it may be long, as it comes and as it becomes.

    Raises:
        HttpRefusal: It is longer, or it is compressed in a way that is not known.
        starlette.requests.ClientDisconnect: The client went away before its end.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise HttpRefusal(415, _INVALID, "Content-Encoding must be gzip or deflate, or not be there")
    declared = int(request.headers.get("content-length", 0))
    if declared > 2 * max_bytes or (declared > max_bytes and "expect" in request.headers):
        raise BodyTooLarge(max_bytes)
    body, received = bytearray(), 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= max_bytes:
            body += chunk
        elif received > 2 * max_bytes:
            break
    if received > max_bytes:  # read to its end where that is near: most clients listen only once they have sent it
        raise BodyTooLarge(max_bytes)
    if encoding == "identity":
        return bytes(body)
    return await asyncio.to_thread(_decompressed, bytes(body), max_bytes)


def _decompressed(body: bytes, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_EITHER)
    try:
        content = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise HttpRefusal(400, _INVALID, "the body is not compressed as Content-Encoding says") from error
    if len(content) > max_bytes:
        raise BodyTooLarge(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise HttpRefusal(400, _INVALID, "the body's compressed data ends too early or too late")
    return content
