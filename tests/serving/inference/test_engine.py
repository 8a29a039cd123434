"""The engine: results that do not depend on the batch, and errors that say why."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from no_digit import GRAY_BOX, with_no_digit, without_no_digit
from onnx import TensorProto, helper

from serving.config import EngineConfig
from serving.errors import InferenceFailed, ModelRejected, ProviderUnavailable
from serving.inference import sessions
from serving.inference.buckets import Buckets, bucket_sizes, largest_bucket
from serving.inference.engine import Engine
from serving.repository.repository import StoredModel

SHAPE = (28, 28, 1)


def _engine(
    content: bytes,
    *,
    image_shape: tuple[int, int, int] = SHAPE,
    classes: int = 10,
    no_digit: bool | None = None,
    **config: object,
) -> Engine:
    return Engine(content, image_shape=image_shape, classes=classes, config=EngineConfig(**config), no_digit=no_digit)


def _buckets(session: onnxruntime.InferenceSession, outputs: dict[str, tuple[int, ...]]) -> Buckets:
    """What runs on CUDA, with the buffers of the CPU."""
    return Buckets(
        session,
        np.empty,
        sessions.graph_run,
        device=("cpu", 0),
        input_name="images",
        outputs=outputs,
        image_shape=SHAPE,
        max_rows=16,
    )


@pytest.fixture(scope="module")
def plain(shipped: StoredModel, digits: tuple) -> np.ndarray:
    """ONNX Runtime's own results for the drawn digits, one image at a time."""
    session = onnxruntime.InferenceSession(shipped.content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["probabilities"], {"images": image[None]})[0] for image in digits[0]])


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200, 500])
def test_answers_do_not_depend_on_the_batch(shipped: StoredModel, digits: tuple, plain: np.ndarray, rows: int) -> None:
    engine = _engine(shipped.content, provider="cpu")
    engine.start()
    prediction = engine.infer(digits[0][:rows])
    assert prediction.probabilities.shape == prediction.logits.shape == (rows, 10)
    np.testing.assert_allclose(prediction.probabilities, plain[:rows], atol=1e-6)
    logits = prediction.logits / shipped.manifest.calibration.temperature
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(prediction.probabilities, softmax / softmax.sum(axis=1, keepdims=True), atol=1e-6)


def test_the_shipped_model_reads_the_drawn_digits(shipped: StoredModel, digits: tuple) -> None:
    engine = _engine(shipped.content)
    engine.start()
    assert (engine.infer(digits[0]).probabilities.argmax(axis=1) == digits[1]).mean() > 0.95


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9, 16, 17, 40])
def test_buckets_give_the_same_results_as_plain_runs(
    shipped: StoredModel, digits: tuple, plain: np.ndarray, rows: int
) -> None:
    """The CUDA path with buffers on the CPU: padding, slicing, and stale rows of an earlier, larger batch."""
    session = onnxruntime.InferenceSession(shipped.content, providers=["CPUExecutionProvider"])
    outputs = {"logits": (10,), "probabilities": (10,)}
    buckets = _buckets(session, outputs)
    buckets.warm_up()
    buckets.run(digits[0][100:116])
    _, probabilities = buckets.run(digits[0][:rows])
    np.testing.assert_allclose(probabilities, plain[:rows], atol=1e-6)
    _, later = buckets.run(digits[0][50:60])
    np.testing.assert_allclose(probabilities, plain[:rows], atol=1e-6)
    np.testing.assert_allclose(later, plain[50:60], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 64, 65, 130])
def test_no_digit_comes_from_a_model_that_has_it(shipped: StoredModel, digits: tuple, rows: int) -> None:
    """In one run, in several, and through the buckets of the CUDA path."""
    content, images = with_no_digit(shipped.content), np.concatenate([GRAY_BOX[None], digits[0]])[:rows]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(["no_digit"], {"images": image[None]})[0] for image in images])
    outputs = {"logits": (10,), "probabilities": (10,), "no_digit": ()}
    buckets = _buckets(session, outputs)
    for declared in (True, None):
        engine = _engine(content, provider="cpu", no_digit=declared)
        engine.start()
        for found in (engine.infer(images).no_digit, buckets.run(images)[2]):
            assert found.shape == (rows,)
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert expected[0] > 2 * expected[1:].max(initial=0)


def test_a_model_without_no_digit_has_none(shipped: StoredModel, digits: tuple) -> None:
    engine = _engine(without_no_digit(shipped.content), provider="cpu", no_digit=False)
    engine.start()
    assert engine.infer(digits[0]).no_digit is None


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 8]), (1024, [2**i for i in range(11)])]
)
def test_bucket_sizes_are_powers_of_two_up_to_the_largest_batch(rows: int, sizes: list[int]) -> None:
    assert bucket_sizes(rows) == sizes


