"""What Prometheus reads: enough to judge a canary beside the stable version, and no series that a client could make."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from versions import manifest_of

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2, inference_pb2_grpc
from serving.repository.repository import StoredModel
from serving.server.telemetry.metrics import Metrics

CLASSIFY, STREAM = (f"/digits.v1.DigitClassifierService/{name}" for name in ("Classify", "ClassifyStream"))
INFER, STREAM_INFER = (f"/inference.GRPCInferenceService/{name}" for name in ("ModelInfer", "ModelStreamInfer"))


def _classify(version: int, *, model: str = "", count: int = 1, pixels: int = 784) -> digits_pb2.ClassifyRequest:
    raw = digits_pb2.RawImages(pixels=bytes(pixels), count=count)
    return digits_pb2.ClassifyRequest(model_name=model, model_version=version, raw_images=raw)


def _infer(version: str, *, shape: tuple[int, ...] = (1, 14, 56, 1)) -> inference_pb2.ModelInferRequest:
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=shape)
    return inference_pb2.ModelInferRequest(
        model_name="shades", model_version=version, inputs=[tensor], raw_input_contents=[bytes(784)]
    )


@pytest.fixture(scope="module")
def shown(shades: Path, start_server: Callable) -> dict[str, float]:
    """The metrics of a server that has answered good and bad calls with versions 5 and 4."""
    options = "--repository", str(shades), "--extra-versions", "1", "--metrics-port", "0"
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        line = next(line for line in iter(server.process.stderr.readline, "") if "metrics on" in line)
        digits = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        oip = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for request in (_classify(0), _classify(5), _classify(4, count=1)):
            digits.Classify(request, timeout=20)
        for bad in (_classify(4, pixels=5), _classify(7), _classify(0, model="of-a-client")):
            with pytest.raises(grpc.RpcError):
                digits.Classify(bad, timeout=20)
        several = [_classify(5), _classify(4), _classify(4, pixels=5), _classify(7)]
        requests = [digits_pb2.ClassifyStreamRequest(request=each) for each in several]
        assert len(list(digits.ClassifyStream(iter(requests), timeout=20))) == 4
        oip.ModelInfer(_infer("4"), timeout=20)
        assert len(list(oip.ModelStreamInfer(iter([_infer("4"), _infer("4", shape=(2,))]), timeout=20))) == 2
        text = urllib.request.urlopen(line.split("metrics on ")[1].strip(), timeout=20).read().decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)}


@pytest.mark.parametrize(
    ("method", "code", "version", "expected"),
    [
        (CLASSIFY, "OK", "5", 2),
        (CLASSIFY, "OK", "4", 1),
        (CLASSIFY, "INVALID_ARGUMENT", "4", 1),
        (CLASSIFY, "NOT_FOUND", "", 2),
        (STREAM, "OK", "5", 1),
        (STREAM, "OK", "4", 1),
        (STREAM, "INVALID_ARGUMENT", "4", 1),
        (STREAM, "NOT_FOUND", "", 1),
        (STREAM, "OK", "", 1),  # the stream itself
        (INFER, "OK", "4", 1),
        (STREAM_INFER, "OK", "4", 1),
        (STREAM_INFER, "INVALID_ARGUMENT", "4", 1),
        (STREAM_INFER, "OK", "", 1),
    ],
)
def test_requests_are_counted_by_the_version_that_got_them(
    shown: dict[str, float], method: str, code: str, version: str, expected: int
) -> None:
    model = "shades" if version else ""
    labels = f'{{code="{code}",method="{method}",model="{model}",version="{version}"}}'
    assert shown[f"digits_requests_total{labels}"] == expected


def test_latency_queue_and_batches_are_told_by_version(shown: dict[str, float]) -> None:
    for version, rows in {"5": 3, "4": 4}.items():
        labels = f'{{model="shades",version="{version}"}}'
        assert shown[f"digits_batch_rows_sum{labels}"] == rows
        assert shown[f"digits_queue_duration_seconds_count{labels}"] == rows
        assert shown[f"digits_inference_duration_seconds_sum{labels}"] > 0
        assert shown[f"digits_queue_rows{labels}"] == 0
        assert shown[f'digits_request_duration_seconds_sum{{method="{CLASSIFY}",{labels[1:]}'] > 0


def test_a_client_makes_no_series(shown: dict[str, float]) -> None:
    versions = {match for name in shown for match in re.findall(r'model="([^"]*)".*version="([^"]*)"', name)}
    assert versions == {("shades", "5"), ("shades", "4"), ("", "")}


def test_the_process_is_measured_and_nothing_is_said_twice(shown: dict[str, float]) -> None:
    assert shown["process_resident_memory_bytes"] > 10e6
    assert shown["process_cpu_seconds_total"] > 0
    assert not [name for name in shown if "_created" in name]


@pytest.mark.parametrize("classes", [100, 101])
def test_a_model_with_many_labels_has_no_series_by_label(classes: int) -> None:
    registry = CollectorRegistry()
    manifest = manifest_of(b"", classes=classes)
    observer = Metrics(registry).answers_of(StoredModel(name="net", version=3, manifest=manifest, content=b""))
    results = np.eye(classes, dtype=np.float32)[[0, 99, 99]]
    for rows in (1, 3):
        observer.batch_ended(results[-rows:], 0.1, [0.0])
    which = {"model": "net", "version": "3"}
    assert registry.get_sample_value("digits_confidence_total", which) == 4
    answers = [registry.get_sample_value("digits_answers_total", {**which, "label": f"class {n}"}) for n in (0, 99)]
    assert answers == ([1, 3] if classes == 100 else [None, None])
