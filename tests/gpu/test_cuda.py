"""On a GPU: CUDA runs the whole graph and gives the CPU's results in every bucket. `make gpu` runs it."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from any_network import as_trained
from no_digit import publish_with_no_digit

from export.convert import convert
from export.parity import check_parity
from serving.client import Client
from serving.config import EngineConfig
from serving.inference.engine import Engine
from serving.inference.sessions import CUDA, cuda_unavailable_reason
from serving.repository.repository import StoredModel
from training.architectures import ARCHITECTURES

_reason = cuda_unavailable_reason() or ("the libraries are pretended" if "PRETENDED_CUDA" in os.environ else None)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_reason is not None, reason=str(_reason))]


def _used_bytes() -> int:
    available, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert ctypes.CDLL("libcudart.so.13").cudaMemGetInfo(ctypes.byref(available), ctypes.byref(total)) == 0
    return total.value - available.value


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 65, 255, 256, 257, 500])
def test_cuda_gives_the_same_results_as_the_cpu(start_engine: Callable, digits: tuple, rows: int) -> None:
    on_cuda, on_cpu = start_engine("cuda", max_batch_rows=256), start_engine("cpu")
    assert on_cuda.provider == CUDA
    images = digits[0][:rows]
    one, other = on_cuda.infer(images), on_cpu.infer(images)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert np.array_equal(one.probabilities.argmax(axis=1), other.probabilities.argmax(axis=1))


def test_cuda_gives_the_same_no_digit_as_the_cpu(start_engine: Callable, tmp_path: Path, digits: tuple) -> None:
    stored = publish_with_no_digit(tmp_path).load("mnist_convnet", 1)
    one, other = (start_engine(provider, stored).infer(digits[0]) for provider in ("cuda", "cpu"))
    assert one.no_digit.shape == (len(digits[0]),)
    np.testing.assert_allclose(one.no_digit, other.no_digit, atol=1e-5)


def test_a_replayed_graph_equals_a_plain_run(start_engine: Callable, shipped: StoredModel, digits: tuple) -> None:
    """With other images in each run: a replay reads the buffers, not what they held when it was captured."""
    options = {"use_tf32": "0"}
    plain = onnxruntime.InferenceSession(shipped.content, providers=[(CUDA, options)])
    engine = start_engine("cuda", max_batch_rows=256)
    for rows in engine.fixed_sizes:
        for start in (0, 100, 200):
            images = np.ascontiguousarray(np.roll(digits[0], start, axis=0)[:rows])
            (expected,) = plain.run(["probabilities"], {"images": images})
            np.testing.assert_allclose(engine.infer(images).probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_passes_the_gate_in_every_bucket(architecture: str) -> None:
    built = ARCHITECTURES[architecture]
    trained = as_trained(built.build())
    content = convert(trained, model_name="any")
    config = EngineConfig(provider="cuda")
    engine = Engine(content, image_shape=built.image_shape, classes=built.classes, config=config)
    engine.start()
    images = np.random.default_rng(0).integers(0, 256, (engine.batch_rows, *built.image_shape), np.uint8)
    report = check_parity(trained, engine, images, None)
    assert report.problems == ()
    assert report.figures.batch_sizes == tuple(engine.fixed_sizes)
    engine.close()


def test_every_node_runs_on_cuda(shipped: StoredModel, digits: tuple, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(shipped.content, options, providers=[CUDA])
    session.run(None, {"images": digits[0][:64]})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    assert {event["args"]["provider"] for event in events if "provider" in event.get("args", {})} == {CUDA}


def test_memory_stays_flat_over_any_batch_sizes(start_engine: Callable, digits: tuple) -> None:
    engine = start_engine("cuda", max_batch_rows=256)
    before = _used_bytes()
    for rows in np.random.default_rng(0).integers(1, 257, 10_000).tolist():
        engine.infer(digits[0][:rows])
    assert _used_bytes() == before


def test_auto_takes_cuda_if_it_works(start_engine: Callable) -> None:
    assert start_engine("auto").provider == CUDA


def test_a_server_on_cuda_announces_it_and_answers(start_server: Callable, digits: tuple) -> None:
    with start_server("--provider", "cuda") as server:
        assert server.announcement.endswith(f"with {CUDA}\n")
        with Client(server.address) as client:
            assert client.get_model().execution_provider == CUDA
            assert (client.classify(digits[0]).labels == digits[1]).mean() > 0.95
        assert server.stop()[0] == 0
