"""Scores a million images, in the process and through a server; `make million` runs it.

Prints the CPU time per image and the bare engine's, measured before and after, and the peak memory. Then kills the
scoring five times at random, resumes it, and compares the output with the undisturbed one. Exits with code 1 if an
output differs or a target is missed: 1.1 x the engine's CPU time in the process, 1.25 x through a server for client and
server together, and 1.1 x the memory that a tenth of the images needs.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import psutil

from serving.config import PRETRAINED, EngineConfig
from serving.inference.engine import Engine
from serving.inference.processors import available_processors
from serving.repository.repository import Repository
from training.datasets import load
from training.synthetic import draw_digits

KILLS = 5
LOCAL_TARGET, SERVED_TARGET, MEMORY_TARGET = 1.1, 1.25, 1.1
# How many images measure the bare engine.
ENGINE_IMAGES = 200_000


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a process used: CPU time and elapsed time in seconds, and its peak memory in bytes."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


@click.command()
@click.option("--images", default=1_000_000, show_default=True, help="Number of images.")
def main(images: int) -> None:
    """Scores many images, undisturbed and with kills."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder / "images.npy", images)
        _make(folder / "tenth.npy", images // 10)
        engines = available_processors()
        before_us = _engine_us(folder / "images.npy", engines)
        tenth = _score(folder, "tenth.npy", "tenth.csv", "--local")
        local = _score(folder, "images.npy", "local.csv", "--local")
        between_us = _engine_us(folder / "images.npy", engines)
        click.echo(
            f"engine, {engines} at a time  {before_us:.2f} us of CPU per image before, {between_us:.2f} us after"
        )
        together = (before_us + between_us) / 2
        _tell("local", images, local.cpu_s, local, together, LOCAL_TARGET, problems)
        _tell_marginal(images, local.cpu_s - tenth.cpu_s, together)
        _tell_memory("local", local.peak_bytes, tenth.peak_bytes, problems)

        server = subprocess.Popen(
            [sys.executable, "-m", "serving", "serve", "--port", "0", "--log-level", "error"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            address = re.search(r" on (\S+) with ", server.stdout.readline())[1]
            target = ("--target", address)
            idle_s = _cpu_s(server.pid)
            tenth = _score(folder, "tenth.npy", "tenth-served.csv", *target)
            warm_bytes, before_s = _peak_bytes(server.pid), _cpu_s(server.pid)
            served = _score(folder, "images.npy", "served.csv", *target)
            server_s = _cpu_s(server.pid) - before_s
            after_us = _engine_us(folder / "images.npy", engines)
            click.echo(f"engine, {engines} at a time  {after_us:.2f} us after")
            together = (between_us + after_us) / 2
            _tell("served", images, served.cpu_s + server_s, served, together, SERVED_TARGET, problems)
            _tell_marginal(images, served.cpu_s - tenth.cpu_s + server_s - (before_s - idle_s), together)
            client_us, server_us = served.cpu_s / images * 1e6, server_s / images * 1e6
            click.echo(f"  of this the client {client_us:.2f} us, the server {server_us:.2f} us")
            _tell_memory("served", served.peak_bytes, tenth.peak_bytes, problems)
            _tell_memory("server", _peak_bytes(server.pid), warm_bytes, problems)
            if (folder / "served.csv").read_bytes() != (folder / "local.csv").read_bytes():
                problems.append("the server's output differs from the process's output")
            for kind, where in (("local", ("--local",)), ("served", target)):
                _kill_and_resume(folder, kind, where, local.wall_s)
                if (folder / f"{kind}-killed.csv").read_bytes() != (folder / f"{kind}.csv").read_bytes():
                    problems.append(f"{kind}: the output differs after kills and resumes")
                else:
                    click.echo(f"{kind}: killed {KILLS} times with -9 and resumed, same output")
        finally:
            server.terminate()
            server.wait(30)
    if problems:
        raise click.ClickException("; ".join(problems))


def _make(path: Path, count: int) -> None:
    """Writes MNIST's training images, repeated, or drawn ones."""
    if os.environ.get("MNIST_DIR"):
        source = load("mnist", data_dir=Path(os.environ["MNIST_DIR"])).train_images[..., 0]
    else:
        source = draw_digits(5000, seed=0)[0][..., 0]
    made = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, len(source)):
        made[start : start + len(source)] = source[: count - start]
    made.flush()


def _engine_us(path: Path, engines: int) -> float:
    """CPU time of the bare engine per image, in microseconds, with this many engines at work at the same time."""
    stored = Repository(PRETRAINED).load("mnist_convnet", 1)
    images = np.load(path, mmap_mode="r")[..., np.newaxis]
    rows = min(ENGINE_IMAGES, len(images)) // engines
    started = []
    for _ in range(engines):
        engine = Engine(
            stored.content, image_shape=(28, 28, 1), classes=10, config=EngineConfig(provider="cpu", threads=1)
        )
        engine.start()
        started.append(engine)

    def run(number: int) -> None:
        for start in range(number * rows, (number + 1) * rows, 512):
            started[number].infer(np.asarray(images[start : start + 512]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(engines)]
    before_s = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.process_time() - before_s) / (rows * engines) * 1e6


def _start(folder: Path, source: str, out: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "serving", "score", source, "--out", out, *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def _score(folder: Path, source: str, out: str, *options: str) -> Cost:
    began_s = time.monotonic()
    process = _start(folder, source, out, *options)
    peak_bytes = ended = 0
    while not ended:  # not ru_maxrss, which includes this process's memory at the fork
        peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
        time.sleep(0.05)  # between samples
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{source}: the scoring failed")
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.monotonic() - began_s,
        peak_bytes=peak_bytes,
    )


def _kill_and_resume(folder: Path, kind: str, where: tuple[str, ...], whole_s: float) -> None:
    lot = random.Random()
    for _ in range(KILLS):
        process = _start(folder, "images.npy", f"{kind}-killed.csv", *where, "--resume", "--part-seconds", "2")
        try:
            process.wait(lot.uniform(0.2, 1) * whole_s / (KILLS + 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            raise click.ClickException("the run ended before it was killed")
    _score(folder, "images.npy", f"{kind}-killed.csv", *where, "--resume")


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0  # a process that has ended has none


def _tell(
    kind: str, images: int, cpu_s: float, cost: Cost, engine_us: float, target: float, problems: list[str]
) -> None:
    each_us = cpu_s / images * 1e6
    click.echo(
        f"{kind:<18} {each_us:6.2f} us of CPU per image, {each_us / engine_us:.3f} x the engine's (target {target} x); "
        f"{images / cost.wall_s:,.0f} images/s"
    )
    if each_us > target * engine_us:
        problems.append(f"{kind}: {each_us / engine_us:.3f} x the engine's CPU, the target is {target} x")


def _tell_marginal(images: int, more_s: float, engine_us: float) -> None:
    """Prints the CPU time of the images after the first tenth, without the start of the process."""
    each_us = more_s / (images - images // 10) * 1e6
    click.echo(f"  without the start {each_us:.2f} us, {each_us / engine_us:.3f} x")


def _tell_memory(kind: str, whole: int, tenth: int, problems: list[str]) -> None:
    click.echo(f"{kind}: peak memory {whole / 1e6:.0f} MB, {tenth / 1e6:.0f} MB with a tenth of the images")
    if whole > MEMORY_TARGET * tenth:
        problems.append(f"{kind}: memory grew from {tenth / 1e6:.0f} to {whole / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
