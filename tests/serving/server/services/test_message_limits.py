"""What a message may hold is decided before it is parsed, and no message hurts others more than it weighs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from protos.digits.v1 import digits_pb2
from protos.inference import inference_pb2 as pb
from serving.errors import InvalidRequest
from serving.server.services.message_limits import MessageLimits

LIMITS = MessageLimits(max_images=1024, max_message_bytes=16 << 20)
Infer, Classify = pb.ModelInferRequest, digits_pb2.ClassifyRequest
Tensor, Contents = Infer.InferInputTensor, pb.InferTensorContents


def _images(count: int, content: bytes = b"") -> Message:
    return Classify(encoded_images=digits_pb2.EncodedImages(images=[content] * count))


ACCEPTED = {
    "nothing": Infer(),
    "pixels": Classify(raw_images=digits_pb2.RawImages(pixels=bytes(16 << 20), count=1024)),
    "as many files as a request may have": _images(1024, bytes(100)),
    "a few files more, for the service to count": _images(1500),
    "raw bytes": Infer(inputs=[Tensor(name="images", shape=[1, 28, 28, 1])], raw_input_contents=[bytes(15 << 20)]),
    "the largest batch in bytes as numbers": Infer(
        inputs=[Tensor(contents=Contents(uint_contents=[255] * (1024 * 784)))]
    ),
    "the largest batch as floats": Infer(inputs=[Tensor(contents=Contents(fp32_contents=[1.0] * (1024 * 784)))]),
    "a thousand outputs with parameters": Infer(
        outputs=[
            Infer.InferRequestedOutputTensor(
                name="logits", parameters={"classification": pb.InferParameter(int64_param=3)}
            )
        ]
        * 1000
    ),
}


@pytest.mark.parametrize("message", ACCEPTED.values(), ids=ACCEPTED)
def test_what_requests_need_is_accepted(message: Message) -> None:
    LIMITS.check(type(message), message.SerializeToString())


MILLION = 1_000_000
# The type, the bytes, and the sentence.
REFUSED = {
    "tensors": (Infer, b"\x2a\x00" * MILLION, "inputs: more than 1,024 in a message"),
    "outputs": (Infer, b"\x32\x00" * MILLION, "outputs: more than 1,024 in a message"),
    "the same field again and again": (Infer, b"\x0a\x00" * MILLION, "model_name: more than 1,024 in a message"),
    "parameters in several tensors": (
        Infer,
        Infer(inputs=[Tensor(parameters={str(n): pb.InferParameter() for n in range(99)})] * 99).SerializeToString(),
        "inputs.parameters: more than 1,024 in a message",
    ),
    "files": (
        Classify,
        _images(5000).SerializeToString(),
        "encoded_images.images: more than 2,048 in a message",
    ),
    "dimensions": (
        Infer,
        Infer(inputs=[Tensor(shape=[1] * (2 << 20))]).SerializeToString(),
        "inputs.shape: more than 1,048,576 bytes in a message",
    ),
    "dimensions of several tensors": (
        Infer,
        Infer(inputs=[Tensor(shape=[1] * (2 << 10))] * 1000).SerializeToString(),
        "inputs.shape: more than 1,048,576 bytes in a message",
    ),
    "whole numbers": (
        Infer,
        Infer(inputs=[Tensor(contents=Contents(uint_contents=bytes(9 << 20)))]).SerializeToString(),
        "inputs.contents.uint_contents: more than 8,388,608 bytes in a message",
    ),
    "a text": (
        health_pb2.HealthCheckRequest,
        health_pb2.HealthCheckRequest(service="x" * (2 << 20)).SerializeToString(),
        "service: more than 1,048,576 bytes in a message",
    ),
    "fields that nobody knows": (
        Infer,
        b"\xf8\x3f\x00" * MILLION,
        "request: more than 1,024 fields in a message that this server does not know",
    ),
}


@pytest.mark.parametrize(("kind", "content", "said"), REFUSED.values(), ids=REFUSED)
def test_a_message_that_holds_too_much_is_refused(kind: type[Message], content: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        LIMITS.check(kind, content)
    assert str(refused.value) == said


BROKEN = {
    "ends in a tag": b"\xff",
    "ends in a length": b"\x2a\xff",
    "ends in its contents": b"\x2a\x05\x00",
    "ends in a fixed number": b"\x2a\x02\x15\x00",
    "no field's number": b"\x00\x00",
    "a tag of 35 bits": b"\xff\xff\xff\xff\x7f\x00",
    "a number of 71 bits": b"\x10" + b"\xff" * 10 + b"\x00",
    "a group": b"\x0b\x0c",
    "a kind that does not exist": b"\x0f",
    "a field longer than the message around it": b"\x2a\x02\x0a\x05" + bytes(9),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_bytes_that_are_no_message_are_refused(content: bytes) -> None:
    with pytest.raises(DecodeError):
        LIMITS.check(Infer, content)


def test_attacks_on_every_method_are_refused_and_hurt_nobody() -> None:
    """With small messages here, and with the largest in `make attacks`. The limits only tell a fault from none."""
    attacks = Path(__file__).parents[3] / "manual" / "attacks.py"
    limits = ("--max-seconds", "5", "--max-delay", "5", "--max-megabytes", "100")
    done = subprocess.run(
        [sys.executable, attacks, "--megabytes", "1", *limits], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"^(\d+) attacks", done.stdout, re.MULTILINE)[1]) > 400


def test_a_refused_message_does_not_wait_for_the_garbage_collector(start_server: Callable, tmp_path: Path) -> None:
    """Whose turn may come when hundreds of megabytes are kept."""
    (tmp_path / "sitecustomize.py").write_text("import gc\ngc.disable()\n")
    content = Classify(raw_images=digits_pb2.RawImages(pixels=bytes(15 << 20), count=7)).SerializeToString()
    refused = []
    with (
        start_server(env={**os.environ, "PYTHONPATH": str(tmp_path)}) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        classify = channel.unary_unary("/digits.v1.DigitClassifierService/Classify")
        memory = []
        for _ in range(12):
            with pytest.raises(grpc.RpcError) as error:
                classify(content, timeout=30)
            refused.append(error.value.code())
            memory.append(psutil.Process(running.process.pid).memory_info().rss)
    assert {*refused} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert memory[-1] < memory[1] + 5 * len(content)