@pytest.mark.parametrize(
    ("rows", "shape", "any_size", "largest"),
    [
        (1024, (28, 28, 1), False, 1024),
        (8192, (28, 28, 1), False, 1024),
        (8192, (28, 28, 1), True, 8192),
        (1024, (128, 128, 3), False, 64),
        (100, (28, 28, 1), False, 128),
        (64, (4096, 4096, 1), False, 1),
    ],
)
def test_batches_of_large_images_have_fewer_rows(
    rows: int, shape: tuple[int, int, int], any_size: bool, largest: int
) -> None:
    assert largest_bucket(rows, shape, any_size=any_size) == largest


def test_cuda_is_refused_if_it_can_not_run(shipped: StoredModel) -> None:
    engine = _engine(shipped.content, provider="cuda")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the GPU wheel is installed")
    with pytest.raises(ProviderUnavailable, match=r"CPU wheel.*'\.\[gpu\]'"):
        engine.start()


def test_cuda_is_refused_if_onnx_runtime_would_silently_fall_back(
    shipped: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime lists CUDA, as its GPU wheel does everywhere, and nothing seems missing, but there is no GPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sessions.cuda, "unavailable_reason", lambda _: None)
    if not sessions.cuda.driver_problem():
        pytest.skip("there is a GPU")
    with pytest.raises(ProviderUnavailable, match="CUDA"):
        _engine(shipped.content, provider="cuda").start()


def test_auto_takes_the_cpu_and_says_why(shipped: StoredModel, caplog: pytest.LogCaptureFixture) -> None:
    engine = _engine(shipped.content, provider="auto")
    with caplog.at_level("INFO"):
        engine.start()
    if engine.provider == "CPUExecutionProvider":
        assert "running on the CPU, because" in caplog.text


def test_a_failed_run_raises_our_own_error(shipped: StoredModel) -> None:
    engine = _engine(shipped.content, provider="cpu")
    with pytest.raises(InferenceFailed, match="not started"):
        engine.infer(np.zeros((1, *SHAPE), np.uint8))
    engine.start()
    with pytest.raises(InferenceFailed):
        engine.infer(np.zeros((1, 5, 5, 1), np.uint8))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_shape": (32, 32, 1)}, r"images is tensor\(uint8\) \['batch', 28, 28, 1\].*'batch', 32, 32, 1"),
        ({"classes": 11}, r"is tensor\(float\) \['batch', 10\]"),
    ],
)
def test_a_model_that_does_not_match_its_manifest_is_rejected(shipped: StoredModel, options: dict, said: str) -> None:
    with pytest.raises(ModelRejected, match=said):
        _engine(shipped.content, provider="cpu", **options).start()


@pytest.mark.parametrize(
    ("has", "declared", "said"),
    [
        (True, False, r"model\.onnx: has the output no_digit, but the manifest has no proof of it"),
        (False, True, r"manifest: no_digit describes an output that model\.onnx does not have"),
    ],
)
def test_an_output_and_its_proof_come_together(shipped: StoredModel, has: bool, declared: bool, said: str) -> None:
    content = (with_no_digit if has else without_no_digit)(shipped.content)
    with pytest.raises(ModelRejected, match=said):
        _engine(content, provider="cpu", no_digit=declared).start()


def test_float_input_is_rejected() -> None:
    values = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 28, 28, 1])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 28, 28, 1])
        for name in ("logits", "probabilities")
    ]
    nodes = [helper.make_node("Identity", ["images"], [name]) for name in ("logits", "probabilities")]
    graph = helper.make_graph(nodes, "float", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(ModelRejected, match=r"is tensor\(float\)"):
        _engine(model.SerializeToString(), provider="cpu").start()


def test_external_data_is_rejected_even_if_it_would_load(
    shipped: StoredModel, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_from_string(shipped.content)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=1024)
    monkeypatch.chdir(tmp_path)  # ONNX Runtime takes external data from the working directory
    with pytest.raises(ModelRejected, match="uses external data"):
        _engine((tmp_path / "m.onnx").read_bytes(), provider="cpu").start()


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x3a\xff\xff\xff"], ids=["empty", "text", "truncated"])
def test_bytes_that_are_not_a_model_are_rejected(content: bytes) -> None:
    with pytest.raises(ModelRejected, match=r"model\.onnx"):
        _engine(content, provider="cpu").start()
