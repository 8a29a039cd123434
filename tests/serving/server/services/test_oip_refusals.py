"""Malformed requests of the Open Inference Protocol: each gets the code and the field that tell what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos.inference import inference_pb2 as pb
from protos.inference import inference_pb2_grpc

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXHAUSTED, UNIMPLEMENTED = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED
TEN_KB = "x" * 10_000


@pytest.fixture(scope="module")
def stub(server) -> Iterator[inference_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def good() -> pb.ModelInferRequest:
    """Two blank images, as raw bytes."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=[2, 28, 28, 1])
    return pb.ModelInferRequest(model_name="mnist_convnet", inputs=[tensor], raw_input_contents=[bytes(2 * 784)])


def _with(**fields: object) -> Callable[[pb.ModelInferRequest], None]:
    """Sets fields of the request."""

    def change(request: pb.ModelInferRequest) -> None:
        for name, value in fields.items():
            setattr(request, name, value)

    return change


def _tensor(raw: bytes | None = None, **fields: object) -> Callable[[pb.ModelInferRequest], None]:
    """Sets fields of its input, and its bytes."""

    def change(request: pb.ModelInferRequest) -> None:
        for name, value in fields.items():
            if name == "shape":
                request.inputs[0].shape[:] = value
            else:
                setattr(request.inputs[0], name, value)
        if raw is not None:
            request.raw_input_contents[0] = raw

    return change


def _typed(datatype: str, **contents: list) -> Callable[[pb.ModelInferRequest], None]:
    """One image as typed contents."""

    def change(request: pb.ModelInferRequest) -> None:
        del request.raw_input_contents[:]
        request.inputs[0].shape[0] = 1
        request.inputs[0].datatype = datatype
        request.inputs[0].contents.MergeFrom(pb.InferTensorContents(**contents))

    return change


def _floats(value: float, place: int = 0) -> Callable[[pb.ModelInferRequest], None]:
    """Two FP32 images as raw bytes, blank but for one value."""
    values = np.zeros(2 * 784, "<f4")
    values[place] = value
    return _tensor(values.tobytes(), datatype="FP32")


def _parameter(name: str, **value: object) -> Callable[[pb.ModelInferRequest], None]:
    return lambda request: request.parameters[name].MergeFrom(pb.InferParameter(**value))


def _of_input(name: str, **value: object) -> Callable[[pb.ModelInferRequest], None]:
    return lambda request: request.inputs[0].parameters[name].MergeFrom(pb.InferParameter(**value))


def _outputs(*names: str, **classification: object) -> Callable[[pb.ModelInferRequest], None]:
    def change(request: pb.ModelInferRequest) -> None:
        for name in names:
            output = request.outputs.add(name=name)
            if classification:
                output.parameters["classification"].MergeFrom(pb.InferParameter(**classification))

    return change


def _no_inputs(request: pb.ModelInferRequest) -> None:
    del request.inputs[:]
    del request.raw_input_contents[:]


def _second_input(name: str) -> Callable[[pb.ModelInferRequest], None]:
    def change(request: pb.ModelInferRequest) -> None:
        request.inputs.add(name=name, datatype="UINT8", shape=[2, 28, 28, 1])
        request.raw_input_contents.append(bytes(2 * 784))

    return change


def _output_parameter(name: str, **value: object) -> Callable[[pb.ModelInferRequest], None]:
    def change(request: pb.ModelInferRequest) -> None:
        request.outputs.add(name="probabilities").parameters[name].MergeFrom(pb.InferParameter(**value))

    return change


