"""Hostile clients: the server refuses or survives them, and answers the others correctly."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import resource
import socket
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import Client

Start = Callable[..., contextlib.AbstractContextManager]


@pytest.fixture(autouse=True)
def still_right(server, digits: tuple) -> Iterator[None]:
    """Whatever a test did, the server still answers correctly."""
    yield
    with Client(server.address) as client:
        assert np.array_equal(client.classify(digits[0][:50], timeout_s=30).labels, digits[1][:50])


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raises the limit on open files as far as this machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame, RFC 9113 section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(**more: str) -> bytes:
    """Request headers without compression: literals that are not indexed, RFC 7541 section 6.2.2."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/digits.v1.DigitClassifierService/Classify",
        ":authority": "attack",
        "content-type": "application/grpc",
        "te": "trailers",
        **more,
    }
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")


def _peak_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


@pytest.mark.grpcio
def test_a_compressed_bomb_is_refused_before_it_fills_the_memory(server) -> None:
    """The size limit applies to decompressed messages: 256 MiB of zeros, compressed to a quarter of one."""
    before = _peak_bytes(server.process.pid)
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/digits.v1.DigitClassifierService/Classify")
        with pytest.raises(grpc.RpcError) as refused:
            call(bytes(256 << 20), compression=grpc.Compression.Gzip, timeout=60)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _peak_bytes(server.process.pid) < before + (32 << 20)


def test_thousands_of_silent_connections_leave_room_for_others(server, digits: tuple, many_files: None) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(_connect(server.address))
            # A third sends nothing, a third only the preface, a third starts a call and stops in the middle.
            if number % 3:
                connection.sendall(PREFACE)
            if number % 3 == 2:
                connection.sendall(_frame(1, 4, 1, _headers()) + _frame(0, 0, 1, b"\x00\x00\x00\x10\x00half"))
        with Client(server.address) as client:
            assert np.array_equal(client.classify(digits[0][:50], timeout_s=30).labels, digits[1][:50])


async def test_thousands_of_streams_are_all_answered(server, digits: tuple) -> None:
    raw = digits_pb2.RawImages(pixels=digits[0][:1].tobytes(), count=1)
    request = digits_pb2.ClassifyStreamRequest(request=digits_pb2.ClassifyRequest(raw_images=raw))
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        streams = [stub.ClassifyStream(timeout=120) for _ in range(2000)]  # all open before the first is used
        for stream in streams:
            await stream.write(request)
        for stream in streams:
            assert list((await stream.read()).response.labels) == [digits[1][0]]
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF


async def test_a_queue_that_stays_full_refuses_at_once_and_answers_the_rest(start_server: Start, digits: tuple) -> None:
    """For a few seconds here, for a minute in `make soak`."""
    images, codes = np.ascontiguousarray(digits[0][:256]), collections.Counter()
    raw = digits_pb2.RawImages(pixels=images.tobytes(), count=len(images))
    request = digits_pb2.ClassifyRequest(raw_images=raw)
    options = "--max-batch-rows", "256", "--max-queue-rows", "1024", "--provider", "cpu", "--metrics-port", "0"
    with start_server(*options) as full:
        port = re.search(r"metrics on (\S+)", full.process.stderr.readline())[1]
        async with grpc.aio.insecure_channel(full.address) as channel:
            stub, health = digits_pb2_grpc.DigitClassifierServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            expected = (await stub.Classify(request, timeout=20)).labels
            ends = time.monotonic() + float(os.environ.get("FULL_QUEUE_S", "2"))

            async def insist() -> None:
                while time.monotonic() < ends:
                    try:
                        assert (await stub.Classify(request, timeout=20)).labels == expected
                        codes["OK"] += 1
                    except grpc.aio.AioRpcError as error:
                        codes[error.code().name] += 1

            async def ask_for_health() -> None:
                while time.monotonic() < ends:
                    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=2)
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING

            await asyncio.gather(*(insist() for _ in range(40)), ask_for_health())
            assert codes.keys() == {"OK", "RESOURCE_EXHAUSTED"}
            shown = (await asyncio.to_thread(urllib.request.urlopen, port)).read().decode()
            refused = codes["RESOURCE_EXHAUSTED"]
            assert float(re.search(r'^digits_rejected_total{reason="queue_full"} (\S+)$', shown, re.M)[1]) == refused
            counted = re.search(r'^digits_requests_total{code="RESOURCE_EXHAUSTED",.*Classify",.*} (\S+)$', shown, re.M)
            assert float(counted[1]) == refused
            assert (await stub.Classify(request, timeout=20)).labels == expected


def test_a_flood_of_streams_that_are_reset_at_once_hurts_nobody(server) -> None:
    """Rapid reset, CVE-2023-44487: requests that are cancelled as soon as they are sent."""
    with _connect(server.address) as connection:
        connection.sendall(PREFACE)
        with contextlib.suppress(OSError):
            for stream in range(1, 20_001, 2):
                connection.sendall(_frame(1, 4, stream, _headers()) + _frame(3, 0, stream, struct.pack(">I", 8)))
