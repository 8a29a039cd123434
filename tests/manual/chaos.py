"""Two minutes of chaos for a server; `make chaos` runs it, and a test runs a few seconds of it.

Callers of all kinds check every answer. Meanwhile workers are killed, suspended and reloaded, versions are published,
damaged and removed, certificates are renewed, calls are cancelled or get too little time, and strangers send garbage,
partial messages or nothing. Prints how often each event happened. Exits with code 1 after a wrong answer, a failure
that a caller should not have seen, or a caller that hangs.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import click
import grpc
import numpy as np
import psutil
import trustme

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import AsyncClient, CallFailed
from serving.client.credentials import Credentials
from serving.config import FRONTS, PRETRAINED
from serving.repository.repository import Repository
from training.synthetic import draw_digits

# A caller that waits longer counts as hanging.
PATIENCE_S = 60.0


class Chaos:
    """One run against one server.

    Args:
        server: The server's main process.
        address: Its address.
        folder: Its model repository `models` and, if it speaks TLS, the authority `ca.crt` and `ca.key`.
        seconds: How long the chaos lasts.
        seed: Seed of all random choices.
    """

    def __init__(self, server: subprocess.Popen[str], address: str, folder: Path, seconds: float, seed: int) -> None:
        self._tls = (folder / "ca.crt").exists()
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self._server, self._address, self._folder, self._seconds = server, address, folder, seconds
        self._random = random.Random(seed)
        self._images, _ = draw_digits(2000, seed=seed)
        self._expected: np.ndarray = np.empty(0)
        self._ended = asyncio.Event()

    def _client(self) -> AsyncClient:
        return AsyncClient(self._address, credentials=self._credentials())

    def _credentials(self) -> Credentials:
        return Credentials(root_certificates=self._folder / "ca.crt") if self._tls else Credentials()

    async def run(self) -> None:
        async with self._client() as client:
            self._expected = (await client.classify(self._images)).labels
        jobs = [
            *(self._call() for _ in range(12)),
            self._stream(),
            self._stream(),
            self._cancel(),
            self._hurry(),
            self._overload(),
            *(self._disturb(each) for each in (self._garbage, self._silence, self._half_a_message, self._too_large)),
            self._every(7, self._kill),
            self._every(17, self._hang),
            self._every(11, self._reload),
            *([self._every(5, self._renew_certificate)] if self._tls else []),
            self._every(3, self._publish),
        ]
        tasks = [asyncio.create_task(job) for job in jobs]
        await self._pause(self._seconds)
        self._ended.set()
        done, hanging = await asyncio.wait(tasks, timeout=PATIENCE_S)
        self.faults += [f"hangs: {task.get_coro()}" for task in hanging]
        self.faults += [f"{task.get_coro()}: {task.exception()!r}" for task in done if task.exception()]
        async with self._client() as client:
            self._check("afterwards", (await client.classify(self._images)).labels, slice(None))

    async def _pause(self, seconds: float) -> None:
        """Waits for a time, or until the chaos ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)

    def _check(self, what: str, labels: np.ndarray, rows: slice) -> None:
        self.counts[what] += 1
        if not np.array_equal(labels, self._expected[rows]):
            self.faults.append(f"wrong answer: {what}, {rows}")

    def _rows(self, largest: int) -> slice:
        start = self._random.randrange(len(self._images) - largest)
        return slice(start, start + self._random.randint(1, largest))

    async def _call(self) -> None:
        """Well-behaved callers: with retries, each on its own connection for a while."""
        while not self._ended.is_set():
            async with self._client() as client:
                for _ in range(self._random.randint(1, 200)):
                    rows = self._rows(self._random.choice([1, 1, 1, 30, 1500]))
                    try:
                        answer = await client.classify(self._images[rows], timeout_s=PATIENCE_S / 2)
                    except CallFailed as error:
                        self.faults.append(f"a call failed: {error}")
                    else:
                        self._check("calls", answer.labels, rows)
                    if self._ended.is_set():
                        return

    async def _stub(self) -> tuple[grpc.aio.Channel, digits_pb2_grpc.DigitClassifierServiceStub]:
        endpoint = self._credentials().endpoint(self._address, [("grpc.use_local_subchannel_pool", 1)])
        channel = endpoint.aio_channel()
        return channel, digits_pb2_grpc.DigitClassifierServiceStub(channel)

    def _request(self, rows: slice) -> digits_pb2.ClassifyRequest:
        images = self._images[rows]
        return digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=images.tobytes(), count=len(images)))

    async def _stream(self) -> None:
        """A stream ends when its worker ends; until then it answers its requests in order."""
        while not self._ended.is_set():
            channel, stub = await self._stub()
            sent: list[slice] = []

            async def requests(sent: list[slice] = sent) -> AsyncIterator[digits_pb2.ClassifyStreamRequest]:
                for _ in range(200):
                    sent.append(self._rows(50))
                    yield digits_pb2.ClassifyStreamRequest(request=self._request(sent[-1]))

            with contextlib.suppress(grpc.RpcError):
                answers = 0
                async for answer in stub.ClassifyStream(requests(), timeout=PATIENCE_S):
                    if answer.WhichOneof("result") == "response":
                        self._check("stream answers", np.array(answer.response.labels), sent[answers])
                    elif answer.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]:
                        self.counts["stream answers: RESOURCE_EXHAUSTED"] += 1
                    else:
                        self.faults.append(f"a request of a stream failed: {answer.error}")
                    answers += 1
            await channel.close()

    async def _cancel(self) -> None:
        """Cancels calls at random moments."""
        while not self._ended.is_set():
            channel, stub = await self._stub()
            calls = [stub.Classify(self._request(self._rows(200)), timeout=PATIENCE_S) for _ in range(20)]
            for call in calls:
                await asyncio.sleep(self._random.random() / 200)
                self.counts["cancelled calls"] += call.cancel()
            await asyncio.gather(*(self._settled(call) for call in calls))
            await channel.close()

    async def _hurry(self) -> None:
        """Gives calls less time than they need."""
        while not self._ended.is_set():
            channel, stub = await self._stub()
            for _ in range(20):
                code = await self._settled(
                    stub.Classify(self._request(self._rows(1)), timeout=self._random.random() / 100)
                )
                self.counts[f"calls in a hurry: {code}"] += 1
            await channel.close()

    async def _overload(self) -> None:
        """Sends more than the queue holds: each call is either answered or refused at once for this reason."""
        allowed = {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED"}  # the last two come from a worker that ends
        while not self._ended.is_set():
            channel, stub = await self._stub()
            rows = [self._rows(1024) for _ in range(30)]
            calls = [stub.Classify(self._request(each), timeout=PATIENCE_S) for each in rows]
            for each, call in zip(rows, calls, strict=True):
                code = await self._settled(call)
                self.counts[f"calls of a crowd: {code}"] += 1
                if code == "OK":
                    self._check("crowd answers", np.array((await call).labels), each)
                elif code not in allowed:
                    self.faults.append(f"a call of a crowd failed with {code}")
            await channel.close()

    @staticmethod
    async def _settled(call: Awaitable[object]) -> str:
        try:
            await call
        except asyncio.CancelledError:
            return "CANCELLED"
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    async def _disturb(self, how: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        host, port = self._address.split(":")
        while not self._ended.is_set():
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(3):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    try:
                        await how(reader, writer)
                    finally:
                        writer.close()
            self.counts[f"strangers: {how.__name__.strip('_').replace('_', ' ')}"] += 1
            await self._pause(0.05)

    async def _garbage(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._random.randbytes(self._random.randint(1, 5000)))
        await writer.drain()
        await reader.read()

    async def _silence(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def _half_a_message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Sends it by gRPC, since a server with TLS would see none of it."""
        channel, _ = await self._stub()
        call = channel.stream_unary("/digits.v1.DigitClassifierService/Classify")(timeout=1)
        with contextlib.suppress(grpc.RpcError):
            await call.write(self._random.randbytes(self._random.randint(0, 3000)))
        call.cancel()
        await channel.close()

    async def _too_large(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel, _ = await self._stub()
        await self._settled(
            channel.unary_unary("/digits.v1.DigitClassifierService/Classify")(bytes(20 << 20), timeout=2)
        )
        await channel.close()

    async def _every(self, seconds: float, what: Callable[[], None]) -> None:
        """Does something at intervals; the first time early enough that short runs include it."""
        await self._pause(min(seconds, self._seconds * self._random.uniform(0.2, 0.5)))
        while not self._ended.is_set():
            try:
                what()
            except (psutil.Error, IndexError):  # no worker can be harmed now
                await self._pause(0.1)
                continue
            self.counts[f"operator: {what.__name__.strip('_').replace('_', ' ')}"] += 1
            await self._pause(seconds)

    def _workers(self) -> list[psutil.Process]:
        children = psutil.Process(self._server.pid).children()
        return [child for child in children if "serving.server.process.worker" in child.cmdline()]

    def wait_for_recovery(self) -> None:
        """Waits until killed and suspended workers are replaced; those can't shut down gracefully."""
        ends = time.monotonic() + PATIENCE_S
        while not self._all_run():  # nothing signals the state of another program's children
            if time.monotonic() > ends:
                self.faults.append("the workers were not replaced")
                return
            time.sleep(0.05)

    def _all_run(self) -> bool:
        try:
            states = [worker.status() for worker in self._workers()]
        except psutil.Error:  # one has died, and its supervisor has not noticed yet
            return False
        return len(states) >= 2 and psutil.STATUS_STOPPED not in states

    def _victims(self) -> list[psutil.Process]:
        """The workers that take calls, oldest first; none if there is only one, without which every call would fail."""
        serving = [
            worker
            for worker in self._workers()
            if worker.status() != psutil.STATUS_STOPPED
            and any(socket.status == psutil.CONN_LISTEN for socket in worker.net_connections("tcp"))
        ]
        return sorted(serving, key=psutil.Process.create_time) if len(serving) > 1 else []

    def _kill(self) -> None:
        self._random.choice(self._victims()).kill()

    def _hang(self) -> None:
        """Suspends the oldest worker, since the supervisor gives a new one half a minute for its first report."""
        self._victims()[0].suspend()

    def _reload(self) -> None:
        self._server.send_signal(signal.SIGHUP)

    def _renew_certificate(self) -> None:
        _issue(
            trustme.CA.from_pem((self._folder / "ca.crt").read_bytes(), (self._folder / "ca.key").read_bytes()),
            self._folder,
        )

    def _publish(self) -> None:
        """Publishes the served model again, every third time damaged, and removes old versions."""
        repository = Repository(self._folder / "models")
        shipped = Repository(PRETRAINED).load("mnist_convnet", 1)
        content = shipped.content
        if self.counts["operator: publish"] % 3 == 2:
            content = content[:-1] + bytes([content[-1] ^ 1])
        repository.publish(content, shipped.manifest)
        for version in repository.versions("mnist_convnet")[:-3]:
            repository.remove("mnist_convnet", [version])


def _issue(authority: trustme.CA, folder: Path) -> None:
    """Installs a new certificate and key one after the other, so that for a moment they do not match."""
    pair = authority.issue_cert("127.0.0.1")
    for name, content in (
        ("tls.key", pair.private_key_pem.bytes()),
        ("tls.crt", b"".join(blob.bytes() for blob in pair.cert_chain_pems)),
    ):
        (folder / "incoming").write_bytes(content)
        (folder / "incoming").replace(folder / name)


@click.command()
@click.option("--seconds", default=120.0, help="How long the chaos lasts.")
@click.option("--seed", default=0, help="Seed of all random choices.")
@click.option("--front", default="grpcio", type=click.Choice(FRONTS), show_default=True, help="native has no TLS.")
def main(seconds: float, seed: int, front: str) -> None:
    """Runs a server of two workers through chaos."""
    with tempfile.TemporaryDirectory() as name:
        folder, tls = Path(name), []
        if front == "grpcio":
            authority = trustme.CA()
            authority.cert_pem.write_to_path(folder / "ca.crt")
            authority.private_key_pem.write_to_path(folder / "ca.key")
            _issue(authority, folder)
            tls = ["--tls-certificate", folder / "tls.crt", "--tls-key", folder / "tls.key"]
        shutil.copytree(PRETRAINED, folder / "models")
        server = subprocess.Popen(
            [
                sys.executable, "-m", "serving", "serve", "--port", "0", "--workers", "2", "--watchdog-s", "3",
                "--front", front, *tls, "--log-level", "error", "--max-queue-rows", "8192",
                "--repository", folder / "models", "--watch",
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )  # fmt: skip
        try:
            found = re.search(r" on (\S+) with ", server.stdout.readline())
            if not found:
                raise click.ClickException("the server did not start")
            chaos = Chaos(server, found[1], folder, seconds, seed)
            asyncio.run(chaos.run())
            chaos.wait_for_recovery()
            server.send_signal(signal.SIGTERM)
            if code := server.wait(60):
                chaos.faults.append(f"the server ended with exit code {code}")
        finally:
            server.kill()
            server.wait()
    for what, count in sorted(chaos.counts.items()):
        click.echo(f"{count:>8,}  {what}")
    if chaos.faults:
        raise click.ClickException(f"{len(chaos.faults)} faults, the first: " + "; ".join(chaos.faults[:5]))
    click.echo("no wrong answer, no lost call, nothing hung")


if __name__ == "__main__":
    main()
