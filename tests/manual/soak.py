"""Ten minutes of mixed load, and the memory of the workers before and after; `make soak` runs it.

The first part is warm-up: memory arenas grow until requests of every size have arrived. Exits with code 1 if a worker's
memory grew by more than 5 % after the warm-up, or if an answer was wrong.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading

import click
import numpy as np
import psutil

from serving.client import Client
from training.synthetic import draw_digits

CALLERS = 6
WARM_UP_SHARE = 0.2
GROWTH = 1.05


@click.command()
@click.option("--seconds", default=600.0, help="How long the load lasts.")
def main(seconds: float) -> None:
    """Measures the memory of a server with two workers under load."""
    command = [sys.executable, "-m", "serving", "serve", "--port", "0", "--workers", "2", "--metrics-port", "0"]
    server = subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r" on (\S+) with ", server.stdout.readline())[1]
        images, _ = draw_digits(3000, seed=0)
        with Client(address) as client:
            expected = client.classify(images).labels
        ended, wrong, calls = threading.Event(), threading.Event(), [0] * CALLERS

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
                            wrong.set()
                        if ended.is_set():
                            return

        threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        wrong.wait(WARM_UP_SHARE * seconds)  # a wrong answer ends the load early
        before = _memory(server.pid)
        wrong.wait((1 - WARM_UP_SHARE) * seconds)
        after = _memory(server.pid)
        ended.set()
        for thread in threads:
            thread.join()
    finally:
        server.terminate()
        server.wait(30)
    click.echo(f"{sum(calls):,} calls; MB of each worker after warm-up and at the end:")
    for pid, bytes_before in before.items():
        click.echo(f"  {bytes_before / 1e6:.1f}  {after[pid] / 1e6:.1f}  {after[pid] / bytes_before:.1%}")
    if wrong.is_set():
        raise click.ClickException("a wrong answer")
    if any(after[pid] > GROWTH * before[pid] for pid in before):
        raise click.ClickException("memory grew")


def _memory(supervisor: int) -> dict[int, int]:
    return {child.pid: child.memory_info().rss for child in psutil.Process(supervisor).children()}


if __name__ == "__main__":
    main()
