"""`digits-score` while models change: it keeps the version that it started with, or each row names its version."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client

COUNT = 6_000
SIZES = ("--batch-rows", "250", "--part-rows", "500")  # a batch is three requests, since servers take 100 images

Score = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 [n, 28, 28, 1], of all shades."""
    drawn = np.random.default_rng(5).integers(0, 100, COUNT)
    return np.broadcast_to(drawn[:, None, None, None], (COUNT, 28, 28, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def said(running_rollout, images: np.ndarray) -> dict[int, np.ndarray]:
    """The label names that each version answers with when its own server is asked."""
    names = {}
    for version in (1, 2, 5):
        with Client(running_rollout.servers[version]) as client:
            answer = client.classify(images)
        names[version] = np.array(answer.label_names)[answer.labels]
    assert (names[1] != names[5]).mean() > 0.5
    return names


@pytest.fixture
def score(rollout, command: Callable, tmp_path: Path, images: np.ndarray) -> Score:
    np.save(tmp_path / "images.npy", images)

    def run(*options: object, target: str = rollout.address) -> subprocess.CompletedProcess[str]:
        arguments = ("images.npy", "--out", "scores.csv", "--target", target, *SIZES, *options)
        return command("digits-score", *arguments, cwd=tmp_path)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[], list[dict[str, str]]]:
    def read() -> list[dict[str, str]]:
        with (tmp_path / "scores.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return read


def _check(rows: list[dict[str, str]], said: dict[int, np.ndarray], version: int) -> None:
    assert {row["model_version"] for row in rows} == {str(version)}
    assert [row["name"] for row in rows] == said[version].tolist()


def test_requests_name_the_current_version_so_that_no_canary_answers(
    rollout, score: Score, rows: Callable, said: dict
) -> None:
    rollout.take_turns(2, 1, 5)
    done = score()
    assert done.returncode == 0, done.stderr
    _check(rows(), said, 1)
    assert set(rollout.asked("Classify")) == {1}
    done = score("--model-version", 5, "--overwrite")
    assert done.returncode == 0, done.stderr
    _check(rows(), said, 5)


def test_a_run_does_not_switch_to_a_version_that_becomes_current(
    rollout, score: Score, rows: Callable, said: dict
) -> None:
    rollout.before = lambda *_: len(rollout.asked("Classify")) == 20 and setattr(rollout, "stable", 2)
    done = score()
    assert done.returncode == 0, done.stderr
    assert rollout.stable == 2
    _check(rows(), said, 1)


def test_a_run_stops_when_its_version_is_unloaded_and_resumes_once_it_is_served_again(
    rollout, score: Score, rows: Callable, said: dict, tmp_path: Path
) -> None:
    rollout.before = lambda *_: len(rollout.asked("Classify")) == 40 and rollout.replace(1, 2)
    done = score()
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert f"{rollout.address}: shades version 2 (" in line
    assert "came up in place of version 1 (" in line
    assert "--resume continues once that version is served again" in line
    assert "Traceback" not in done.stderr
    kept = (tmp_path / "scores.csv.parts" / "part-000000000000.csv").read_bytes()
    done = score("--resume")
    assert done.returncode == 1
    assert "scores.csv: started with shades version 1, which is not available" in done.stderr
    rollout.loaded.add(1)
    rollout.calls.clear()
    rollout.before = lambda *_: None
    done = score("--resume")
    assert done.returncode == 0, done.stderr
    assert 0 < len(rollout.asked("Classify")) < COUNT / 250 * 3
    _check(rows(), said, 1)
    assert (tmp_path / "scores.csv").read_bytes().endswith(b"\n")
    assert kept.splitlines()[1] in (tmp_path / "scores.csv").read_bytes()


def test_mixed_every_row_names_the_version_that_answered(rollout, score: Score, rows: Callable, said: dict) -> None:
    """The fifth version has the same labels as the first one, but other answers."""
    rollout.take_turns(1, 5, 1)
    done = score("--mix-models", "--probabilities")
    assert done.returncode == 0, done.stderr
    found = rows()
    versions = np.array([int(row["model_version"]) for row in found])
    assert set(versions) == {1, 5}
    assert [row["name"] for row in found] == np.where(versions == 1, said[1], said[5]).tolist()
    assert len({tuple(batch) for batch in versions.reshape(-1, 250)} | {(1,) * 250, (5,) * 250}) == 2
    assert all(row[f"probability_{row['name']}"] == row["confidence"] for row in found)
    assert len(rollout.asked("GetModel")) <= 1 + 2 * 3  # once, and by each stream for each version


def test_mixed_a_version_may_be_unloaded_within_a_batch(rollout, score: Score, rows: Callable, said: dict) -> None:
    def unload(method: str, version: int) -> None:
        if version and method == "Classify" and len(rollout.asked("Classify")) > 30:
            rollout.replace(1, 5)

    rollout.before = unload
    done = score("--mix-models")
    assert done.returncode == 0, done.stderr
    found = rows()
    versions = np.array([int(row["model_version"]) for row in found])
    assert set(versions) == {1, 5}
    assert [row["name"] for row in found] == np.where(versions == 1, said[1], said[5]).tolist()


def test_mixed_a_version_with_other_labels_or_sizes_stops_the_run(rollout, score: Score) -> None:
    rollout.take_turns(1, 2)
    done = score("--mix-models")
    assert done.returncode == 1
    assert "shades version 2 (" in done.stderr
    assert "came up, with labels, image size or preparation that differ" in done.stderr
    rollout.take_turns(1, 4)
    done = score("--mix-models", "--overwrite")
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: raw_images.height: 28, but the model has 14" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_without_the_version_that_others_serve_is_refused(rollout, score: Score) -> None:
    done = score("--target", rollout.servers[2])
    assert done.returncode == 1
    assert f"{rollout.servers[2]}: NOT_FOUND: no version 1 of 'shades' is served here, only 2" in done.stderr
