"""A bare grpc.aio echo server, which shows the cost of gRPC itself, without a model.

The first four bytes of a request say how much of it to return, so that answers are as long as those of a model. The
server ends at the end of its standard input, so that it can't outlive the process that started it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio

SERVICE = "digits.bench.Echo"


def echo(request: bytes) -> bytes:
    """Returns as much of a request as its first four bytes say (little-endian)."""
    return request[: int.from_bytes(request[:4], "little")]


async def _unary(request: bytes, context: object) -> bytes:
    return echo(request)


async def _stream(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
    async for request in requests:
        yield echo(request)


async def _serve() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "unary": grpc.unary_unary_rpc_method_handler(_unary),
        "stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"echoing on 127.0.0.1:{port} with grpcio {grpc.__version__}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve())
