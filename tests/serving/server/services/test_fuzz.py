"""Requests that nobody would write: every one gets an answer or a reason, and the server lives on."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2 as pb
from protos.inference import inference_pb2_grpc
from serving.client import Client
from serving.config import SAMPLES

# make fuzz asks for more.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
REASONS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}

fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def channel(server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(autouse=True)
def still_right(server, digits: tuple) -> Iterator[None]:
    """Whatever a test did, the server still answers right."""
    yield
    with Client(server.address) as client:
        assert np.array_equal(client.classify(digits[0][:50], timeout_s=20).labels, digits[1][:50])


def _outcome(call) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as failed:
        error = failed
    else:
        return grpc.StatusCode.OK
    assert not [word for word in ("Traceback", ".py", "serving/", " at 0x") if word in error.details()]
    return error.code()


numbers = st.one_of(st.sampled_from([0, 1, 2, 28, 784, 1024, 1025, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
requests = st.builds(
    digits_pb2.ClassifyRequest,
    model_name=st.one_of(st.just(""), st.just("mnist_convnet"), st.text(max_size=300)),
    model_version=st.one_of(st.sampled_from([0, 1]), st.integers(-(2**63), 2**63 - 1)),
    top_k=numbers,
    include_probabilities=st.booleans(),
    raw_images=st.none() | st.builds(
        digits_pb2.RawImages,
        pixels=st.one_of(st.binary(max_size=2000), st.integers(0, 5).map(lambda count: bytes(784 * count))),
        count=st.one_of(st.integers(0, 5), numbers),
        height=numbers,
        width=numbers,
        channels=numbers,
    ),
)  # fmt: skip


@fuzz
@given(request=requests)
def test_any_message_is_answered_or_refused_with_a_reason(channel: grpc.Channel, request) -> None:
    stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
    answers = []
    code = _outcome(lambda: answers.append(stub.Classify(request, timeout=20)))
    assert code in REASONS | {grpc.StatusCode.OK}
    if code is grpc.StatusCode.OK:
        assert len(answers[0].labels) == request.raw_images.count > 0
        assert len(answers[0].top_labels) == len(answers[0].labels) * min(request.top_k, 10)
    responses = list(stub.ClassifyStream(iter([digits_pb2.ClassifyStreamRequest(request=request)] * 2), timeout=20))
    assert [response.WhichOneof("result") for response in responses] == [
        "response" if code is grpc.StatusCode.OK else "error"
    ] * 2


values = st.builds(
    pb.InferParameter,
    int64_param=st.sampled_from([0, 3, -1]) | st.integers(-(2**63), 2**63 - 1),
) | st.builds(pb.InferParameter, string_param=st.text(max_size=99)) | st.just(pb.InferParameter())  # fmt: skip
parameters = st.dictionaries(st.sampled_from(["timeout", "priority"]) | st.text(max_size=99), values, max_size=2)
shapes = st.sampled_from([[2, 28, 28, 1], [1, 28, 28, 1]]) | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9)
contents = st.builds(
    pb.InferTensorContents,
    uint_contents=st.just([7] * 784) | st.lists(st.integers(0, 2**32 - 1)),
    fp32_contents=st.just([]) | st.lists(st.floats(width=32)),
)
outputs = st.builds(
    pb.ModelInferRequest.InferRequestedOutputTensor,
    name=st.sampled_from(["logits", "probabilities"]) | st.text(max_size=300),
    parameters=st.just({}) | st.builds(dict, classification=values),
)


@st.composite
def inferences(draw: st.DrawFn) -> pb.ModelInferRequest:
    """A good request, of which at most three things are replaced."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=[1, 28, 28, 1])
    request = pb.ModelInferRequest(model_name="mnist_convnet", inputs=[tensor], raw_input_contents=[bytes(784)])
    kinds = ["model", "version", "id", "parameters", "datatype", "shape", "contents", "raw", "outputs", "inputs"]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=3, unique=True)):
        match kind:
            case "model":
                request.model_name = draw(st.text(max_size=300))
            case "version":
                request.model_version = draw(st.sampled_from(["1", "2"]) | st.text(max_size=30))
            case "id":
                request.id = draw(st.text(max_size=300))
            case "parameters":
                for name, value in draw(parameters).items():
                    request.parameters[name].CopyFrom(value)
            case "datatype":
                request.inputs[0].datatype = draw(st.sampled_from(["FP32", "FP16", "BYTES"]) | st.text(max_size=30))
            case "shape":
                request.inputs[0].shape[:] = draw(shapes)
            case "contents":
                request.inputs[0].contents.CopyFrom(draw(contents))
                if draw(st.booleans()):
                    del request.raw_input_contents[:]
            case "raw":
                sizes = st.sampled_from([1568, 4 * 784, 8 * 784]).map(bytes)
                request.raw_input_contents[:] = draw(st.lists(sizes | st.binary(max_size=4000), max_size=2))
            case "outputs":
                request.outputs.extend(draw(st.lists(outputs, max_size=3)))
            case "inputs":
                request.inputs.add(name=draw(st.just("images") | st.text(max_size=300)))
    return request


