"""`digits-score --engine ray` on a real cluster on this machine; `make ray` runs it, CI does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet
import pytest
from pages import PAGES, ROOT, blocks
from PIL import Image
from ports import free_port

BIN = Path(sys.executable).parent
LIMIT_S = 240

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not os.environ.get("RAY_TESTS"), reason="heavy: make ray runs it"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """A cluster of three logical processors, bound to 127.0.0.1; its address and its first process."""
    # Else a token that Ray once left in the home directory decides whether the two sides understand each other.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    port = free_port()
    head = subprocess.Popen(
        [
            *(BIN / "ray", "start", "--head", "--block", "--port", str(port), "--num-cpus", "3", "--num-gpus", "0"),
            *("--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--disable-usage-stats"),
            *("--object-store-memory", "100000000"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    family = psutil.Process(head.pid)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not any("raylet" in child.name() for child in family.children(recursive=True)):
            assert time.monotonic() < deadline
            with pytest.raises(subprocess.TimeoutExpired):  # it must not end
                head.wait(0.2)
        yield f"127.0.0.1:{port}", family
    finally:
        started = family.children(recursive=True)
        head.terminate()
        try:
            head.wait(60)  # after Ray Data it takes half a minute
        finally:
            for process in started:
                if process.is_running():
                    process.kill()


def _workers(family: psutil.Process) -> list[psutil.Process]:
    return [child for child in family.children(recursive=True) if child.name().startswith("ray::LocalClas")]


def test_with_a_worker_killed_the_output_is_that_of_a_run_without_ray(
    cluster: tuple[str, psutil.Process], command: Callable, tmp_path: Path, digits: tuple
) -> None:
    address, family = cluster
    np.save(tmp_path / "digits.npy", np.resize(digits[0][..., 0], (40_000, 28, 28)))
    sizes = ("--batch-rows", "100", "--part-rows", "1000", "--probabilities")
    alone = command("digits-score", "digits.npy", "--local", "--out", "alone.csv", *sizes, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    on_ray = [BIN / "digits-score", "digits.npy", "--engine", "ray", "--address", address, *sizes]
    run = subprocess.Popen([*on_ray, "--out", "ray.csv"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "ray.csv.parts" / "journal.jsonl"
    deadline = time.monotonic() + LIMIT_S
    while not journal.exists() or journal.read_text().count("\n") < 4:
        assert time.monotonic() < deadline
        try:
            run.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended: {run.communicate()}")
    workers = _workers(family)
    assert len(workers) == 2  # one processor is left to Ray
    workers[0].kill()
    _, stderr = run.communicate(timeout=LIMIT_S)
    assert run.returncode == 0, stderr
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


def test_a_run_without_ray_resumes_a_run_with_ray_that_was_killed(
    cluster: tuple[str, psutil.Process], command: Callable, tmp_path: Path, digits: tuple
) -> None:
    address, _ = cluster
    (tmp_path / "scans").mkdir()
    for number in range(300):
        Image.fromarray(digits[0][number, :, :, 0]).save(tmp_path / "scans" / f"{number:03d}.png")
    (tmp_path / "scans" / "bad.png").write_text("no image")
    begin = [
        *(BIN / "digits-score", "scans", "--local", "--out", "s.csv", "--batch-rows", "10", "--part-rows", "20"),
        *("--engine", "ray", "--address", address),
    ]
    run = subprocess.Popen(begin, cwd=tmp_path, stdout=subprocess.DEVNULL)
    journal = tmp_path / "s.csv.parts" / "journal.jsonl"
    deadline = time.monotonic() + LIMIT_S
    while not journal.exists():
        assert time.monotonic() < deadline
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.005)
    run.kill()
    run.wait()
    sizes = ("--batch-rows", "10", "--part-rows", "20")
    done = command("digits-score", "scans", "--local", "--out", "s.csv", "--resume", *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "301 images, 1 without an answer" in done.stdout
    whole = command("digits-score", "scans", "--local", "--out", "whole.csv", *sizes, cwd=tmp_path)
    assert whole.returncode == 0
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_ray_data_takes_the_classifier_as_the_page_says(
    cluster: tuple[str, psutil.Process], command: Callable, tmp_path: Path
) -> None:
    (example,) = [block for _, block in blocks(PAGES["docs/scoring.md"]) if block.startswith("import ray")]
    shutil.copytree(ROOT / "serving" / "samples", tmp_path / "scans")
    (tmp_path / "example.py").write_text(example.replace("/data", str(tmp_path)))
    environment = {**os.environ, "RAY_ADDRESS": cluster[0]}
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
    made = pyarrow.parquet.read_table(tmp_path / "answers").to_pylist()
    scored = command("digits-score", "scans", "--local", "--out", "scores.parquet", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    rows = pyarrow.parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(made) == len(rows) == 10
    by_name = {Path(row.pop("path")).name: row for row in made}
    assert by_name == {Path(row.pop("id")).name: row for row in rows}


def test_a_cluster_that_does_not_exist_is_reported(command: Callable, tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", np.zeros((3, 28, 28), np.uint8))
    arguments = ("digits-score", "digits.npy", "--engine", "ray", "--address", "127.0.0.1:1")
    done = command(*arguments, "--out", "s.csv", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["Error: Ray: [Errno 111] Connection refused"]


def test_without_an_address_it_starts_a_cluster_of_its_own_and_ends_it(
    command: Callable, tmp_path: Path, digits: tuple
) -> None:
    np.save(tmp_path / "digits.npy", digits[0])
    assert command("digits-score", "digits.npy", "--local", "--out", "alone.csv", cwd=tmp_path).returncode == 0
    before = {process.pid for process in psutil.process_iter() if "raylet" in process.name()}
    ray = ("digits-score", "digits.npy", "--engine", "ray", "--actors", 1, "--out", "ray.csv")
    done = command(*ray, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    assert {process.pid for process in psutil.process_iter() if "raylet" in process.name()} <= before
