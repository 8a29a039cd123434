"""What only the front end native has to take care of."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from protos.digits.v1 import digits_pb2, digits_pb2_grpc

pytestmark = pytest.mark.native


def _request(images: np.ndarray) -> digits_pb2.ClassifyRequest:
    return digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=images.tobytes(), count=len(images)))


async def test_a_server_that_stops_does_not_use_up_the_retries_of_its_clients(
    start_server: Callable, digits: tuple
) -> None:
    """It can't send them away, so it lets calls wait until its connections close."""
    large = _request(np.resize(digits[0], (1000, 28, 28, 1)))
    with start_server("--max-queue-rows", "100000") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
            await stub.Classify(_request(digits[0][:1]), wait_for_ready=True)
            accepted = [asyncio.ensure_future(stub.Classify(large)) for _ in range(40)]
            await asyncio.wait(accepted, return_when=asyncio.FIRST_COMPLETED)  # and the others have arrived
            server.process.send_signal(signal.SIGTERM)
            while "stopping" not in (line := await asyncio.to_thread(server.process.stderr.readline)):
                assert line, "the server ended"
            codes = []
            while not all(call.done() for call in accepted):
                codes.append(await stub.Classify(_request(digits[0][:1])).code())
                await asyncio.sleep(0.02)  # as a client pauses before it tries again
            assert [len(answer.labels) for answer in await asyncio.gather(*accepted)] == [1000] * 40
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
        assert len(codes) < 10
        assert await asyncio.to_thread(server.process.wait, 30) == 0
