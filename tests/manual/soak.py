"""Ten minutes of mixed load, and the memory and descriptors of the workers before and after; `make soak` runs it.

The first part is warm-up: memory arenas grow until requests of every size have arrived. Exits with code 1 if a worker's
memory grew by more than 5 % after the warm-up, if a worker holds more descriptors than before the load once all callers
have left, if an answer was wrong, or if a call got none. DIGITS_FRONT=native soaks the front end native.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import click
import numpy as np
import psutil

from serving.client import Client
from training.synthetic import draw_digits

CALLERS = 6
WARM_UP_SHARE = 0.2
GROWTH = 1.05
CLOSING_S = 30.0


@click.command()
@click.option("--seconds", default=600.0, help="How long the load lasts.")
def main(seconds: float) -> None:
    """Measures the memory of a server with two workers under load."""
    command = [sys.executable, "-m", "serving", "serve", "--port", "0", "--workers", "2", "--metrics-port", "0"]
    server = subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r" on (\S+) with ", server.stdout.readline())[1]
        descriptors = _each(server.pid, psutil.Process.num_fds)
        images, _ = draw_digits(3000, seed=0)
        with Client(address) as client:
            expected = client.classify(images).labels
        ended, failed, calls = threading.Event(), threading.Event(), [0] * CALLERS
        failures: list[str] = []

        def call(number: int) -> None:
            lot = random.Random(number)
            while not ended.is_set():
                with Client(address) as client:  # its own connection, and a new one from time to time
                    for _ in range(200):
                        rows = lot.choice([1, 1, 1, 7, 64, 300, 2500])
                        start = lot.randrange(len(images) - rows)
                        labels = client.classify(images[start : start + rows], probabilities=rows == 7).labels
                        calls[number] += 1
                        if not np.array_equal(labels, expected[start : start + rows]):
                            raise click.ClickException("a wrong answer")
                        if ended.is_set():
                            return

        def call_until_failure(number: int) -> None:
            try:
                call(number)
            except Exception as error:  # noqa: BLE001 - whatever it is, the soak fails
                failures.append(f"{type(error).__name__}: {error}")
                failed.set()

        threads = [threading.Thread(target=call_until_failure, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        failed.wait(WARM_UP_SHARE * seconds)  # a failure ends the load early
        before = _each(server.pid, _memory)
        failed.wait((1 - WARM_UP_SHARE) * seconds)
        after = _each(server.pid, _memory)
        ended.set()
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + CLOSING_S
        while time.monotonic() < deadline:
            left = _each(server.pid, psutil.Process.num_fds)
            if all(left[pid] <= count for pid, count in descriptors.items()):
                break
            time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(30)
    click.echo(f"{sum(calls):,} calls; MB of each worker after warm-up and at the end:")
    for pid, bytes_before in before.items():
        click.echo(f"  {bytes_before / 1e6:.1f}  {after[pid] / 1e6:.1f}  {after[pid] / bytes_before:.1%}")
    click.echo(f"descriptors before the load {[*descriptors.values()]}, after it {[*left.values()]}")
    if failures:
        raise click.ClickException(failures[0])
    if any(after[pid] > GROWTH * before[pid] for pid in before):
        raise click.ClickException("memory grew")
    if any(left[pid] > count for pid, count in descriptors.items()):
        raise click.ClickException("descriptors were left open")


def _memory(process: psutil.Process) -> int:
    return process.memory_info().rss


def _each(supervisor: int, figure: Callable[[psutil.Process], int]) -> dict[int, int]:
    return {child.pid: figure(child) for child in psutil.Process(supervisor).children()}


if __name__ == "__main__":
    main()
