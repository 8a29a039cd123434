"""Servers that get SIGTERM under load: what was accepted is answered, what arrives later is refused in so many words.

Each server has 100 calls in flight when the signal comes. Prints how the calls ended; fails if one was lost: answered
wrongly, or ended by a connection that broke.
"""

from __future__ import annotations

import asyncio
import collections
import re
import signal
import sys

import click
import grpc
import grpc.aio
import numpy as np
from tqdm import tqdm

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from training.synthetic import draw_digits

CALLS = 100
CONNECTIONS = 4
# What servers say to calls that arrive after the signal, and gRPC to those that find no server any more.
REFUSALS = (
    "the server is stopping",
    "not accepting requests",
    "gRPC server is shutting down",
    "ailed to connect",
    "GOAWAY",
)


async def _calls(address: str, request: digits_pb2.ClassifyRequest, expected: list[int], began: asyncio.Event) -> list:
    """Calls over and over until the first refusal of each caller; returns how each call ended."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CONNECTIONS)
    ]
    stubs = [digits_pb2_grpc.DigitClassifierServiceStub(channel) for channel in channels]
    endings: list[str] = []

    async def caller(number: int) -> None:
        while True:
            try:
                answer = await stubs[number % CONNECTIONS].Classify(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                endings.append(_ending(error))
                return
            endings.append("answered" if list(answer.labels) == expected else "LOST: another answer")
            if len(endings) >= 2 * CALLS:
                began.set()

    await asyncio.gather(*map(caller, range(CALLS)))
    for channel in channels:
        await channel.close()
    return endings


def _ending(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.UNAVAILABLE and any(words in error.details() for words in REFUSALS):
        return "refused"
    if error.code() is grpc.StatusCode.CANCELLED:
        return "refused as CANCELLED, which grpcio says while it shuts down"
    return f"LOST: {error.code().name}: {error.details()}"


async def _once(front: str, images: np.ndarray) -> collections.Counter[str]:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serving", "serve", "--port", "0", "--front", front, "--log-level", "error"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        address = re.search(r" on (\S+) with ", (await server.stdout.readline()).decode())[1]
        request = digits_pb2.ClassifyRequest(
            raw_images=digits_pb2.RawImages(count=len(images), pixels=images.tobytes())
        )
        async with grpc.aio.insecure_channel(address) as channel:
            expected = list((await digits_pb2_grpc.DigitClassifierServiceStub(channel).Classify(request)).labels)
        began = asyncio.Event()
        calling = asyncio.create_task(_calls(address, request, expected, began))
        await began.wait()
        server.send_signal(signal.SIGTERM)
        endings = collections.Counter(await asyncio.wait_for(calling, 60))
        if code := await asyncio.wait_for(server.wait(), 60):
            endings[f"LOST: exit code {code}"] += 1
    finally:
        if server.returncode is None:
            server.kill()
    return endings


@click.command()
@click.option("--front", type=click.Choice(("grpcio", "native")), default="grpcio", show_default=True)
@click.option("--times", type=click.IntRange(1), default=100, show_default=True)
def main(front: str, times: int) -> None:
    """Ends servers under load, and says how their calls ended."""
    images = draw_digits(20, seed=1)[0]
    endings: collections.Counter[str] = collections.Counter()
    for _ in tqdm(range(times)):
        endings += asyncio.run(_once(front, images))
    for ending, count in endings.most_common():
        click.echo(f"{count:8,} {ending}")
    if any(ending.startswith("LOST") for ending in endings):
        sys.exit(1)


if __name__ == "__main__":
    main()