@fuzz
@given(request=inferences())
def test_any_inference_request_is_answered_or_refused_with_a_reason(channel: grpc.Channel, request) -> None:
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    answers = []
    code = _outcome(lambda: answers.append(stub.ModelInfer(request, timeout=20)))
    # The request may bring a timeout that is over before it is answered.
    assert code in REASONS | {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    if answers:
        assert answers[0].id == request.id
        assert len(answers[0].outputs) == len(answers[0].raw_output_contents) == (len(request.outputs) or 2)
        assert {output.shape[0] for output in answers[0].outputs} == {request.inputs[0].shape[0]}


@fuzz
@given(
    place=st.floats(0, 1, exclude_max=True),
    change=st.binary(min_size=0, max_size=12),
    cut=st.integers(0, 12),
    method=st.sampled_from(["Classify", "GetModel"]),
)
def test_any_bytes_are_answered_or_refused_with_a_reason(
    channel: grpc.Channel, digits: tuple, place: float, change: bytes, cut: int, method: str
) -> None:
    """A good message with some bytes in its middle cut out and others put in."""
    good = digits_pb2.ClassifyRequest(
        model_name="mnist_convnet",
        top_k=3,
        raw_images=digits_pb2.RawImages(pixels=digits[0][:2].tobytes(), count=2, height=28, width=28, channels=1),
    ).SerializeToString()
    # The pixels are most of it: half of the cuts go where the fields are.
    start = int(place * 2 * 30) if place < 0.5 else int(place * len(good))
    damaged = good[:start] + change + good[start + cut :]
    call = channel.unary_unary(f"/digits.v1.DigitClassifierService/{method}")
    assert _outcome(lambda: call(damaged, timeout=20)) in REASONS | {grpc.StatusCode.OK}


FILES = {}
for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
    stream = io.BytesIO()
    Image.open(SAMPLES / "7.png").save(stream, form)
    FILES[form] = stream.getvalue()


@fuzz
@given(
    form=st.sampled_from(sorted(FILES)),
    places=st.lists(st.floats(0, 1, exclude_max=True), max_size=4),
    change=st.binary(max_size=8),
    cut=st.integers(0, 8),
    end=st.floats(0, 1),
    options=st.fixed_dictionaries(
        {}, optional={"per_image_errors": st.booleans(), "explain": st.booleans(), "top_k": st.integers(0, 12)}
    ),
)
def test_any_damage_to_a_file_is_answered_or_refused_with_a_reason(
    channel: grpc.Channel, form: str, places: list[float], change: bytes, cut: int, end: float, options: dict
) -> None:
    """Files with bytes in their heads or anywhere cut out, others put in, and perhaps without an end."""
    content = FILES[form]
    for place in places:
        start = int(place * 2 * 80) if place < 0.5 else int(place * len(content))
        content = content[:start] + change + content[start + cut :]
    images = [FILES["PNG"], content, content[: int(end * len(content))]]
    request = digits_pb2.ClassifyRequest(encoded_images=digits_pb2.EncodedImages(images=images), **options)
    stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
    answers = []
    code = _outcome(lambda: answers.append(stub.Classify(request, timeout=20)))
    assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK}
    if code is grpc.StatusCode.OK:
        assert len(answers[0].labels) == 3
        assert answers[0].labels[0] == 7
        assert [label == -1 for label in answers[0].labels] == [
            index in {error.index for error in answers[0].errors} for index in range(3)
        ]


@pytest.mark.grpcio  # native answers what is no URI with INTERNAL
@fuzz
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60), content=st.binary(max_size=100))
def test_an_unknown_method_is_unimplemented(channel: grpc.Channel, path: str, content: bytes) -> None:
    call = channel.unary_unary(f"/{path}")
    assert _outcome(lambda: call(content, timeout=20)) is grpc.StatusCode.UNIMPLEMENTED


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")  # and empty settings


@settings(fuzz, max_examples=max(20, EXAMPLES // 3))
@given(content=st.binary(max_size=400), polite=st.booleans())
def test_garbage_on_a_connection_harms_no_other(server, content: bytes, polite: bool) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall((PREFACE if polite else b"") + content)
        with contextlib.suppress(OSError):  # the server may have closed it already
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # until the server has closed it
                pass
