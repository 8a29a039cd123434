"""`digits-export --precision int8`, and a server that runs what it published."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from export.quantisation.quantise import quantise
from serving.client import Client
from serving.errors import ModelRejected
from serving.inference.processors import int8_kernels
from serving.repository.repository import Repository
from training.datasets import Dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(int8_kernels() == (platform.machine(),), reason="this processor has no instruction for int8"),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, digits_export: Callable[..., Result]) -> Path:
    root = tmp_path_factory.mktemp("models")
    done = digits_export("--repository", root, "--precision", "int8")
    assert done.exit_code == 0, done.output
    assert f"published {root / 'mnist_convnet' / '1'}" in done.output
    assert f"with {int8_kernels()[0]}" in done.output
    return root


def test_both_precisions_are_in_one_version(published: Path) -> None:
    files = {path.name for path in (published / "mnist_convnet" / "1").iterdir()}
    assert files == {"model.onnx", "model.int8.onnx", "manifest.json"}
    stored = Repository(published).load("mnist_convnet", 1)
    (figures,) = stored.manifest.precisions["int8"].proven.values()
    assert (figures.passed, figures.images, figures.labels_equal) == (True, 1000, 1000)
    assert len(stored.precisions["int8"]) < len(stored.content)


def test_int8_is_added_to_a_version_in_float32(published: Path, digits_export: Callable, tmp_path: Path) -> None:
    version = tmp_path / "mnist_convnet" / "1"
    shutil.copytree(published / "mnist_convnet" / "1", version)
    (version / "model.int8.onnx").unlink()
    repository = Repository(tmp_path)
    manifest = repository.read_manifest("mnist_convnet", 1)
    repository.replace_manifest(1, type(manifest)(**{**vars(manifest), "precisions": {}}))
    before = (version / "model.onnx").read_bytes()
    missing = digits_export("--repository", tmp_path, "--precision", "int8", "--verify", 1)
    assert missing.exit_code == 1
    assert "has no int8; the same command with --precision int8 and without --verify adds it" in missing.output
    done = digits_export("--repository", tmp_path, "--precision", "int8")
    assert f"added int8 to {version}" in done.output
    assert (version / "model.onnx").read_bytes() == before
    assert repository.load("mnist_convnet", 1).precisions.keys() == {"int8"}
    again = digits_export("--repository", tmp_path, "--precision", "int8")
    assert again.stdout == f"already published as {version}\n"
    verified = digits_export("--repository", tmp_path, "--precision", "int8", "--verify", 1)
    assert f"verified int8 of {version}" in verified.output


def test_nothing_is_published_if_int8_answers_otherwise(
    digits_export: Callable, tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quantisation gets images that are nearly black in place of the training images."""
    from export import int8

    monkeypatch.setattr(int8, "quantise", lambda exact, images: quantise(exact, images // 100))
    done = digits_export("--repository", tmp_path, "--precision", "int8")
    assert done.exit_code == 1
    assert "int8 not proven" in done.output
    assert "labels differ: 0 may; nothing published; without --precision int8 it is published in float32" in done.output
    assert "  float32 " in done.output  # the changed labels
    assert not (tmp_path / "mnist_convnet").exists()


def test_int8_is_for_cpus(digits_export: Callable, tmp_path: Path) -> None:
    done = digits_export("--repository", tmp_path, "--precision", "int8", "--provider", "cuda")
    assert done.exit_code == 2
    assert "runs on the CPU only" in done.output


def test_a_server_answers_in_int8_with_the_same_labels(published: Path, data: Dataset, start_server: Callable) -> None:
    answers = {}
    for precision in ("float32", "int8", "auto"):
        with start_server("--repository", str(published), "--precision", precision) as server:
            assert server.announcement.endswith(" in int8\n") == (precision != "float32")
            with Client(server.address) as client:
                assert client.get_model().precision == ("float32" if precision == "float32" else "int8")
                answers[precision] = client.classify(data.test_images, probabilities=True)
    assert (answers["int8"].labels == answers["float32"].labels).all()
    assert 0 < abs(answers["int8"].probabilities - answers["float32"].probabilities).max() < 0.1
    assert (answers["auto"].probabilities == answers["int8"].probabilities).all()


def test_a_tampered_file_is_refused(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "models")
    file = tmp_path / "models" / "mnist_convnet" / "1" / "model.int8.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelRejected, match=r"model\.int8\.onnx: sha256 is .*the file was changed or damaged"):
        Repository(tmp_path / "models").load("mnist_convnet", 1)
    file.unlink()
    with pytest.raises(ModelRejected, match=r"model\.int8\.onnx: No such file"):
        Repository(tmp_path / "models").load("mnist_convnet", 1)
