"""A trained network, its data and its ONNX file, made once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trained(synthetic_run: Path):
    from export.trained_model import load_trained

    return load_trained(synthetic_run / "model.keras")


@pytest.fixture(scope="session")
def content(trained) -> bytes:
    from export.convert import convert

    return convert(trained, model_name="drawn")


@pytest.fixture(scope="session")
def data():
    from training.datasets import load

    return load("synthetic")
