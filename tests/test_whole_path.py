"""The spine: train, export with proof, serve, classify; every label over gRPC must be Keras's own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from training.datasets import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CALLERS = 16


def _classify_concurrently(address: str, images: np.ndarray) -> np.ndarray:
    """Labels of all images, asked for by 16 concurrent callers in batches of mixed sizes and mixed order."""
    generator = random.Random(0)
    spans, start = [], 0
    while start < len(images):
        size = generator.choice([1, 1, 2, 7, 33, 64, 200])
        spans.append((start, min(start + size, len(images))))
        start += size
    generator.shuffle(spans)
    labels = np.full(len(images), -1)
    failures: list[Exception] = []

    def caller(mine: list[tuple[int, int]]) -> None:
        try:
            with Client(address) as client:
                for begin, end in mine:
                    labels[begin:end] = client.classify(images[begin:end], timeout_s=60).labels
        except Exception as error:  # noqa: BLE001 - reported by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=caller, args=(spans[number::CALLERS],)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    return labels


def _serve_and_compare(run: Path, root: Path, images: np.ndarray, start_server: Callable) -> None:
    """Every label that the server gives must be the one that Keras gives."""
    from export.trained_model import load_trained

    _, probabilities = load_trained(run / "model.keras").predict(images)
    with start_server("--repository", str(root)) as server:
        labels = _classify_concurrently(server.address, images)
        code, stderr = server.stop()
    assert code == 0, stderr
    assert np.array_equal(labels, probabilities.argmax(axis=1))


def test_drawn_digits_from_training_to_answers(
    synthetic_run: Path, tmp_path: Path, command: Callable, start_server: Callable
) -> None:
    root = tmp_path / "models"
    exported = command("digits-export", synthetic_run / "model.keras", "--repository", root)
    assert (exported.returncode, exported.stderr) == (0, "")
    _serve_and_compare(synthetic_run, root, load("synthetic").test_images, start_server)


@pytest.mark.mnist
def test_make_train_export_on_mnist(mnist_dir: Path, tmp_path: Path, start_server: Callable) -> None:
    """The command that made the shipped model, which takes a longer recipe."""
    run, root = tmp_path / "run", tmp_path / "models"
    made = subprocess.run(
        ["make", "train", "export", f"RUN={run}", f"REPOSITORY={root}"],
        cwd=ROOT,
        env={**os.environ, "MNIST_DIR": str(mnist_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert made.returncode == 0, made.stderr
    assert "10,000 of 10,000" in made.stdout
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["parameters"] == 34_826
    assert metrics["test"]["accuracy"] >= 0.99
    figures = json.loads((root / "mnist_convnet" / "1" / "manifest.json").read_text())["parity"]["CPUExecutionProvider"]
    assert figures["labels_equal"] == figures["images"] == 10_000
    assert figures["probabilities_max_difference"] <= 1e-5
    _serve_and_compare(run, root, load("mnist", data_dir=mnist_dir).test_images, start_server)


@pytest.mark.mnist
def test_the_shipped_model_is_as_good_as_its_manifest_says(mnist_dir: Path, server, shipped) -> None:
    data = load("mnist", data_dir=mnist_dir)
    assert shipped.manifest.training["data"]["sha256"] == data.sha256
    accuracy = (_classify_concurrently(server.address, data.test_images) == data.test_labels).mean()
    assert accuracy == pytest.approx(shipped.manifest.accuracy.onnx, abs=1e-9)
    assert accuracy >= 0.993
