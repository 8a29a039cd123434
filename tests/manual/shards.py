"""Scores many images in shards whose processes are killed and started again as a Job does, and merges them.

Reports times and memory. Exits with 1 unless the merged file and its summary are byte for byte those of one
undisturbed run.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import psutil

from training.synthetic import draw_digits

LIMIT_S = 1800


class Job:
    """Shards, a few at a time, each started again until it is done.

    Args:
        folder: The directory with the images; outputs go there.
        suffix: The format of the outputs.
        shards: Number of shards.
        kills: Number of processes that are killed with SIGKILL.
        shard_s: About how long a shard takes.
    """

    def __init__(self, folder: Path, suffix: str, *, shards: int, kills: int, shard_s: float) -> None:
        self._folder = folder
        self._suffix = suffix
        self._shards = shards
        self._shard_s = shard_s
        self._lot = random.Random()
        self._lock = threading.Lock()
        self._planned = Counter(self._lot.choices(range(shards), k=kills))
        self._escaped = 0
        self.killed = self.started = 0

    def run(self, at_a_time: int) -> None:
        """Scores all shards."""
        with ThreadPoolExecutor(at_a_time) as pool:
            list(pool.map(self._score, range(self._shards)))

    def _score(self, index: int) -> None:
        share = self._planned[index] + 1
        for _ in range(LIMIT_S):
            with self._lock:
                self.started += 1
                if self._escaped:
                    self._escaped -= 1
                    self._planned[index] += 1
                kill = self._planned[index] > 0
                after_s = self._lot.uniform(0, self._shard_s / share + 1) if kill else LIMIT_S
            process = _start(
                self._folder,
                *("images.npy", "--local", "--engines", "1", "--part-seconds", "1", "--resume"),
                *("--shard", f"{index}/{self._shards}", "--out", f"part-{index:02d}{self._suffix}"),
            )
            try:
                process.wait(after_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                with self._lock:
                    self._planned[index] -= 1
                    self.killed += 1
                continue
            if process.returncode:
                raise click.ClickException(f"shard {index} failed")
            with self._lock:
                self._escaped += self._planned[index]  # the next ones that start get these
            return


def _start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "serving", "score", *arguments], cwd=folder, stdout=subprocess.DEVNULL
    )


def _time(folder: Path, *arguments: str) -> tuple[float, int]:
    """Runs the command; returns its time in seconds and its peak memory in bytes."""
    began_s, peak_bytes = time.monotonic(), 0
    process = _start(folder, *arguments)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak_bytes = max(peak_bytes, watched.memory_info().rss)
            process.wait(0.05)
        except (subprocess.TimeoutExpired, psutil.NoSuchProcess):
            continue
    if process.returncode:
        raise click.ClickException(f"digits-score {' '.join(arguments)} failed")
    return time.monotonic() - began_s, peak_bytes


@click.command()
@click.option("--images", default=1_000_000, show_default=True, help="Number of images.")
@click.option("--shards", default=16, show_default=True, help="Number of shards.")
@click.option("--kills", default=20, show_default=True, help="Number of processes that are killed.")
@click.option("--at-a-time", default=2, show_default=True, help="Number of shards that run at the same time.")
@click.option("--suffix", default=".csv", show_default=True, help="Format of the outputs.")
def main(images: int, shards: int, kills: int, at_a_time: int, suffix: str) -> None:
    """Scores images in one run, then in shards with kills, and compares."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = draw_digits(5000, seed=0)[0][..., 0]
        made = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (images, 28, 28))
        for start in range(0, images, len(drawn)):
            made[start : start + len(drawn)] = drawn[: images - start]
        made.flush()
        whole_s, _ = _time(folder, "images.npy", "--local", "--out", f"whole{suffix}")
        click.echo(f"one run of {images:,} images: {whole_s:.1f} s")
        job = Job(folder, suffix, shards=shards, kills=kills, shard_s=whole_s * at_a_time / shards)
        began_s = time.monotonic()
        job.run(at_a_time)
        click.echo(
            f"{shards} shards, {at_a_time} at a time: {time.monotonic() - began_s:.1f} s, "
            f"{job.started} processes started, {job.killed} of them killed with SIGKILL"
        )
        merge_s, peak_bytes = _time(folder, "--merge", f"part-*{suffix}", "--out", f"merged{suffix}")
        size = (folder / f"merged{suffix}").stat().st_size
        click.echo(f"merge: {merge_s:.1f} s for {size / 1e6:.0f} MB, peak memory {peak_bytes / 1e6:.0f} MB")
        if job.killed < kills:
            raise click.ClickException(f"only {job.killed} processes could be killed before they ended")
        for end in (suffix, f"{suffix}.summary.json"):
            if (folder / f"merged{end}").read_bytes() != (folder / f"whole{end}").read_bytes():
                raise click.ClickException(f"merged{end} differs from the undisturbed run's")
        click.echo("the merged file and its summary are byte for byte those of the undisturbed run")


if __name__ == "__main__":
    main()
