"""Networks that PyTorch exported, imported and served: they answer as they do in PyTorch.

PyTorch is large, so it has an environment of its own: `make torch` installs it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serving.client import Client

pytestmark = pytest.mark.torch

SCRIPT = Path(__file__).parents[2] / "helpers" / "torch_models.py"
IMAGES = np.random.default_rng(5).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
OPTIONS = ["--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]


def _probabilities(name: str, output: np.ndarray) -> np.ndarray:
    if name.startswith("sigmoid"):
        return np.concatenate([1 - output, output], axis=1)
    if name.startswith("residual"):
        return output
    powers = np.exp(output - output.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_networks_of_pytorch_answer_as_in_pytorch(tmp_path: Path, start_server: Callable) -> None:
    """Each exported by every exporter of this release, with any batch and with one image."""
    from export.import_command import main

    python = os.environ.get("TORCH_PYTHON")
    if not python:
        pytest.skip("TORCH_PYTHON names no Python with torch")
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "exported").mkdir()
    made = subprocess.run(
        [python, SCRIPT, tmp_path / "images.npy", tmp_path / "exported"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    files = sorted((tmp_path / "exported").glob("*.onnx"))
    assert len(files) >= 8
    for path in files:
        result = CliRunner().invoke(main, [str(path), "--repository", str(tmp_path / "models"), *OPTIONS])
        assert result.exit_code == 0, f"{path.name}: {result.output}"
        assert "layout         nchw" in result.stdout
    with start_server("--repository", str(tmp_path / "models")) as server:
        for path in files:
            with Client(server.address, model_name=path.stem) as client:
                answer = client.classify(IMAGES, probabilities=True)
            expected = _probabilities(path.stem, np.load(path.with_suffix(".npy")))
            np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5, err_msg=path.stem)
