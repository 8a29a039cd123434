"""The front ends side by side, under load from h2load (Debian: nghttp2-client), which takes little of the processors.

Every scenario is measured on each front end before any is measured again (A B A B); the figures are medians of the
rounds. CPU is the user and system time of the server for each request, its inference included.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import psutil

from protos.digits.v1 import digits_pb2
from training.synthetic import draw_digits

METHOD = "/digits.v1.DigitClassifierService/Classify"
FRONTS = ("grpcio", "native")
# Name, images of a request, connections, streams of each.
SCENARIOS = (
    ("64 connections", 1, 64, 1),
    ("64 streams on one connection", 1, 1, 64),
    ("one caller", 1, 1, 1),
    ("256 images a request, 4 callers", 256, 4, 1),
)


def _body(images: np.ndarray) -> bytes:
    """A gRPC message on the wire: a flag, its length, itself."""
    raw = digits_pb2.RawImages(count=len(images), pixels=images.tobytes())
    message = digits_pb2.ClassifyRequest(raw_images=raw).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def _load(address: str, body: Path, seconds: int, connections: int, streams: int) -> tuple[float, list[float]]:
    """Requests per second, and the time of each, in milliseconds."""
    with tempfile.NamedTemporaryFile() as log:
        options = {
            "--data": body,
            "--duration": seconds,
            "--clients": connections,
            "--max-concurrent-streams": streams,
            "--log-file": log.name,
        }
        said = subprocess.run(
            [
                *("h2load", "--header", "content-type: application/grpc", "--header", "te: trailers"),
                *(str(word) for option in options.items() for word in option),
                f"http://{address}{METHOD}",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        rows = [line.split("\t") for line in Path(log.name).read_text().splitlines()]
    times = [int(microseconds) / 1000 for _, status, microseconds in rows if status == "200"]
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    if rate is None or not times or len(times) < len(rows):
        raise click.ClickException(f"{len(rows) - len(times)} of {len(rows)} requests failed: {said}")
    return float(rate[1]), times


def _measure(front: str, seconds: int, scenario: tuple[str, int, int, int], folder: Path) -> tuple[float, ...]:
    _, images, connections, streams = scenario
    body = folder / f"{images}"
    body.write_bytes(_body(draw_digits(images, seed=1)[0]))
    server = subprocess.Popen(
        [sys.executable, "-m", "serving", "serve", "--port", "0", "--front", front, "--log-level", "error"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        found = re.search(r" on (\S+) with ", server.stdout.readline())
        if found is None:
            raise click.ClickException(f"the server did not start with --front {front}")
        process = psutil.Process(server.pid)
        _load(found[1], body, 1, connections, streams)
        before = process.cpu_times()
        rate, times = _load(found[1], body, seconds, connections, streams)
        after = process.cpu_times()
        memory = process.memory_info().rss / 1e6
    finally:
        server.terminate()
        server.wait(30)
    cpu = after.user + after.system - before.user - before.system
    return rate, float(np.quantile(times, 0.5)), float(np.quantile(times, 0.99)), 1e6 * cpu / len(times), memory


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=5, show_default=True)
def main(rounds: int, seconds: int) -> None:
    """Measures the front ends and prints a table."""
    if shutil.which("h2load") is None:
        raise click.ClickException("h2load is not installed; on Debian: apt-get install nghttp2-client")
    measured: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for scenario in SCENARIOS:
                for front in FRONTS:
                    figures = _measure(front, seconds, scenario, Path(folder))
                    measured.setdefault((scenario[0], front), []).append(figures)
    click.echo("| load | front end | requests/s | p50, ms | p99, ms | CPU of a request, us | memory, MB |")
    click.echo("|---|---|---|---|---|---|---|")
    for (name, front), figures in measured.items():
        rate, p50, p99, cpu, memory = map(statistics.median, zip(*figures, strict=True))
        click.echo(f"| {name} | {front} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {cpu:,.0f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
