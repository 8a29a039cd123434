"""Which precision a version runs in: what is asked for, or the fastest that was proven for this processor."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from serving.config import PRETRAINED, EngineConfig
from serving.errors import InvalidConfig, ModelRejected
from serving.inference.processors import int8_kernels
from serving.repository.engines import start_engine
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository, StoredModel
from serving.repository.verification import verify


@pytest.fixture(scope="module")
def both() -> StoredModel:
    """The shipped model in both precisions."""
    return Repository(PRETRAINED).load("mnist_convnet", 1)


def _proven_on(stored: StoredModel, kernels: str, *, passed: bool = True) -> StoredModel:
    described = stored.manifest.precisions["int8"]
    (figures,) = described.proven.values()
    proven = {kernels: dataclasses.replace(figures, passed=passed)}
    precisions = {"int8": dataclasses.replace(described, proven=proven)}
    return dataclasses.replace(stored, manifest=dataclasses.replace(stored.manifest, precisions=precisions))


@pytest.mark.parametrize(("asked", "runs_in"), [("auto", "int8"), ("int8", "int8"), ("float32", "float32")])
def test_int8_runs_where_it_was_proven(both: StoredModel, asked: str, runs_in: str) -> None:
    stored = _proven_on(both, int8_kernels()[-1])
    engine, precision = start_engine(stored, EngineConfig(precision=asked))
    assert precision == runs_in
    assert engine.provider == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("kernels", "passed", "says"), [("other_dot", True, "proven on other_dot"), ("", False, "proven on no processor")]
)
def test_auto_runs_in_float32_where_it_was_not(
    both: StoredModel, caplog: pytest.LogCaptureFixture, kernels: str, passed: bool, says: str
) -> None:
    stored = _proven_on(both, kernels or int8_kernels()[0], passed=passed)
    with caplog.at_level(logging.INFO, "serving.repository.engines"):
        _, precision = start_engine(stored, EngineConfig(precision="auto"))
    assert precision == "float32"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "serving.repository.engines"]
    assert says in line
    assert int8_kernels()[0] in line
    with pytest.raises(ModelRejected, match=f"{says}.*digits-export --verify with --precision int8 proves it here"):
        start_engine(stored, EngineConfig(precision="int8"))


def test_float32_runs_where_there_is_nothing_else(shipped: StoredModel) -> None:
    assert start_engine(shipped, EngineConfig(precision="auto"))[1] == "float32"
    with pytest.raises(ModelRejected, match="has no int8; digits-export --precision int8 makes one"):
        start_engine(shipped, EngineConfig(precision="int8"))


def test_verifying_runs_int8_too(both: StoredModel) -> None:
    assert verify(both, EngineConfig(), precision="int8") == "CPUExecutionProvider"
    broken = dataclasses.replace(both, precisions={"int8": b"no model"})
    with pytest.raises(ModelRejected, match="not an ONNX file"):
        verify(broken, EngineConfig(), precision="int8")


def test_int8_never_runs_on_cuda() -> None:
    with pytest.raises(InvalidConfig, match="int8 runs on the CPU only"):
        EngineConfig(precision="int8", provider="cuda")


def test_manifests_without_other_precisions_stay_readable_for_older_servers(both: StoredModel) -> None:
    alone = dataclasses.replace(both.manifest, precisions={})
    assert '"precisions"' not in alone.to_json()
    assert Manifest.from_json(alone.to_json()) == alone
    assert Manifest.from_json(both.manifest.to_json()) == both.manifest


def test_an_unknown_precision_is_refused(both: StoredModel) -> None:
    text = both.manifest.to_json().replace('"int8": {', '"../../x": {')
    with pytest.raises(ModelRejected, match=r"precisions: '\.\./\.\./x' is unknown"):
        Manifest.from_json(text)


def test_what_is_published_without_its_file_is_not_in_the_manifest(both: StoredModel, tmp_path) -> None:
    repository = Repository(tmp_path)
    repository.publish(both.content, both.manifest)
    assert repository.load("mnist_convnet", 1).manifest.precisions == {}
    repository.publish(both.content, both.manifest, both.precisions)
    assert repository.load("mnist_convnet", 2).precisions == both.precisions
