"""`digits-doctor` on machines that will serve, and on some that will not."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.config import PRETRAINED
from serving.labels import Canary, Labels
from serving.repository import Repository


@pytest.fixture
def examined(command: Callable) -> Callable[..., tuple[int, dict[str, list[tuple[str, str]]], str]]:
    """Runs it; gives the exit code, state and text by subject, and all that was printed."""

    def run(*options: object, **settings: object) -> tuple[int, dict[str, list[tuple[str, str]]], str]:
        done = command("digits-doctor", "--json", *options, **settings)
        document = json.loads(done.stdout)
        assert document["serves"] == (done.returncode == 0)
        found: dict[str, list[tuple[str, str]]] = {}
        for finding in document["findings"]:
            found.setdefault(finding["subject"], []).append((finding["state"], finding["text"]))
        return done.returncode, found, done.stdout + done.stderr

    return run


def test_a_machine_that_will_serve(command: Callable) -> None:
    done = command("digits-doctor", "--port", "0", "--provider", "cpu", "--verbose")
    assert done.returncode == 0
    assert "this machine will serve" in done.stdout
    assert "mnist_convnet version 1: ready in" in done.stdout
    assert "onnxruntime version: " in done.stdout
    assert "problem" not in done.stdout


def test_a_port_in_use_is_a_problem(examined: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, found, _ = examined("--port", taken.getsockname()[1], "--provider", "cpu")
    assert code == 1
    ((state, text),) = found["address"]
    assert state == "problem"
    assert "the port is in use" in text


def test_a_damaged_version_is_a_problem_where_no_other_is_served(examined: Callable, tmp_path: Path) -> None:
    shutil.copytree(PRETRAINED, tmp_path / "models")
    versions = tmp_path / "models" / "mnist_convnet"
    shutil.copytree(versions / "1", versions / "2")
    with (versions / "1" / "model.onnx").open("r+b") as file:
        file.truncate(1000)
    options = "--port", 0, "--provider", "cpu", "--repository", tmp_path / "models"
    code, found, _ = examined(*options)
    assert code == 0
    assert [state for state, _ in found["models"]] == ["ok", "note"]
    with (versions / "2" / "model.onnx").open("r+b") as file:
        file.truncate(1000)
    code, found, _ = examined(*options)
    assert code == 1
    assert [state for state, _ in found["models"]] == ["problem", "problem"]
    assert "sha256" in found["models"][0][1]
    assert "cpu inference" not in found


def test_labels_are_told_and_those_that_point_nowhere_are_a_problem(examined: Callable, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    shutil.copytree(PRETRAINED, repository.root)
    versions = repository.root / "mnist_convnet"
    for version in ("2", "3"):
        shutil.copytree(versions / "1", versions / version)
    options = "--port", 0, "--provider", "cpu", "--repository", repository.root
    code, found, _ = examined(*options)
    assert code == 0
    assert found["labels"] == [
        ("ok", "mnist_convnet: stable is the newest that may be served, now version 3; no canary")
    ]
    repository.write_labels("mnist_convnet", Labels(stable=2, canary=Canary(version=3)))
    code, found, _ = examined(*options)
    assert code == 0
    ((state, text),) = found["labels"]
    assert state == "ok"
    assert "stable is version 2; canary is version 3 with 10 %" in text
    assert ["version 3" in text for _, text in found["cpu inference"]] == [True, False]
    with (versions / "3" / "model.onnx").open("r+b") as file:
        file.truncate(1000)
    repository.write_labels("mnist_convnet", Labels(stable=9, canary=Canary(version=3)))
    code, found, _ = examined(*options)
    assert code == 1
    assert ("problem", "mnist_convnet: stable is version 9, which is not there") in found["labels"]
    assert ("problem", "mnist_convnet: canary is version 3, which may not be served") in found["labels"]
    (versions / "labels.json").write_text("{")
    code, found, _ = examined(*options)
    assert code == 1
    ((state, text),) = found["labels"]
    assert state == "problem"
    assert "labels.json: not JSON" in text


def test_a_directory_without_models_is_a_problem(examined: Callable, tmp_path: Path) -> None:
    code, found, _ = examined("--port", 0, "--repository", tmp_path)
    assert code == 1
    assert found["models"][0][0] == "problem"


def test_cuda_that_is_asked_for_and_not_there_is_a_problem(examined: Callable) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    code, found, _ = examined("--port", 0, "--provider", "cuda")
    assert code == 1
    assert found["cuda"][0][0] == "problem"
    code, found, _ = examined("--port", 0)
    assert code == 0
    assert found["cuda"][0][0] == "note"


def test_no_secret_is_shown(examined: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_TOKEN", "very-secret")
    _, _, printed = examined("--port", 0, "--verbose")
    assert "DIGITS_TOKEN" in printed
    assert "very-secret" not in printed
