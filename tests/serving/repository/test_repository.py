"""The model repository and its manifests: only whole and sound versions go in or come out."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest

from serving.errors import ModelNotFound, ModelRejected, RepositoryError
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository, StoredModel


@pytest.fixture
def repository(tmp_path: Path, shipped: StoredModel) -> Repository:
    """A repository with one version of the shipped model."""
    made = Repository(tmp_path / "models")
    assert made.publish(shipped.content, shipped.manifest) == 1
    return made


def _manifest_file(repository: Repository, version: int = 1) -> Path:
    return repository.root / "mnist_convnet" / str(version) / "manifest.json"


def test_what_is_published_is_what_is_loaded(repository: Repository, shipped: StoredModel) -> None:
    stored = repository.load("mnist_convnet", 1)
    assert stored.content == shipped.content
    assert stored.manifest == shipped.manifest
    assert Manifest.from_json(stored.manifest.to_json()) == stored.manifest


def test_the_newest_version_of_the_only_model_is_the_default(repository: Repository, shipped: StoredModel) -> None:
    for _ in range(10):
        repository.publish(shipped.content, shipped.manifest)
    assert repository.choose() == ("mnist_convnet", 11)
    assert repository.choose("mnist_convnet", 2) == ("mnist_convnet", 2)


def test_what_could_not_be_served_is_not_published(repository: Repository, shipped: StoredModel) -> None:
    numbers = dataclasses.replace(shipped.manifest, labels=tuple(range(10)))
    with pytest.raises(ModelRejected, match=r"labels\[0\] must be a string"):
        repository.publish(shipped.content, numbers)
    assert repository.versions("mnist_convnet") == [1]


def test_concurrent_exporters_get_a_version_each(repository: Repository, shipped: StoredModel) -> None:
    versions: list[int] = []
    threads = [
        threading.Thread(target=lambda: versions.append(repository.publish(shipped.content, shipped.manifest)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(2, 10))
    assert repository.versions("mnist_convnet") == list(range(1, 10))
    for version in versions:
        repository.load("mnist_convnet", version)


def test_half_a_version_is_never_seen(repository: Repository, shipped: StoredModel) -> None:
    """A reader that looks all the while finds each version whole."""
    stop, seen = threading.Event(), set()

    def look() -> None:
        while not stop.is_set():
            for version in repository.versions("mnist_convnet"):
                repository.load("mnist_convnet", version)
                seen.add(version)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(20):
            repository.publish(shipped.content, shipped.manifest)
    finally:
        stop.set()
        reader.join()
    assert 1 in seen
    assert not [path for path in (repository.root / "mnist_convnet").iterdir() if path.name.startswith(".")]


def test_a_changed_model_file_is_rejected(repository: Repository) -> None:
    model = repository.root / "mnist_convnet" / "1" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(ModelRejected, match=r"model\.onnx: sha256 is .* but the manifest says"):
        repository.load("mnist_convnet", 1)


def test_a_model_without_passed_parity_is_rejected(repository: Repository, shipped: StoredModel) -> None:
    failed = {name: dataclasses.replace(figures, passed=False) for name, figures in shipped.manifest.parity.items()}
    for parity in ({}, failed):
        repository.replace_manifest(1, dataclasses.replace(shipped.manifest, parity=parity))
        with pytest.raises(ModelRejected, match="no passed parity check"):
            repository.load("mnist_convnet", 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("labels"), "labels is missing"),
        (lambda d: d.update(labels="0123"), "labels must be a list"),
        (lambda d: d.update(labels=[1, 2]), "labels[0] must be a string"),
        (lambda d: d.update(labels=["a", "a"]), "labels must be at least two, and all different"),
        (lambda d: d.update(sha256="abc"), "sha256 is not a SHA-256 digest"),
        (lambda d: d.update(extra=1), "extra is not a known field"),
        (lambda d: d.update(format=2), "format 2 is not supported"),
        (lambda d: d.update(input=[]), "input: must be an object"),
        (lambda d: d["input"].update(height=True), "input: height must be an integer"),
        (lambda d: d["input"].update(height=0), "input.height must be between 1 and 16384"),
        (lambda d: d["input"].update(height=10**30), "height is too large"),
        (lambda d: d["input"].update(channels=2), "input.channels must be 1 or 3"),
        (lambda d: d["accuracy"].update(onnx=float("nan")), "onnx must be finite"),
        (lambda d: d["accuracy"].update(onnx=10**400), "onnx is too large"),
        (lambda d: d.update(labels=["\ud800", "b"]), "half of a surrogate pair"),
        (lambda d: d["input"].update(preparation="magic"), "input.preparation must be one of mnist, resize"),
        (lambda d: d["parity"]["CPUExecutionProvider"].update(passed="yes"), "passed must be true or false"),
        (lambda d: d.update(calibration={"temperature": 2, "images": 1, "error_before": 0}), "error_after is missing"),
        (
            lambda d: d.update(calibration={"temperature": 0, "images": 1, "error_before": 0, "error_after": 0}),
            "calibration.temperature must be between",
        ),
        (lambda d: d.update(model_name="another"), "describes the model 'another'"),
    ],
)
def test_a_wrong_manifest_is_rejected_with_the_field(repository: Repository, change, said: str) -> None:
    file = _manifest_file(repository)
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(ModelRejected) as rejected:
        repository.load("mnist_convnet", 1)
    assert said in str(rejected.value)
    assert str(file) in str(rejected.value)


def test_a_manifest_from_before_calibration_has_the_temperature_one(repository: Repository) -> None:
    file = _manifest_file(repository)
    document = json.loads(file.read_text())
    document.pop("calibration", None)
    file.write_text(json.dumps(document))
    assert repository.load("mnist_convnet", 1).manifest.calibration.temperature == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000])
def test_a_manifest_that_is_not_a_json_object_is_rejected(repository: Repository, content: bytes) -> None:
    _manifest_file(repository).write_bytes(content)
    with pytest.raises(ModelRejected, match=r"manifest\.json"):
        repository.load("mnist_convnet", 1)


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
def test_a_missing_file_is_named(repository: Repository, file: str) -> None:
    (_manifest_file(repository).parent / file).unlink()
    with pytest.raises(ModelRejected, match=f"{file}: No such file"):
        repository.load("mnist_convnet", 1)


def test_an_empty_or_absent_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="absent: not a model repository"):
        Repository(tmp_path / "absent").choose()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "m" / "half").mkdir(parents=True)
    with pytest.raises(RepositoryError, match="no models here"):
        Repository(tmp_path).choose()
    (tmp_path / "m" / "1").mkdir()
    (tmp_path / "n" / "1").mkdir(parents=True)
    with pytest.raises(RepositoryError, match=r"several models \(m, n\)"):
        Repository(tmp_path).choose()


def test_an_absent_model_or_version_lists_what_is_there(repository: Repository) -> None:
    with pytest.raises(ModelNotFound, match="no model 'other'; available: mnist_convnet"):
        repository.choose("other")
    with pytest.raises(ModelNotFound, match="no version 7; available: 1"):
        repository.choose("mnist_convnet", 7)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "x" * 10_000, "ziffer\n"])
def test_names_stay_inside_the_repository(repository: Repository, name: str) -> None:
    with pytest.raises(ModelNotFound):
        repository.versions(name)


def test_an_unwritable_repository_is_named(tmp_path: Path, shipped: StoredModel) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(RepositoryError, match="models"):
        Repository(tmp_path / "models").publish(shipped.content, shipped.manifest)
