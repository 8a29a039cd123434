"""`digits-doctor` on machines that will serve, and on some that will not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from serving.config import PRETRAINED
from serving.repository.labels import Canary, Labels
from serving.repository.repository import Repository, StoredModel


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


@pytest.mark.parametrize(
    ("option", "subject"),
    [("--port", "address"), ("--http-port", "http address"), ("--metrics-port", "metrics address")],
)
def test_a_port_in_use_is_a_problem(examined: Callable, option: str, subject: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, found, _ = examined("--port", 0, option, taken.getsockname()[1], "--provider", "cpu")
    assert code == 1
    ((state, text),) = found[subject]
    assert state == "problem"
    assert "the port is in use" in text


def test_one_port_can_t_be_two(examined: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, found, _ = examined("--port", 0, "--http-port", port, "--metrics-port", port, "--provider", "cpu")
    assert code == 1
    assert [found[subject][0][0] for subject in ("address", "http address", "metrics address")] == [
        *("ok", "ok", "problem")
    ]


def test_only_ports_that_are_asked_for_are_looked_at(examined: Callable) -> None:
    code, found, _ = examined("--port", 0, "--provider", "cpu")
    assert code == 0
    assert len(found["address"]) == 1
    assert not {"http address", "metrics address", "security"} & found.keys()


def test_files_that_no_server_would_take_are_a_problem(examined: Callable, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("very-secret\n")
    code, found, printed = examined("--port", 0, "--provider", "cpu", "--token-file", tmp_path / "tokens")
    assert (code, found["security"]) == (0, [("ok", "a call needs a token")])
    assert "very-secret" not in printed
    _, found, _ = examined("--port", 0, "--host", "0.0.0.0", "--token-file", tmp_path / "tokens")
    ((state, text),) = found["security"]
    assert state == "note"
    assert "in plain text" in text
    options = "--tls-certificate", tmp_path / "tokens", "--tls-key", tmp_path / "tokens"
    code, found, printed = examined("--port", 0, "--provider", "cpu", *options)
    assert code == 1
    ((state, text),) = found["security"]
    assert state == "problem"
    assert "contains no complete certificate in PEM form" in text
    assert "very-secret" not in printed


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
    assert [state for state, _ in found["models"]] == ["note", "note"]
    ((state, text),) = found["serving"]
    assert state == "problem"
    assert text.count("sha256") == 2
    assert "cpu inference" not in found


def test_labels_are_told_and_those_that_point_nowhere(examined: Callable, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    shutil.copytree(PRETRAINED, repository.root)
    versions = repository.root / "mnist_convnet"
    for version in ("2", "3"):
        shutil.copytree(versions / "1", versions / version)
    options = "--port", 0, "--provider", "cpu", "--repository", repository.root
    code, found, _ = examined(*options)
    assert code == 0
    assert found["labels"] == [
        ("ok", "mnist_convnet: stable is the newest version that can be served, now version 3; no canary")
    ]
    repository.write_labels("mnist_convnet", Labels(stable=2, canary=Canary(version=3)))
    code, found, _ = examined(*options)
    assert code == 0
    ((state, text),) = found["labels"]
    assert state == "ok"
    assert "stable is version 2; canary is version 3 with 10 %" in text
    assert ["version 3" in text for _, text in found["cpu inference"]] == [False, True]
    with (versions / "3" / "model.onnx").open("r+b") as file:
        file.truncate(1000)
    repository.write_labels("mnist_convnet", Labels(stable=9, canary=Canary(version=3)))
    code, found, _ = examined(*options)
    assert code == 1
    assert ("note", "mnist_convnet: stable is version 9, which does not exist") in found["labels"]
    assert ("note", "mnist_convnet: canary is version 3, which can't be served") in found["labels"]
    (versions / "labels.json").write_text("{")
    code, found, _ = examined(*options)
    assert code == 1
    ((state, text),) = found["labels"]
    assert "labels.json: not JSON" in text
    ((state, text),) = found["serving"]
    assert state == "problem"
    assert "labels.json: not JSON" in text


# What lies in a repository (versions of two models, which of the first one are damaged, its labels), the options, and
# what is served of it, nothing where no server starts; and what is said of the rest where one does.
_REPOSITORIES = {
    "two models": ((2, 1), [], None, "", "mnist_convnet version 2, other version 1", ""),
    "one of two": ((2, 1), [], None, "--model other", "other version 1", ""),
    "a damaged newest version": ((3, 0), [3], None, "", "mnist_convnet version 2", "sha256 is"),
    "a damaged version that is asked for": ((3, 0), [3], None, "--model-version 3", "", ""),
    "requests that are too large": ((2, 0), [], None, "--max-batch-rows 3000000 --max-queue-rows 3000000", "", ""),
    "a canary": (
        (2, 0),
        [],
        Labels(stable=1, canary=Canary(version=2)),
        "",
        "mnist_convnet version 1 (canary 2, 10%)",
        "",
    ),
    "a damaged canary": (
        (2, 0),
        [2],
        Labels(canary=Canary(version=2)),
        "",
        "mnist_convnet version 1",
        "labels.json: canary: version 2 can't be served",
    ),
    "a canary that is not there": (
        (2, 0),
        [],
        Labels(canary=Canary(version=9)),
        "",
        "mnist_convnet version 2",
        "canary: no version 9; available: 1, 2",
    ),
    "a stable version that is not there": ((2, 0), [], Labels(stable=9), "", "", ""),
    "the same beside another model": (
        (2, 1),
        [],
        Labels(stable=9),
        "",
        "other version 1",
        "mnist_convnet: labels.json: stable: no version 9",
    ),
    "the same, asked for": ((2, 1), [], Labels(stable=9), "--model other --model mnist_convnet", "", ""),
    "the same, pinned": ((2, 0), [], Labels(stable=9), "--model-version 1", "mnist_convnet version 1", ""),
    "a version of which model?": ((1, 1), [], None, "--model-version 1", "", ""),
    "another model": ((1, 0), [], None, "--model nobody", "", ""),
    "nothing": ((0, 0), [], None, "", "", ""),
}


@pytest.mark.parametrize("case", _REPOSITORIES.values(), ids=_REPOSITORIES)
def test_it_says_what_the_server_does(
    case: tuple, examined: Callable, command: Callable, start_server: Callable, shipped: StoredModel, tmp_path: Path
) -> None:
    counts, damaged, labels, options, served, noted = case
    repository = Repository(tmp_path / "models")
    for name, count in zip(("mnist_convnet", "other"), counts, strict=True):
        for _ in range(count):
            repository.publish(shipped.content, dataclasses.replace(shipped.manifest, model_name=name))
    for version in damaged:
        with (repository.root / "mnist_convnet" / str(version) / "model.onnx").open("r+b") as file:
            file.truncate(1000)
    if labels:
        repository.write_labels("mnist_convnet", labels)
    asked = ["--repository", str(repository.root), "--provider", "cpu", *options.split()]
    code, found, printed = examined("--port", 0, *asked)
    states = [state for state, _ in found["serving"]]
    assert (code, "problem" in states) == ((0, False) if served else (1, True))
    if not served:
        done = command("digits-serve", "--port", 0, *asked, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        ((_, why),) = found["serving"]
        assert done.stderr.splitlines()[-1] == f"Error: {why}"
        return
    with start_server(*asked) as server:
        assert server.announcement.startswith(f"serving {served} on ")
    told = {text.split(" on ")[0].replace(": ", " ") for state, text in found["serving"] if "ExecutionProvider" in text}
    assert told == set(re.sub(r" \(.*\)", "", served).split(", "))
    if "canary" in served:
        assert "canary 2 with 10 % of the calls" in printed
    notes = [text for state, text in found["serving"] if state == "note"]
    assert bool(notes) == bool(noted)
    assert not noted or any(noted in text for text in notes)


def test_models_come_from_the_environment_too(
    examined: Callable, shipped: StoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path / "models")
    for name in ("one", "two", "three"):
        repository.publish(shipped.content, dataclasses.replace(shipped.manifest, model_name=name))
    monkeypatch.setenv("DIGITS_MODEL", "two one")
    monkeypatch.setenv("DIGITS_REPOSITORY", str(repository.root))
    code, found, _ = examined("--port", 0, "--provider", "cpu")
    assert code == 0
    assert [text for _, text in found["serving"]] == [
        "two: version 1 on CPUExecutionProvider",
        "one: version 1 on CPUExecutionProvider",
        "two answers calls that name no model",
    ]


def test_a_version_whose_warm_up_fails_is_not_the_one_that_it_names(
    examined: Callable, shipped: StoredModel, tmp_path: Path
) -> None:
    """Its digest holds; only a server that loads it can know."""
    repository = Repository(tmp_path / "models")
    repository.publish(shipped.content, shipped.manifest)
    model = onnx.load_from_string(shipped.content)
    last = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [1600, 10])
    last.CopyFrom(onnx.numpy_helper.from_array(np.full((1600, 10), np.nan, np.float32), last.name))
    content = model.SerializeToString()
    repository.publish(content, dataclasses.replace(shipped.manifest, sha256=hashlib.sha256(content).hexdigest()))
    code, found, _ = examined("--port", 0, "--provider", "cpu", "--repository", repository.root)
    assert code == 0
    assert [state for state, _ in found["models"]] == ["ok", "ok"]
    assert found["serving"][0] == ("ok", "mnist_convnet: version 1 on CPUExecutionProvider")
    assert ["in the warm-up are not finite" in text for _, text in found["serving"]] == [False, True, False]


def test_a_directory_without_models_is_a_problem(examined: Callable, tmp_path: Path) -> None:
    code, found, _ = examined("--port", 0, "--repository", tmp_path)
    assert code == 1
    assert found["serving"][0][0] == "problem"
    assert "no models here" in found["serving"][0][1]


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


def test_variables_without_effect_are_noted(examined: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_HTTP_PORT", "tcp://10.96.0.5:8000")
    monkeypatch.setenv("DIGITS_PROVIDR", "cpu")
    code, found, _ = examined("--port", 0)
    assert code == 0
    (_, ignored), (_, unknown) = found["variables"]
    assert ignored.startswith("ignored DIGITS_HTTP_PORT: Kubernetes")
    assert unknown == "unknown variable DIGITS_PROVIDR; did you mean DIGITS_PROVIDER?"
