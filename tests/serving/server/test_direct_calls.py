"""The direct way answers as the service does: the same messages, errors, counts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.digits.v1 import digits_pb2
from protos.inference import inference_pb2, inference_pb2_grpc
from serving.config import BatcherConfig, EngineConfig, ServerConfig
from serving.inference.request import InferenceResult
from serving.repository.repository import StoredModel
from serving.rollout.deployment import Deployment
from serving.server.process.server import Server
from serving.server.services.answer_bytes import AnswerBytes
from serving.server.services.digits_codec import encode_response
from training.synthetic import draw_digits


def _raw(images: np.ndarray, **options: object) -> digits_pb2.ClassifyRequest:
    raw = digits_pb2.RawImages(count=len(images), pixels=images.tobytes())
    return digits_pb2.ClassifyRequest(raw_images=raw, **options)


@pytest.fixture(scope="module")
def deployment(shipped: StoredModel) -> Deployment:
    return Deployment(shipped, EngineConfig(), BatcherConfig())


@given(
    images=st.integers(1, 300),
    classes=st.sampled_from([1, 10, 128, 129, 1000]),
    include_probabilities=st.booleans(),
    knows_no_digit=st.booleans(),
    notices=st.booleans(),
    seconds=st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)),
    seed=st.integers(0, 1000),
)
def test_the_bytes_are_the_message_that_the_service_encodes(
    deployment: Deployment,
    images: int,
    classes: int,
    include_probabilities: bool,
    knows_no_digit: bool,
    notices: bool,
    seconds: tuple[float, float],
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    answer = InferenceResult(
        probabilities=generator.random((images, classes), np.float32), queue_s=seconds[0], inference_s=seconds[1]
    )
    if knows_no_digit:
        answer.no_digit = generator.random(images, np.float32)
    if notices:
        answer.statuses = generator.integers(0, 4, images)
    request = digits_pb2.ClassifyRequest(include_probabilities=include_probabilities)
    encoded = AnswerBytes(deployment).encode(answer, include_probabilities=include_probabilities)
    assert digits_pb2.ClassifyResponse.FromString(encoded) == encode_response(answer, request, deployment)


@pytest.fixture(scope="module")
def channels(start_server: Callable) -> Iterator[list[grpc.Channel]]:
    """The same service thrice: only with an access log no call takes the direct way."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(grpc.insecure_channel(stack.enter_context(start_server(*options)).address))
            for options in (
                ("--front", "grpcio", "--access-log-share", "1e-9"),
                ("--front", "grpcio"),
                ("--front", "native"),
            )
        ]


CLASSIFY = "/digits.v1.DigitClassifierService/Classify"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def _ending(channel: grpc.Channel, request: bytes, metadata: tuple = (), method: str = CLASSIFY) -> tuple:
    """How a call ends, but for the times."""
    call = channel.unary_unary(method)
    try:
        content, ended = call.with_call(request, timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        return error.code(), error.details(), {each.key: each.value for each in error.trailing_metadata()}
    if method == INFER:
        return grpc.StatusCode.OK, content, {each.key: each.value for each in ended.trailing_metadata()}
    response = digits_pb2.ClassifyResponse.FromString(content)
    response.ClearField("queue_time_us")
    response.ClearField("inference_time_us")
    return grpc.StatusCode.OK, response, {each.key: each.value for each in ended.trailing_metadata()}


IMAGES = draw_digits(300, seed=5)[0]
BLANK = np.zeros((2, 28, 28, 1), np.uint8)
REQUESTS = {
    "one image": _raw(IMAGES[:1]),
    "300 images": _raw(IMAGES),
    "no digits": _raw(BLANK),
    "one that is no digit": _raw(BLANK[:1], include_probabilities=True),
    "probabilities": _raw(IMAGES[:3], include_probabilities=True),
    "the size": digits_pb2.ClassifyRequest(
        raw_images=digits_pb2.RawImages(count=1, pixels=IMAGES[:1].tobytes(), height=28, width=28, channels=1)
    ),
    "a part of the size": digits_pb2.ClassifyRequest(
        raw_images=digits_pb2.RawImages(count=1, pixels=IMAGES[:1].tobytes(), width=28)
    ),
    "another size": digits_pb2.ClassifyRequest(
        raw_images=digits_pb2.RawImages(count=1, pixels=IMAGES[:1].tobytes(), height=14, width=56, channels=1)
    ),
    "the version": _raw(IMAGES[:2], model_name="mnist_convnet", model_version=1),
    "the label": _raw(IMAGES[:2], model_label="stable"),
    "top_k": _raw(IMAGES[:2], top_k=3),
    "min_confidence": _raw(IMAGES[:2], min_confidence=0.999999),
    "no min_confidence": _raw(IMAGES[:2], min_confidence=0),
    "only_digits": _raw(BLANK, only_digits=True),
    "explain": _raw(IMAGES[:2], explain=True),
    "nothing": digits_pb2.ClassifyRequest(),
    "no image": digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(count=0)),
    "too few pixels": digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(count=2, pixels=bytes(784))),
    "too many images": _raw(np.zeros((1025, 28, 28, 1), np.uint8)),
    "no such model": _raw(IMAGES[:1], model_name="resnet"),
    "no such version": _raw(IMAGES[:1], model_version=7),
    "no canary": _raw(IMAGES[:1], model_label="canary"),
    "version and label": _raw(IMAGES[:1], model_version=1, model_label="stable"),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_call_ends_as_without_it(channels: list[grpc.Channel], request_: digits_pb2.ClassifyRequest) -> None:
    endings = [_ending(channel, request_.SerializeToString()) for channel in channels]
    assert endings[0] == endings[1] == endings[2]


