"""What `digits-train` and `digits-export` answer without importing TensorFlow or Keras, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving import __version__
from training.architectures import ARCHITECTURES

# Runs each command with both packages blocked and prints exit codes and outputs.
PROGRAM = """
import json, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from click.testing import CliRunner
from export.__main__ import main as digits_export
from training.__main__ import main as digits_train
results = []
for name, *arguments in json.load(sys.stdin):
    command = digits_train if name == "digits-train" else digits_export
    result = CliRunner().invoke(command, arguments, prog_name=name)
    results.append((result.exit_code, result.output))
print(json.dumps(results))
"""

CASES = {
    ("digits-train", "--list"): (0, "mnist_convnet          34,826  28 x 28 x 1"),
    ("digits-train", "--version"): (0, f"digits-train, version {__version__}\n"),
    ("digits-train", "--help"): (0, "Examples:\n  digits-train --list\n"),
    ("digits-train", "summary", "--help"): (0, "Examples:\n  digits-train summary mnist_convnet\n"),
    ("digits-train", "report", "--help"): (0, "Examples:\n  digits-train report runs/first\n"),
    ("digits-train", "--architecture", "nope"): (2, "'nope' is not one of 'mnist_convnet', 'fully_connected'"),
    ("digits-train", "--recipe", "magic"): (2, "'published', 'fast'"),
    ("digits-train", "--data", "cifar"): (2, "'cifar' is not one of mnist, synthetic, mnist-odd-even"),
    ("digits-train", "--data-dir", "/nowhere"): (2, "does not exist"),
    ("digits-train", "--image-size", "28x28"): (2, "neither 'own' nor like 128x128x3"),
    ("digits-train", "--epochs", "0"): (2, "0 is not in the range x>=1"),
    ("digits-train", "--wrong"): (2, "No such option"),
    ("digits-train", "--data", "folder:/nowhere"): (1, "Error: /nowhere: No such file or directory\n"),
    ("digits-train", "--data", "mnist", "--data-dir", "/"): (1, "neither train-images-idx3-ubyte nor"),
    ("digits-train", "--data", "synthetic", "--teacher", __file__): (2, "the recipe fast has no teacher"),
    ("digits-train", "summary", "nope"): (1, "Error: nope: neither a file nor one of mnist_convnet, fully_connected"),
    **{
        ("digits-train", "summary", name): (0, f"parameters: {architecture.parameters:,}")
        for name, architecture in ARCHITECTURES.items()
    },
    ("digits-export", "--version"): (0, f"digits-export, version {__version__}\n"),
    ("digits-export", "--help"): (0, "Examples:\n  digits-export runs/first/model.keras --repository models\n"),
    ("digits-export", "--wrong"): (2, "No such option"),
    ("digits-export", "nope.keras", "--repository", "models"): (2, "Invalid value for MODEL: nope.keras: no such file"),
    ("digits-export", __file__): (2, "Missing option '--repository'"),
    ("digits-export", __file__, "--repository", "models", "--share", "0.1"): (2, "--share needs --label canary"),
    # Before TensorFlow is imported: what a run would do, and that it would replace another.
    ("digits-train", "--data", "synthetic", "--limit", "5"): (1, "5 training images are too few to hold out 10%"),
    ("digits-train", "--data", "synthetic", "--limit", "500", "--epochs", "1", "--seeds", "3"): (
        1, "training mnist_convnet on 450 images of synthetic, 1 epoch, 3 times\n"
    ),
    ("digits-train", "--out", "earlier"): (1, "Error: earlier: holds a run already; choose another --out, or add"),
    ("digits-train", "--out", "several", "--seeds", "3"): (1, "Error: several/seed-1: holds a run already"),
    ("digits-train", "--out", "pupil", "--recipe", "accurate"): (1, "Error: pupil/teacher: holds a run already"),
    ("digits-train", "--data", "synthetic", "--limit", "90", "--out", "earlier", "--overwrite"): (
        1, "training mnist_convnet on 81 images of synthetic, 4 epochs\n"
    ),
    # What does need TensorFlow says so, and how to install it.
    ("digits-export", __file__, "--repository", "models"): (1, "pip install '.[train,cpu]'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[int, str]]:
    start = tmp_path_factory.mktemp("start")
    for earlier in ("earlier/metrics.json", "several/seed-1/model.keras", "pupil/teacher/model.keras"):
        (start / earlier).parent.mkdir(parents=True)
        (start / earlier).touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(CASES)),
        cwd=start,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_it_is_answered_without_tensorflow(case: tuple[str, ...], results: dict) -> None:
    code, said = CASES[case]
    assert said in results[case][1]
    assert results[case][0] == code


def test_the_list_names_the_whole_catalogue(results: dict) -> None:
    listed = results["digits-train", "--list"][1]
    assert [line.split()[0] for line in listed.splitlines()] == list(ARCHITECTURES)


def test_a_terminal_that_is_not_utf_8_shows_a_summary() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", "summary", "mnist_convnet"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"parameters: 34,826" in done.stdout


def test_the_help_shows_no_ranges(results: dict) -> None:
    for name in ("digits-train", "digits-export"):
        assert "x>=" not in results[name, "--help"][1]
        assert "RANGE" not in results[name, "--help"][1]