def _both(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.uint_contents.extend([0] * 2 * 784)


def _neither(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]


def _several(request: pb.ModelInferRequest) -> None:
    _parameter("priority", int64_param=2)(request)
    _outputs("labels")(request)
    _tensor(datatype="FP16", shape=[2, 28, 28])(request)


def _thousand_outputs(request: pb.ModelInferRequest) -> None:
    _outputs(*("🦊" * 150 + str(index) for index in range(1000)))(request)


# What is changed in a good request, the code, the field that the details name, and words of its description; without a
# field, words of the message.
REFUSED = {
    # names and versions
    "no model": (_with(model_name=""), NOT_FOUND, "", "Request for unknown model: '' is not found"),
    "unknown model": (_with(model_name="resnet"), NOT_FOUND, "", "Request for unknown model: 'resnet' is not found"),
    "model of other case": (_with(model_name="MNIST_CONVNET"), NOT_FOUND, "", "unknown model"),
    "model with a path": (_with(model_name="../mnist_convnet"), NOT_FOUND, "", "unknown model"),
    "model with a longer path": (_with(model_name="../../etc/passwd"), NOT_FOUND, "", "unknown model"),
    "model with a version": (_with(model_name="mnist_convnet/1"), NOT_FOUND, "", "unknown model"),
    "model with a zero byte": (_with(model_name="mnist_convnet\0"), NOT_FOUND, "", "unknown model"),
    "model with a line end": (_with(model_name="mnist_convnet\r\nx: y"), NOT_FOUND, "", r"\r\n"),
    "model of 10 kB": (_with(model_name=TEN_KB), NOT_FOUND, "", "…' is not found"),
    "model in Cyrillic": (_with(model_name="модель"), NOT_FOUND, "", "'модель'"),
    "model in Arabic": (_with(model_name="نموذج"), NOT_FOUND, "", "unknown model"),
    "model in emoji": (_with(model_name="🦊" * 3000), NOT_FOUND, "", "unknown model"),
    "unknown version": (_with(model_version="7"), NOT_FOUND, "", "'mnist_convnet' version 7 is not found"),
    "version beyond 64 bits": (_with(model_version="9" * 18), NOT_FOUND, "", "is not found"),
    "version of 10 kB": (_with(model_version="9" * 10_000), INVALID, "model_version", "must be a number above 0"),
    "version 0": (_with(model_version="0"), INVALID, "model_version", "must be a number above 0"),
    "version -1": (_with(model_version="-1"), INVALID, "model_version", "'-1'"),
    "version with a path": (_with(model_version="../1"), INVALID, "model_version", "'../1'"),
    "version with a space": (_with(model_version=" 1"), INVALID, "model_version", "' 1'"),
    "version with a line end": (_with(model_version="1\n"), INVALID, "model_version", r"'1\n'"),
    "version in Arabic digits": (_with(model_version="١"), INVALID, "model_version", "'١'"),
    "version latest": (_with(model_version="latest"), INVALID, "model_version", "'latest'"),
    "version 1.0": (_with(model_version="1.0"), INVALID, "model_version", "'1.0'"),
    # inputs
    "no input": (_no_inputs, INVALID, "inputs", "expected 1 inputs but got 0 inputs for model 'mnist_convnet'"),
    "unknown input": (_tensor(name="pixels"), INVALID, "inputs[0].name", "unexpected inference input 'pixels'"),
    "input without name": (_tensor(name=""), INVALID, "inputs[0].name", "unexpected inference input ''"),
    "input of 10 kB name": (_tensor(name=TEN_KB), INVALID, "inputs[0].name", "unexpected inference input"),
    "second input": (_second_input("mask"), INVALID, "inputs[1].name", "unexpected inference input 'mask'"),
    "input twice": (_second_input("images"), INVALID, "inputs[1].name", "twice"),
    # datatypes
    "no datatype": (_tensor(datatype=""), INVALID, "inputs[0].datatype", "data-type is ''"),
    "FP16": (_tensor(bytes(2 * 1568), datatype="FP16"), INVALID, "inputs[0].datatype", "'FP16'"),
    "BF16": (_tensor(bytes(2 * 1568), datatype="BF16"), INVALID, "inputs[0].datatype", "'BF16'"),
    "FP64": (_tensor(bytes(2 * 784 * 8), datatype="FP64"), INVALID, "inputs[0].datatype", "expects 'UINT8'"),
    "INT8": (_tensor(datatype="INT8"), INVALID, "inputs[0].datatype", "'INT8'"),
    "INT64": (_tensor(bytes(2 * 784 * 8), datatype="INT64"), INVALID, "inputs[0].datatype", "'INT64'"),
    "BOOL": (_tensor(datatype="BOOL"), INVALID, "inputs[0].datatype", "'BOOL'"),
    "BYTES": (_tensor(b"\4\0\0\0abcd" * 2, datatype="BYTES"), INVALID, "inputs[0].datatype", "'BYTES'"),
    "lower case": (_tensor(datatype="uint8"), INVALID, "inputs[0].datatype", "'uint8'"),
    "datatype of 10 kB": (_tensor(datatype=TEN_KB), INVALID, "inputs[0].datatype", "…"),
    # shapes
    "no shape": (_tensor(shape=[]), INVALID, "inputs[0].shape", "Expected [-1,28,28,1], got []"),
    "no channels": (_tensor(shape=[2, 28, 28]), INVALID, "inputs[0].shape", "got [2,28,28]"),
    "flat": (_tensor(shape=[2, 784]), INVALID, "inputs[0].shape", "got [2,784]"),
    "channels first": (_tensor(shape=[2, 1, 28, 28]), INVALID, "inputs[0].shape", "got [2,1,28,28]"),
    "five dimensions": (_tensor(shape=[1, 2, 28, 28, 1]), INVALID, "inputs[0].shape", "got [1,2,28,28,1]"),
    "ten thousand dimensions": (_tensor(shape=[1] * 10_000), INVALID, "inputs[0].shape", "got [1,1,1,1,1,1,1,1,…]"),
    "other size": (_tensor(shape=[2, 27, 28, 1]), INVALID, "inputs[0].shape", "unexpected shape for input 'images'"),
    "three channels": (_tensor(shape=[2, 28, 28, 3]), INVALID, "inputs[0].shape", "got [2,28,28,3]"),
    "no images": (_tensor(b"", shape=[0, 28, 28, 1]), INVALID, "inputs[0].shape", "at least 1"),
    "-1 images": (_tensor(shape=[-1, 28, 28, 1]), INVALID, "inputs[0].shape", "-1 images"),
    "negative size": (_tensor(shape=[2, -28, -28, 1]), INVALID, "inputs[0].shape", "got [2,-28,-28,1]"),
    "too many images": (_tensor(shape=[1025, 28, 28, 1]), INVALID, "inputs[0].shape", "batch-size must be <= 1024"),
    "too many images, sent": (
        _tensor(bytes(1025 * 784), shape=[1025, 28, 28, 1]), INVALID, "inputs[0].shape", "<= 1024 for 'mnist_convnet'"
    ),
    "product beyond 64 bits": (_tensor(shape=[2**62, 28, 28, 1]), INVALID, "inputs[0].shape", "batch-size must be"),
    "product that wraps to 0": (_tensor(b"", shape=[2**32, 2**32, 28, 1]), INVALID, "inputs[0].shape", "unexpected"),
    "product that wraps to 1568": (_tensor(shape=[2 + 2**60, 28, 28, 1]), INVALID, "inputs[0].shape", "<= 1024"),
    "largest number": (_tensor(shape=[2**63 - 1] * 4), INVALID, "inputs[0].shape", "unexpected shape"),
    # sizes
    "a byte too few": (_tensor(bytes(1567)), INVALID, "raw_input_contents[0]", "byte size 1567 for input 'images'"),
    "a byte too many": (_tensor(bytes(1569)), INVALID, "raw_input_contents[0]", "expecting 1568"),
    "no bytes": (_tensor(b""), INVALID, "raw_input_contents[0]", "unexpected total byte size 0"),
    "FP32 of a byte a value": (_tensor(datatype="FP32"), INVALID, "raw_input_contents[0]", "expecting 6272"),
    "message too large": (_tensor(bytes(17 << 20)), EXHAUSTED, "", "larger than max"),
    # raw and typed
    "raw and typed": (_both, INVALID, "inputs[0].contents", "contents field must not be specified"),
    "neither raw nor typed": (_neither, INVALID, "inputs[0].contents", "no values"),
    "raw contents for nothing": (
        lambda request: request.raw_input_contents.append(b""), INVALID, "raw_input_contents", "2 contents for 1 inputs"
    ),
    "raw contents without inputs": (
        lambda request: request.inputs.pop(), INVALID, "raw_input_contents", "1 contents for 0 inputs"
    ),
    "fewer raw contents than inputs": (
        lambda request: request.inputs.add(name="images"), INVALID, "raw_input_contents", "1 contents for 2 inputs"
    ),
    "too few typed": (
        _typed("UINT8", uint_contents=[0] * 783), INVALID, "inputs[0].contents.uint_contents", "783"
    ),
    "too many typed": (
        _typed("UINT8", uint_contents=[0] * 785), INVALID, "inputs[0].contents.uint_contents", "expecting 784"
    ),
    "256 as UINT8": (
        _typed("UINT8", uint_contents=[0] * 783 + [256]), INVALID, "inputs[0].contents.uint_contents", "256 does not"
    ),
    "largest uint32 as UINT8": (
        _typed("UINT8", uint_contents=[2**32 - 1] * 784), INVALID, "inputs[0].contents.uint_contents", "4294967295"
    ),
    "UINT8 as signed": (
        _typed("UINT8", int_contents=[0] * 784), INVALID, "inputs[0].contents.int_contents", "uint_contents"
    ),
    "UINT8 as bytes": (
        _typed("UINT8", bytes_contents=[bytes(784)]), INVALID, "inputs[0].contents.bytes_contents", "uint_contents"
    ),
    "FP32 as doubles": (
        _typed("FP32", fp64_contents=[0.0] * 784), INVALID, "inputs[0].contents.fp64_contents", "fp32_contents"
    ),
    "two kinds of contents": (
        _typed("UINT8", uint_contents=[0] * 784, bool_contents=[True]),
        INVALID, "inputs[0].contents.bool_contents", "uint_contents",
    ),
    "typed NaN": (
        _typed("FP32", fp32_contents=[0.0] * 783 + [float("nan")]),
        INVALID, "inputs[0].contents.fp32_contents", "nan of images[0], row 27, column 27",
    ),
    # values
    "NaN": (_floats(float("nan")), INVALID, "raw_input_contents[0]", "nan of images[0], row 0, column 0, channel 0"),
    "infinity": (_floats(float("inf"), 784), INVALID, "raw_input_contents[0]", "inf of images[1]"),
    "minus infinity": (_floats(float("-inf")), INVALID, "raw_input_contents[0]", "-inf"),
    "largest float": (_floats(3.4e38), INVALID, "raw_input_contents[0]", "3.4e+38"),
    "255 as FP32": (_floats(255.0, 29), INVALID, "raw_input_contents[0]", "255 of images[0], row 1, column 1"),
    "half a step": (_floats(0.5), INVALID, "raw_input_contents[0]", "steps of 1/255"),
    "a little below 0": (_floats(-1 / 255), INVALID, "raw_input_contents[0]", "between 0 and 1"),
    "a little above 1": (_floats(256 / 255), INVALID, "raw_input_contents[0]", "between 0 and 1"),
    "standardised": (_floats(-0.4242), INVALID, "raw_input_contents[0]", "is not a pixel divided by 255"),
    # outputs
    "unknown output": (_outputs("labels"), INVALID, "outputs[0].name", "unexpected inference output 'labels'"),
    "output without name": (_outputs(""), INVALID, "outputs[0].name", "unexpected inference output ''"),
    "output twice": (_outputs("logits", "logits"), INVALID, "outputs[1].name", "twice"),
    "output of 10 kB name": (_outputs(TEN_KB), INVALID, "outputs[0].name", "…"),
    "1,000 unknown outputs": (_thousand_outputs, INVALID, "request", "and 995 more"),
    "-1 classes": (
        _outputs("logits", int64_param=-1), INVALID, "outputs[0].parameters['classification']", "0 or more"
    ),
    "classes in words": (
        _outputs("logits", string_param="3"), INVALID, "outputs[0].parameters['classification']", "number of classes"
    ),
    "classes as bool": (
        _outputs("logits", bool_param=True), INVALID, "outputs[0].parameters['classification']", "number of classes"
    ),
    "output in shared memory": (
        _output_parameter("shared_memory_region", string_param="r"),
        INVALID, "outputs[0].parameters['shared_memory_region']", "no such parameter",
    ),
    # parameters
    "unknown parameter": (_parameter("beam", int64_param=4), INVALID, "parameters['beam']", "no such parameter"),
    "parameter without name": (_parameter("", int64_param=4), INVALID, "parameters['']", "no such parameter"),
    "priority": (_parameter("priority", uint64_param=1), INVALID, "parameters['priority']", "must be 0"),
    "priority in words": (_parameter("priority", string_param="0"), INVALID, "parameters['priority']", "must be 0"),
    "timeout in words": (_parameter("timeout", string_param="5s"), INVALID, "parameters['timeout']", "microseconds"),
    "negative timeout": (_parameter("timeout", int64_param=-1), INVALID, "parameters['timeout']", "0 or more"),
    "fractional timeout": (_parameter("timeout", double_param=0.5), INVALID, "parameters['timeout']", "microseconds"),
    "timeout without value": (_parameter("timeout"), INVALID, "parameters['timeout']", "microseconds"),
    "sequence": (_parameter("sequence_id", int64_param=9), INVALID, "parameters['sequence_id']", "no sequences"),
    "final response in words": (
        _parameter("triton_enable_empty_final_response", string_param="yes"),
        INVALID, "parameters['triton_enable_empty_final_response']", "true or false",
    ),
    "content type": (
        _parameter("content_type", string_param="pd"), INVALID, "parameters['content_type']", "must be 'np'"
    ),
    "content type of an input": (
        _of_input("content_type", string_param="image_bytes"),
        INVALID, "inputs[0].parameters['content_type']", "must be 'np'",
    ),
    "content type of an output": (
        _output_parameter("content_type", int64_param=1),
        INVALID, "outputs[0].parameters['content_type']", "must be 'np'",
    ),
    "input in shared memory": (
        _of_input("shared_memory_region", string_param="r"),
        INVALID, "inputs[0].parameters['shared_memory_region']", "no such parameter",
    ),
    "binary size of other bytes": (
        _of_input("binary_data_size", int64_param=1567),
        INVALID, "inputs[0].parameters['binary_data_size']", "number of the input's raw bytes",
    ),
    # all at once
    "several things": (_several, INVALID, "inputs[0].shape", "got [2,28,28]"),
}  # fmt: skip


def _refusal(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value


def _violations(error: grpc.RpcError) -> dict[str, str]:
    (encoded,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    found = {}
    for packed in status_pb2.Status.FromString(encoded).details:
        detail = error_details_pb2.BadRequest()
        assert packed.Unpack(detail)
        found.update({violation.field: violation.description for violation in detail.field_violations})
    return found


def test_the_table_is_as_long_as_promised_and_the_request_that_it_spoils_is_good(stub) -> None:
    assert len(REFUSED) >= 60
    assert len(stub.ModelInfer(good(), timeout=20).raw_output_contents) == 2


@pytest.mark.parametrize(("change", "code", "field", "said"), REFUSED.values(), ids=REFUSED)
def test_the_error_of_a_malformed_request_says_what_is_wrong(
    stub, change: Callable, code: grpc.StatusCode, field: str, said: str
) -> None:
    request = good()
    change(request)
    error = _refusal(lambda: stub.ModelInfer(request, timeout=20))
    assert error.code() is code
    if field:
        violations = _violations(error)
        assert said in violations[field]
        assert f"{field}: {violations[field]}" in error.details()
    else:
        assert said in error.details()
    assert len(error.details()) < 2000
    if code is EXHAUSTED:  # a stream ends where a message is too large
        return
    # The same on a stream, which goes on.
    bad, fine = stub.ModelStreamInfer(iter([request, good()]), timeout=20)
    assert bad.error_message == error.details()
    assert not fine.error_message


def test_everything_that_is_wrong_is_named_at_once(stub) -> None:
    request = good()
    _several(request)
    error = _refusal(lambda: stub.ModelInfer(request, timeout=20))
    assert set(_violations(error)) == {
        "parameters['priority']",
        "outputs[0].name",
        "inputs[0].datatype",
        "inputs[0].shape",
    }


@pytest.mark.parametrize(
    ("method", "request_", "code", "said"),
    [
        ("ModelMetadata", pb.ModelMetadataRequest(), NOT_FOUND, "unknown model: ''"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="../x"), NOT_FOUND, "unknown model: '../x'"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="mnist_convnet", version="2"), NOT_FOUND, "version 2"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="mnist_convnet", version="two"), INVALID, "model_version"),
        ("ModelConfig", pb.ModelConfigRequest(name=TEN_KB), NOT_FOUND, "unknown model"),
        ("ModelConfig", pb.ModelConfigRequest(name="mnist_convnet", version="../../1"), INVALID, "model_version"),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="模型"), NOT_FOUND, "'模型'"),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="mnist_convnet", version="0"), INVALID, "model_version"),
        ("ModelStatistics", pb.ModelStatisticsRequest(version="1"), INVALID, "name"),
        ("ModelReady", pb.ModelReadyRequest(name="mnist_convnet", version="x"), INVALID, "model_version"),
        ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="../"), INVALID, "'repository_name'"),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="../x"), UNIMPLEMENTED, "not allowed"),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="x"), UNIMPLEMENTED, "not allowed"),
    ],
)
def test_the_other_methods_refuse_what_they_can_t_answer(
    stub, method: str, request_: object, code: grpc.StatusCode, said: str
) -> None:
    error = _refusal(lambda: getattr(stub, method)(request_, timeout=20))
    assert error.code() is code
    assert said in error.details()