def _infer(**changes: object) -> inference_pb2.ModelInferRequest:
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=changes.pop("shape", [2, 28, 28, 1])
    )
    fields = {"model_name": "mnist_convnet", "inputs": [tensor], "raw_input_contents": [IMAGES[:2].tobytes()]}
    return inference_pb2.ModelInferRequest(**{**fields, **changes})


def _output(name: str) -> inference_pb2.ModelInferRequest.InferRequestedOutputTensor:
    return inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name)


INFERENCES = {
    "all outputs": _infer(),
    "one output": _infer(outputs=[_output("probabilities")], id="mine"),
    "no_digit": _infer(outputs=[_output("no_digit")], model_version="1"),
    "another shape": _infer(shape=[2, 784]),
    "too many pixels": _infer(shape=[1, 28, 28, 1]),
    "no contents": _infer(raw_input_contents=[]),
    "no inputs": _infer(inputs=[]),
    "no such output": _infer(outputs=[_output("labels")]),
    "no such model": _infer(model_name="resnet"),
    "no model": _infer(model_name=""),
    "a version that is no number": _infer(model_version="latest"),
    "a timeout": _infer(parameters={"timeout": inference_pb2.InferParameter(int64_param=5_000_000)}),
    "an unknown parameter": _infer(parameters={"colour": inference_pb2.InferParameter(string_param="red")}),
}


@pytest.mark.parametrize("name", INFERENCES)
def test_an_inference_ends_as_without_it(channels: list[grpc.Channel], name: str) -> None:
    request = INFERENCES[name].SerializeToString(deterministic=True)
    endings = [_ending(channel, request, method=INFER) for channel in channels]
    assert endings[0] == endings[1] == endings[2]


@pytest.mark.parametrize(
    "content", [b"\xff", b"\x1a\x05", _raw(IMAGES[:1]).SerializeToString()[:-3], b"\x0a\x01x" * 1025]
)
def test_bytes_that_are_no_request_are_refused_alike(channels: list[grpc.Channel], content: bytes) -> None:
    endings = [_ending(channel, content) for channel in channels]
    assert endings[0] == endings[1] == endings[2]
    assert endings[0][0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("front_", ["grpcio", "native"])
def test_every_call_gives_its_place_back(start_server: Callable, front_: str) -> None:
    """Whichever way it takes: with a single place, one that stays occupied ends all further calls."""
    with start_server("--front", front_, "--max-concurrent-calls", "1") as server:
        with grpc.insecure_channel(server.address) as channel:
            codes = [_ending(channel, request.SerializeToString())[0] for request in REQUESTS.values()]
            codes += [_ending(channel, each.SerializeToString(), method=INFER)[0] for each in INFERENCES.values()]
        assert server.stop()[0] == 0
    assert grpc.StatusCode.RESOURCE_EXHAUSTED not in codes
    assert {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT} == {*codes}


def test_a_request_id_comes_back(channels: list[grpc.Channel]) -> None:
    request = REQUESTS["one image"].SerializeToString()
    for channel in channels:
        assert _ending(channel, request, (("x-request-id", "mine"),))[2] == {"x-request-id": "mine"}


async def test_native_keeps_nothing_of_calls_that_have_ended() -> None:
    """Answered, refused at once, given up: whatever way they took."""
    server = Server(ServerConfig(port=0, front="native", engine=EngineConfig(provider="cpu")))
    await server.start()
    front = server._front
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(CLASSIFY)
        for name in ("one image", "no such model", "too few pixels", "top_k", "nothing"):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call(REQUESTS[name].SerializeToString(), timeout=20)
        assert front._running == {}
        given_up = [call(REQUESTS[name].SerializeToString()) for name in ("300 images", "top_k")]
        await asyncio.wait(map(asyncio.ensure_future, given_up), timeout=0.005)
        for each in given_up:
            each.cancel()
        async with asyncio.timeout(20):
            while front._running:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0)
    await server.aclose()


@pytest.mark.parametrize("front_", ["grpcio", "native"])
def test_every_call_is_counted(start_server: Callable, front_: str) -> None:
    """Statistics and metrics, errors too."""
    with start_server("--front", front_, "--metrics-port", "0") as server:
        url = re.search(r"metrics on (\S+)", server.process.stderr.readline())[1]
        with grpc.insecure_channel(server.address) as channel:
            for _ in range(7):
                _ending(channel, REQUESTS["one image"].SerializeToString())
            _ending(channel, REQUESTS["no such model"].SerializeToString())
            _ending(channel, REQUESTS["too few pixels"].SerializeToString())
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            (statistics,) = stub.ModelStatistics(inference_pb2.ModelStatisticsRequest(), timeout=20).model_stats
        with urllib.request.urlopen(url, timeout=20) as response:
            shown = response.read().decode()
        assert server.stop()[0] == 0
    assert (statistics.inference_count, statistics.inference_stats.success.count) == (7, 7)
    assert statistics.inference_stats.fail.count == 0
    found = dict(line.rsplit(" ", 1) for line in shown.splitlines() if "Classify" in line)
    method, served = 'method="/digits.v1.DigitClassifierService/Classify"', 'model="mnist_convnet",version="1"'
    assert found[f'digits_requests_total{{code="OK",{method},{served}}}'] == "7.0"
    assert found[f'digits_requests_total{{code="INVALID_ARGUMENT",{method},{served}}}'] == "1.0"
    assert found[f'digits_requests_total{{code="NOT_FOUND",{method},model="",version=""}}'] == "1.0"
    assert found[f'digits_request_duration_seconds_bucket{{le="+Inf",{method},{served}}}'] == "8.0"
    assert 0 < float(found[f"digits_request_duration_seconds_sum{{{method},{served}}}"]) < 20
