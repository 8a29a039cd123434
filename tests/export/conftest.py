"""A trained network, its data and its ONNX file, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result


@pytest.fixture(scope="session")
def digits_export(synthetic_run: Path) -> Callable[..., Result]:
    """Runs the command in this process: starting TensorFlow anew for each would take most of the time."""
    from export.__main__ import main

    def run(*arguments: object, model: Path = synthetic_run / "model.keras") -> Result:
        return CliRunner().invoke(main, [str(model), *map(str, arguments)])

    return run


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
