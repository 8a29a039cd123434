"""h2load, nghttp2's load generator in C, in the place of our own.

It takes little of the processors that it shares with a server, but knows nothing of gRPC: it sends the same bytes again
and again, and an error of gRPC is a success of HTTP to it. So one answer is checked before the load, and then the
average length of the answers tells whether calls failed.
"""

from __future__ import annotations

import asyncio
import re
import resource
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from serving.bench.calls import UnaryCalls, open_channel
from serving.bench.generator import Load
from serving.bench.load import RequestFailed
from serving.bench.measurement import BenchFailed, Measurement

_HEADERS = ("content-type: application/grpc", "te: trailers")
# The times in an answer vary in length; a call that failed has no answer at all.
_SHORTER_BY = 2
# Of a message on the wire: a flag and its length
_HEADER_BYTES = 5


class H2load:
    """Prepares a load, then has h2load run it, like `Generator`."""

    def __init__(self) -> None:
        self._load: Load | None = None
        self._answer_bytes = 0

    def prepare(self, load: Load) -> None:
        """Sends one request and checks the answer.

        Raises:
            BenchFailed: The server can't be reached, or gives no answer or a wrong one.
        """
        self._load = load
        request = load.requests[0]
        try:
            answer = asyncio.run(_call(load, request.message))
        except RequestFailed as failure:
            raise BenchFailed(f"{load.address}: {failure.code}") from failure
        if not load.check(answer, request.expected):
            raise BenchFailed(f"{load.address}: a wrong answer")
        self._answer_bytes = _HEADER_BYTES + len(answer)

    def run(self) -> Measurement:
        """Runs the load.

        Raises:
            BenchFailed: h2load failed, or the answers are shorter than a right one.
        """
        if self._load is None:
            raise BenchFailed("no load was prepared")
        with tempfile.TemporaryDirectory() as folder:
            return self._run(self._load, Path(folder))

    def close(self) -> None:
        """Does nothing, since nothing is open between loads."""

    def _run(self, load: Load, folder: Path) -> Measurement:
        body, log = folder / "body", folder / "log"
        message = load.requests[0].message
        body.write_bytes(b"\0" + len(message).to_bytes(_HEADER_BYTES - 1, "big") + message)
        clients = min(load.connections, load.callers)
        command = {
            "--data": body,
            "--duration": f"{round(1000 * load.seconds)}ms",
            "--clients": clients,
            "--max-concurrent-streams": -(-load.callers // clients),
            "--log-file": log,
        }
        words = [str(word) for pair in command.items() for word in pair]
        headers = [word for header in _HEADERS for word in ("--header", header)]
        cpu_s = _cpu_s()
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program with our own arguments
                ["h2load", *words, *headers, f"http://{load.address}{load.method}"],  # noqa: S607 - wherever it is
                capture_output=True,
                text=True,
                check=False,
                timeout=load.seconds + load.timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchFailed(f"{load.address}: h2load did not end within {error.timeout:g} s") from error
        cpu_s, ended_s = _cpu_s() - cpu_s, time.monotonic()
        took = re.search(r"finished in ([\d.]+)(m?s)", done.stdout)
        data = re.search(r"\((\d+)\) data", done.stdout)
        if done.returncode or took is None or data is None:
            raise BenchFailed(f"h2load failed: {(done.stderr or done.stdout).strip()[-300:]}")
        rows = [line.split("\t") for line in log.read_text(encoding="ascii").splitlines()]
        latencies = np.array([int(microseconds) for _, status, microseconds in rows if status == "200"], np.float64)
        answer_bytes = int(data[1]) / max(1, len(latencies))
        if len(latencies) and answer_bytes < self._answer_bytes - _SHORTER_BY:
            raise BenchFailed(
                f"{load.address}: answers have {answer_bytes:.1f} bytes on average in place of {self._answer_bytes}, "
                "so calls failed; --load-generator grpcio tells why"
            )
        seconds = float(took[1]) / (1000 if took[2] == "ms" else 1)
        errors = Counter(status for _, status, _ in rows if status != "200")
        return Measurement(
            latencies_s=latencies / 1e6,
            began_s=ended_s - seconds,
            ended_s=ended_s,
            errors={f"HTTP {status}": count for status, count in errors.items()},
            load_cpu_s=cpu_s,
        )


async def _call(load: Load, message: bytes) -> bytes:
    async with open_channel(load.address) as channel:
        return await UnaryCalls(channel, load.method, load.timeout_s).send(message)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
