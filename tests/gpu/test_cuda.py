"""CUDA runs the whole graph and gives the same results as the CPU in every bucket. Needs a GPU and the extra `gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from no_digit import publish_with_no_digit

from serving.client import Client
from serving.config import EngineConfig
from serving.inference.engine import CUDA, Engine, cuda_unavailable_reason
from serving.repository.repository import StoredModel

_reason = cuda_unavailable_reason()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_reason is not None, reason=str(_reason))]


def _engine(stored: StoredModel, provider: str) -> Engine:
    engine = Engine(
        stored.content,
        image_shape=stored.manifest.input.shape,
        classes=len(stored.manifest.labels),
        no_digit=stored.manifest.no_digit is not None,
        config=EngineConfig(provider=provider, max_batch_rows=256),
    )
    engine.start()
    return engine


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 65, 255, 256, 257, 500])
def test_cuda_gives_the_same_results_as_the_cpu(shipped: StoredModel, digits: tuple, rows: int) -> None:
    on_cuda, on_cpu = _engine(shipped, "cuda"), _engine(shipped, "cpu")
    assert on_cuda.provider == CUDA
    images = digits[0][:rows]
    one, other = on_cuda.infer(images), on_cpu.infer(images)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert np.array_equal(one.probabilities.argmax(axis=1), other.probabilities.argmax(axis=1))


def test_cuda_gives_the_same_no_digit_as_the_cpu(tmp_path: Path, digits: tuple) -> None:
    stored = publish_with_no_digit(tmp_path).load("mnist_convnet", 1)
    one, other = (_engine(stored, provider).infer(digits[0]) for provider in ("cuda", "cpu"))
    assert one.no_digit.shape == (len(digits[0]),)
    np.testing.assert_allclose(one.no_digit, other.no_digit, atol=1e-5)


def test_auto_takes_cuda_if_it_works(shipped: StoredModel) -> None:
    assert _engine(shipped, "auto").provider == CUDA


def test_a_server_on_cuda_announces_it_and_answers(start_server: Callable, digits: tuple) -> None:
    with start_server("--provider", "cuda") as server:
        assert server.announcement.endswith(f"with {CUDA}\n")
        with Client(server.address) as client:
            assert client.get_model().execution_provider == CUDA
            assert (client.classify(digits[0]).labels == digits[1]).mean() > 0.95
        assert server.stop()[0] == 0
