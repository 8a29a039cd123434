"""The Open Inference Protocol over HTTP: the same answers and rules as over gRPC, for clients as simple as curl."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import ssl
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos.inference import inference_pb2 as pb
from protos.inference import inference_pb2_grpc

INFER = "/v2/models/mnist_convnet/infer"
JSON_LENGTH = "Inference-Header-Content-Length"
Start = Callable[..., object]


def _http(server) -> str:
    """Host and port, from the second line of the announcement."""
    return re.fullmatch(r"http on https?://(\S+)\n", server.process.stdout.readline())[1]


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> dict:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def _ask(
    address: str,
    path: str,
    body: object = None,
    *,
    headers: dict[str, str] | None = None,
    method: str = "",
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own; anything but bytes is sent as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection = (
        http.client.HTTPConnection(address, timeout=20)
        if tls is None
        else http.client.HTTPSConnection(address, timeout=20, context=tls)
    )
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def _document(images: np.ndarray, *, flat: bool = False, **more: object) -> dict:
    """A request with its images as JSON."""
    datatype = {"uint8": "UINT8", "float32": "FP32"}[str(images.dtype)]
    data = (images.ravel() if flat else images).tolist()
    tensor = {"name": "images", "shape": list(images.shape), "datatype": datatype, "data": data}
    return {"inputs": [tensor], **more}


def _binary(images: np.ndarray, **more: object) -> tuple[bytes, dict[str, str]]:
    """A request with its images as bytes after the JSON, and the header for that."""
    document = _document(images[:0], **more)
    del document["inputs"][0]["data"]
    document["inputs"][0] |= {"shape": list(images.shape), "parameters": {"binary_data_size": images.nbytes}}
    text = json.dumps(document).encode()
    return text + images.tobytes(), {JSON_LENGTH: str(len(text))}


def _floats(output: dict) -> np.ndarray:
    assert output["datatype"] == "FP32"
    return np.array(output["data"], np.float32).reshape(output["shape"])


def _tensors(answer: Answer) -> dict[str, bytes]:
    """The tensors that came as bytes, by name."""
    length = int(answer.headers[JSON_LENGTH])
    found, left = {}, answer.body[length:]
    for output in json.loads(answer.body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]], left = left[:size], left[size:]
    assert not left
    return found


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[object]:
    with start_server("--http-port", "0", "--provider", "cpu") as running:
        yield running
        code, stderr = running.stop()
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert "uvicorn" not in stderr


@pytest.fixture(scope="module")
def address(server) -> str:
    return _http(server)


@pytest.fixture
def stub(server) -> Iterator[inference_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def _over_grpc(stub, images: np.ndarray) -> dict[str, bytes]:
    datatype = {"uint8": "UINT8", "float32": "FP32"}[str(images.dtype)]
    tensor = pb.ModelInferRequest.InferInputTensor(name="images", datatype=datatype, shape=images.shape)
    request = pb.ModelInferRequest(model_name="mnist_convnet", inputs=[tensor], raw_input_contents=[images.tobytes()])
    response = stub.ModelInfer(request, timeout=20)
    names = [output.name for output in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=True))


@pytest.mark.parametrize("rows", [1, 7, 64, 500])
def test_answers_are_those_of_grpc_to_the_last_bit(address: str, stub, digits: tuple, rows: int) -> None:
    images = np.ascontiguousarray(digits[0][:rows])
    expected = _over_grpc(stub, images)
    scaled = images.astype(np.float32) / 255
    for sent in (_document(images), _document(images, flat=True), _document(scaled), _document(scaled, flat=True)):
        answer = _ask(address, INFER, {**sent, "id": "é-7"})
        assert answer.status == 200
        assert (answer.json["model_name"], answer.json["model_version"], answer.json["id"]) == (
            "mnist_convnet",
            "1",
            "é-7",
        )
        assert {o["name"]: _floats(o).tobytes() for o in answer.json["outputs"]} == expected
    for sent in (images, scaled):
        body, headers = _binary(sent, parameters={"binary_data_output": True})
        answer = _ask(address, "/v2/models/mnist_convnet/versions/1/infer", body, headers=headers)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert _tensors(answer) == expected


def test_the_largest_batch_as_json_is_answered(address: str, stub, digits: tuple) -> None:
    images = np.tile(digits[0], (3, 1, 1, 1))[:1024]
    answer = _ask(address, INFER, _document(images))
    assert {o["name"]: _floats(o).tobytes() for o in answer.json["outputs"]} == _over_grpc(stub, images)


def test_outputs_come_as_they_are_asked_for(address: str, digits: tuple) -> None:
    wanted = [
        {"name": "probabilities", "parameters": {"classification": 3, "binary_data": False}},
        {"name": "logits", "parameters": {"binary_data": True}},
    ]
    document = _document(digits[0][:5], outputs=wanted, parameters={"binary_data_output": True})
    answer = _ask(address, INFER, document)
    length = int(answer.headers[JSON_LENGTH])
    strings, logits = json.loads(answer.body[:length])["outputs"]
    assert (strings["name"], strings["datatype"], strings["shape"]) == ("probabilities", "BYTES", [5, 3])
    best = [text.split(":") for text in strings["data"][::3]]
    assert [int(index) for _, index, _ in best] == [int(label) for _, _, label in best] == digits[1][:5].tolist()
    assert (logits["name"], logits["parameters"]) == ("logits", {"binary_data_size": 200})
    assert len(answer.body) == length + 200
    document["outputs"] = [{"name": "probabilities", "parameters": {"classification": 2}}]
    answer = _ask(address, INFER, document)  # strings as bytes, each after its length
    raw = _tensors(answer)["probabilities"]
    (length,) = struct.unpack_from("<I", raw)
    assert raw[4 : 4 + length].decode().endswith(f":{digits[1][0]}")
    document = _document(digits[0][:5], outputs=[{"name": "logits"}])
    assert [output["name"] for output in _ask(address, INFER, document).json["outputs"]] == ["logits"]


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_requests_are_read(address: str, digits: tuple, encoding: str, compress: Callable) -> None:
    body, headers = _binary(digits[0][:50])
    answer = _ask(address, INFER, compress(body), headers={**headers, "Content-Encoding": encoding})
    (probabilities,) = [_floats(o) for o in answer.json["outputs"] if o["name"] == "probabilities"]
    assert probabilities.argmax(axis=1).tolist() == digits[1][:50].tolist()


def test_a_body_in_chunks_is_read(address: str, digits: tuple) -> None:
    body = json.dumps(_document(digits[0][:3])).encode()
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", INFER, iter([body[:100], body[100:]]), encode_chunked=True)
    assert Answer(connection.getresponse()).status == 200


def test_the_server_and_its_model_describe_themselves(address: str, shipped) -> None:
    found = _ask(address, "/v2").json
    assert found["name"] == "digits-serving"
    assert set(found["extensions"]) == {"binary_tensor_data", "classification", "model_configuration", "statistics"}
    for path in ("/v2/models/mnist_convnet", "/v2/models/mnist_convnet/versions/1"):
        assert _ask(address, path).json == {
            "name": "mnist_convnet",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}],
            "outputs": [
                {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
                *([{"name": "no_digit", "datatype": "FP32", "shape": [-1, 1]}] if shipped.manifest.no_digit else []),
            ],
        }
        assert _ask(address, f"{path}/ready").status == 200
        config = _ask(address, f"{path}/config").json
        assert config["max_batch_size"] == 1024
        assert config["input"][0]["dims"] == [28, 28, 1]
        assert config["input"][0]["data_type"] == "TYPE_UINT8"
        assert config["version_policy"]["specific"]["versions"] == [1]
        assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 0}
        assert config["parameters"]["sha256"] == {"string_value": shipped.manifest.sha256}
        (stats,) = _ask(address, f"{path}/stats").json["model_stats"]
        assert isinstance(stats["inference_stats"]["success"]["ns"], int)
    assert [model["name"] for model in _ask(address, "/v2/models/stats").json["model_stats"]] == ["mnist_convnet"]
    ready = {"name": "mnist_convnet", "version": "1", "state": "READY", "reason": ""}
    for body in (None, b"", {}, {"ready": True}):
        assert json.loads(_ask(address, "/v2/repository/index", body).body) == [ready]
    for path in ("/v2/models/other/ready", "/v2/models/mnist_convnet/versions/2/ready"):
        assert _ask(address, path).status == 400
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert _ask(address, path).status == 200
        answer = _ask(address, path, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")


def test_a_connection_takes_one_request_after_the_other(address: str, digits: tuple) -> None:
    host, port = address.split(":")
    body = json.dumps(_document(digits[0][:1])).encode()
    request = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection((host, int(port)), timeout=20) as connection, connection.makefile("rb") as stream:
        connection.sendall(request * 5)  # before the first is answered
        for _ in range(5):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = http.client.parse_headers(stream)
            assert b"probabilities" in stream.read(int(headers["content-length"]))


def test_an_id_of_the_request_comes_back(address: str) -> None:
    answer = _ask(address, "/v2/models/other", headers={"X-Request-Id": "abc-1"})
    assert (answer.status, answer.headers["x-request-id"]) == (404, "abc-1")
    assert _ask(address, "/v2", headers={"X-Request-Id": "two words"}).headers["x-request-id"] is None


def test_the_commands_in_the_docs_work(address: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "docs" / "oip.md").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    first, rest = commands.split("\n", 1)
    assert first == "digits-serve --port 50055 --http-port 8000 &"
    assert rest.count("curl http://127.0.0.1:8000/") == rest.count("curl") == 3
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            rest.replace("127.0.0.1:8000", address).replace("curl", "curl -sSf -w '\\n'"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    model, answer, classified = map(json.loads, done.stdout.splitlines())
    assert model["name"] == "mnist_convnet"
    assert [output["shape"] for output in answer["outputs"]] == [[1, 10], [1, 10]]
    assert len(classified["outputs"][0]["data"]) == 6


# What other clients add to a request: nulls for what they know and do not use, and MLServer's word for arrays.
ADDED = {
    "nulls of a request": (dict.fromkeys(("id", "parameters", "outputs")), {}),
    "null parameters": ({"parameters": {"content_type": None, "headers": None, "binary_data_output": None}}, {}),
    "null parameters of an input": ({}, {"parameters": None}),
    "a content type of the request": ({"parameters": {"content_type": "np"}}, {}),
    "a content type of the input": ({}, {"parameters": {"content_type": "np", "headers": None}}),
    "a content type of an output": (
        {"outputs": [{"name": "probabilities", "parameters": {"content_type": "np"}}, {"name": "logits"}]},
        {},
    ),
}


@pytest.mark.parametrize(("members", "of_input"), ADDED.values(), ids=ADDED)
def test_what_other_clients_add_changes_nothing(
    address: str, stub, digits: tuple, members: dict, of_input: dict
) -> None:
    images = np.ascontiguousarray(digits[0][:3])
    document = {**_document(images), **members}
    document["inputs"][0] |= of_input
    answer = _ask(address, INFER, document)
    assert answer.status == 200, answer.body
    assert "id" not in answer.json
    assert {o["name"]: _floats(o).tobytes() for o in answer.json["outputs"]} == _over_grpc(stub, images)


def test_floats_that_were_rounded_to_five_digits_are_the_same_pixels(address: str, stub) -> None:
    images = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28, 1))
    rounded = np.round(images.astype(np.float64) / 255, 5)
    expected = _over_grpc(stub, images)
    document = _document(images)
    document["inputs"][0] |= {"datatype": "FP32", "data": rounded.ravel().tolist()}
    answer = _ask(address, INFER, document)
    assert {o["name"]: _floats(o).tobytes() for o in answer.json["outputs"]} == expected
    assert _over_grpc(stub, rounded.astype(np.float32)) == expected


# --- what is refused

BLANK = np.zeros((1, 28, 28, 1), np.uint8)


def _with(**members: object) -> dict:
    """A good request with other members."""
    return {**_document(BLANK), **members}


def _tensor(**members: object) -> dict:
    """A good request whose input has other members; None removes one."""
    tensor = {**_document(BLANK)["inputs"][0], **members}
    return {"inputs": [{name: value for name, value in tensor.items() if value is not None}]}


def _data(text: str, datatype: str = "UINT8") -> bytes:
    """A request whose data are this text."""
    return json.dumps(_tensor(data=["x"], datatype=datatype)).replace('["x"]', text).encode()


def _zeros(last: str, datatype: str = "UINT8") -> bytes:
    """A request for an image that is blank but for the last pixel."""
    return _data(f"[{'0,' * 783}{last}]", datatype)


def _sizes(size: object, sent: int = 784, **members: object) -> tuple[bytes, dict[str, str]]:
    """A request with this `binary_data_size` that sends `sent` bytes."""
    text = json.dumps(_tensor(**{"data": None, "parameters": {"binary_data_size": size}, **members})).encode()
    return text + bytes(sent), {JSON_LENGTH: str(len(text))}


def _output(**parameters: object) -> dict:
    return _with(outputs=[{"name": "logits", "parameters": parameters}])


GOOD = json.dumps(_document(BLANK)).encode()

# What is sent to the path of inference, as JSON, bytes, or bytes with headers; the status; and words of the error.
REFUSED = {
    # JSON
    "nothing": (b"", 400, "not JSON"),
    "half an object": (b'{"inputs": [', 400, "not JSON"),
    "words": (b"classify this", 400, "not JSON"),
    "a form": (b"inputs=1&outputs=2", 400, "not JSON"),
    "single quotes": (b"{'inputs': []}", 400, "not JSON"),
    "a comma too many": (GOOD[:-1] + b",}", 400, "not JSON"),
    "two documents": (GOOD + GOOD, 400, "not JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, 400, "not JSON"),
    "UTF-16": (GOOD.decode().encode("utf-16"), 400, "not JSON"),
    "no UTF-8": (b'{"id": "\xff\xfe"}', 400, "not JSON"),
    "a zero byte": (b"\0" + GOOD, 400, "not JSON"),
    "100,000 brackets": (b"[" * 100_000, 400, "nested too deeply"),
    "100,000 brackets as data": (_data("[" * 100_000), 400, "must contain only numbers"),
    "100,000 arrays as data": (_data("[" * 100_000 + "]" * 100_000), 400, "nested like the shape"),
    "30,000 objects": (b'{"a":' * 30_000, 400, "nested too deeply"),
    "a megabyte of something else": (_with(id="x" * 2**20), 400, "without the numbers"),
    "an array": ([], 400, "request: must be an object"),
    "null": (b"null", 400, "request: must be an object"),
    "a number": (b"1", 400, "request: must be an object"),
    "NaN somewhere": (b'{"id": NaN}', 400, "NaN and Infinity are not JSON"),
    "Infinity in a shape": (b'{"inputs": [{"shape": [Infinity]}]}', 400, "NaN and Infinity"),
    # members
    "an unknown member": (_with(model="x"), 400, "request: unknown member 'model'"),
    "id a number": (_with(id=7), 400, "id: must be text"),
    "id half a character": (b'{"id": "\\ud800"}', 400, "id: must be text"),
    "parameters an array": (_with(parameters=[1]), 400, "parameters: must be an object"),
    "id 0": (_with(id=0), 400, "id: must be text"),
    "images in a file": (
        _with(parameters={"content_type": "image_bytes"}), 400, "parameters['content_type']: must be 'np'"
    ),
    "a parameter an object": (_with(parameters={"timeout": {}}), 400, "parameters['timeout']"),
    "a parameter beyond 64 bits": (_with(parameters={"timeout": 2**64}), 400, "parameters['timeout']"),
    "an unknown parameter": (_with(parameters={"beam": 4}), 400, "no such parameter of requests"),
    "a priority": (_with(parameters={"priority": 1}), 400, "no priority levels"),
    "a sequence": (_with(parameters={"sequence_id": 3}), 400, "takes no sequences"),
    "a timeout in words": (_with(parameters={"timeout": "soon"}), 400, "number of microseconds"),
    "binary_data_output in words": (_with(parameters={"binary_data_output": "yes"}), 400, "must be true or false"),
    "no inputs": ({}, 400, "expected 1 inputs but got 0"),
    "inputs an object": (_with(inputs={}), 400, "inputs: must be an array"),
    "inputs numbers": (_with(inputs=[1]), 400, "inputs[0]: must be an object"),
    "an input null": (_with(inputs=[None]), 400, "inputs[0]: must be an object"),
    "two inputs": (_with(inputs=_tensor()["inputs"] * 2), 400, "inputs[1].name: 'images' is given twice"),
    "1,000 inputs": (b'{"inputs": [' + b'{"name":"","datatype":"","shape":[],"parameters":{"a":1}},' * 999 + b"{}]}",
        400, "inputs[999].datatype"),
    "an unknown member of an input": (_tensor(dtype="UINT8"), 400, "inputs[0]: unknown member 'dtype'"),
    "another input": (_tensor(name="pixels"), 400, "unexpected inference input 'pixels'"),
    "an input without name": (_tensor(name=None), 400, "inputs[0].name: must be text"),
    "an input without datatype": (_tensor(datatype=None), 400, "inputs[0].datatype: must be text"),
    "FP16": (_tensor(datatype="FP16"), 400, "'FP16'"),
    "BYTES": (_tensor(datatype="BYTES", data=["0"] * 784), 400, "must contain only numbers"),
    "shared memory": (_tensor(data=None, parameters={"shared_memory_region": "r"}), 400, "shared_memory_region"),
    "no shape": (_tensor(shape=None, data=[0]), 400, "Expected [-1,28,28,1], got []"),
    "a shape in words": (_tensor(shape="1,28,28,1"), 400, "inputs[0].shape: must be an array"),
    "a shape with a fraction": (_tensor(shape=[1.0, 28, 28, 1]), 400, "must be whole numbers"),
    "a shape with true": (_tensor(shape=[True, 28, 28, 1]), 400, "must be whole numbers"),
    "a shape beyond 64 bits": (_tensor(shape=[2**63, 28, 28, 1]), 400, "must be whole numbers"),
    "a shape of other rank": (_tensor(shape=[28, 28]), 400, "must be flat, or nested like the shape"),
    "a flat tensor of other rank": (_tensor(shape=[1, 784], data=[0] * 784), 400, "got [1,784]"),
    "-1 images": (_tensor(shape=[-1, 28, 28, 1], data=[0] * 784), 400, "-1 images"),
    "too many images": (_tensor(shape=[1025, 28, 28, 1], data=[0]), 400, "batch-size must be <= 1024"),
    "a product beyond 64 bits": (_tensor(shape=[2**62, 28, 28, 1], data=[0]), 400, "batch-size must be"),
    # values
    "no data": (_tensor(data=None), 400, "inputs[0].data: must be an array"),
    "data a number": (_tensor(data=0), 400, "inputs[0].data: must be an array"),
    "data text": (_tensor(data="AAAA"), 400, "inputs[0].data: must be an array"),
    "data an object": (_tensor(data={"b64": "AAAA"}), 400, "inputs[0].data: must be an array"),
    "data of no images": (_data("[]"), 400, "unexpected total byte size 0"),
    "a value too few": (_data(f"[{'0,' * 782}0]"), 400, "inputs[0].data: unexpected total byte size 783"),
    "a value too many": (_data(f"[{'0,' * 784}0]"), 400, "expecting 784"),
    "rows of other lengths": (_data("[[[[0],[0]],[[0]]]]"), 400, "nested like the shape"),
    "channels first": (_tensor(data=np.zeros((1, 1, 28, 28), int).tolist()), 400, "nested like the shape"),
    "data that do not end": (_data("[0, 0"), 400, "must contain only numbers, and end"),
    "256": (_zeros("256"), 400, "inputs[0].data: '256' does not fit into UINT8"),
    "-1": (_zeros("-1"), 400, "'-1' does not fit into UINT8"),
    "a number of 400 digits": (_zeros("1" * 400), 400, "does not fit into UINT8"),
    "a number of 5,000 digits": (_zeros("1" * 5000), 400, "must be numbers"),
    "a fraction as UINT8": (_zeros("0.5"), 400, "UINT8 takes only whole numbers"),
    "true": (_zeros("true"), 400, "UINT8 takes only whole numbers"),
    "a null": (_zeros("null"), 400, "UINT8 takes only whole numbers"),
    "NaN as a value": (_zeros("NaN", "FP32"), 400, "must be numbers"),
    "1e999": (_zeros("1e999", "FP32"), 400, "inf of images[0], row 27, column 27"),
    "an integer of 400 digits as FP32": (_zeros("1" * 400, "FP32"), 400, "too large for FP32"),
    "half a step": (_zeros("0.5", "FP32"), 400, "inputs[0].data: the value 0.5 of images[0]"),
    "white divided by 256": (_zeros(str(255 / 256), "FP32"), 400, "inputs[0].data: the value 0.996094 of images[0]"),
    "a comma too few": (_zeros("0 0"), 400, "separated by commas"),
    "a comma too many in data": (_zeros(",0"), 400, "separated by commas"),
    # outputs
    "outputs text": (_with(outputs="logits"), 400, "outputs: must be an array"),
    "an output as text": (_with(outputs=["logits"]), 400, "outputs[0]: must be an object"),
    "another output": (_with(outputs=[{"name": "labels"}]), 400, "unexpected inference output 'labels'"),
    "an output twice": (_with(outputs=[{"name": "logits"}] * 2), 400, "is requested twice"),
    "binary_data a number": (_output(binary_data=1), 400, "outputs[0].parameters['binary_data']: must be true"),
    "-1 classes": (_output(classification=-1), 400, "0 or more"),
    "classes in words": (_output(classification="three"), 400, "number of classes"),
    "an unknown parameter of an output": (_output(shared_memory_region="r"), 400, "no such parameter of outputs"),
    # bytes after the JSON
    "JSON longer than the body": ((GOOD, {JSON_LENGTH: str(len(GOOD) + 1)}), 400, f"the body's {len(GOOD)} bytes"),
    "JSON of no bytes": ((GOOD, {JSON_LENGTH: "0"}), 400, f"{JSON_LENGTH}: must be the length"),
    "JSON of -1 bytes": ((GOOD, {JSON_LENGTH: "-1"}), 400, f"{JSON_LENGTH}: must be the length"),
    "a length in words": ((GOOD, {JSON_LENGTH: "all"}), 400, f"{JSON_LENGTH}: must be the length"),
    "a length of 5,000 digits": ((GOOD, {JSON_LENGTH: "1" * 5000}), 400, f"{JSON_LENGTH}: must be the length"),
    "JSON shorter than it is": ((GOOD, {JSON_LENGTH: "100"}), 400, ""),
    "bytes without a header": (_sizes(784)[0], 400, "not JSON"),
    "a size without bytes": (_sizes(784, sent=0), 400, "0 are left after the JSON"),
    "a size beyond the bytes": (_sizes(785), 400, "784 are left after the JSON"),
    "a size of -1": (_sizes(-1), 400, "must be a number of bytes"),
    "a size beyond 64 bits": (_sizes(2**70), 400, "must be a number of bytes"),
    "a size in words": (_sizes("784"), 400, "must be a number of bytes"),
    "a size with a fraction": (_sizes(784.0), 400, "must be a number of bytes"),
    "a size of true": (_sizes(True), 400, "must be a number of bytes"),
    "bytes of no input": (_sizes(784, sent=1000), 400, "216 bytes after the JSON belong to no input"),
    "bytes and data": (_sizes(784, data=[0]), 400, "the values are already in 'data'"),
    "bytes that do not fit the shape": (_sizes(784, shape=[2, 28, 28, 1]), 400, "expecting 1568"),
    "bytes of another type": (_sizes(784, datatype="FP32"), 400, "inputs[0].data: unexpected total byte size 784"),
    # compression
    "Brotli": ((GOOD, {"Content-Encoding": "br"}), 415, "must be gzip or deflate"),
    "gzip twice": ((GOOD, {"Content-Encoding": "gzip, gzip"}), 415, "must be gzip or deflate"),
    "no gzip": ((GOOD, {"Content-Encoding": "gzip"}), 400, "not compressed as"),
    "half of gzip": ((gzip.compress(GOOD)[:-9], {"Content-Encoding": "gzip"}), 400, "ends too early"),
    "more after gzip": ((gzip.compress(GOOD) + b"x", {"Content-Encoding": "gzip"}), 400, "too late"),
    # size
    "a body over the limit": (GOOD + b" " * (17 << 20), 413, "the body is larger than max (16850944 bytes)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def connection(address: str) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection(address, timeout=60)
    yield made
    made.close()


@pytest.mark.parametrize(("sent", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_the_error_of_a_malformed_request_says_what_is_wrong(
    connection: http.client.HTTPConnection, sent: object, status: int, said: str
) -> None:
    """And its connection goes on."""
    body, headers = sent if isinstance(sent, tuple) else (sent, {})
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", INFER, body, headers)
    answer = Answer(connection.getresponse())
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"error"}
    assert said in answer.json["error"]
    assert len(answer.body) < 2000
    connection.request("POST", INFER, GOOD)
    assert Answer(connection.getresponse()).status == 200


def test_a_compressed_bomb_is_refused_before_it_fills_the_memory(server, address: str) -> None:
    """Half a gigabyte of zeros out of half a megabyte."""

    def peak_bytes() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    before = peak_bytes()
    answer = _ask(address, INFER, gzip.compress(bytes(1 << 29)), headers={"Content-Encoding": "gzip"})
    assert answer.status == 413
    assert peak_bytes() < before + (64 << 20)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/index.html", None, 404, "nothing at this path"),
        ("GET", "/v2/", None, 404, "nothing"),
        ("GET", "/v1/models", None, 404, "nothing"),
        ("GET", "//v2", None, 404, "nothing"),
        ("GET", "/v2/../v2", None, 404, "nothing"),
        ("GET", "/v2/models/", None, 404, "nothing"),
        ("GET", "/" + "x" * 20_000, None, 404, "nothing"),
        ("GET", "/v2/systemsharedmemory/status", None, 404, "nothing"),
        ("GET", "/v2/models/resnet", None, 404, "Request for unknown model: 'resnet' is not found"),
        ("GET", "/v2/models/" + "x" * 10_000, None, 404, "…' is not found"),
        ("GET", "/v2/models/%2e%2e", None, 404, "'..' is not found"),
        ("GET", "/v2/models/..%2Fmnist_convnet", None, 404, "nothing"),
        ("GET", "/v2/models/%D0%BC%00%0a", None, 404, r"'м\x00\n' is not found"),
        ("GET", "/v2/models/%ff", None, 404, "is not found"),
        ("GET", "/v2/models/mnist_convnet/versions/7/config", None, 404, "version 7 is not found"),
        ("GET", "/v2/models/mnist_convnet/versions/0/stats", None, 400, "must be a number above 0"),
        ("POST", "/v2/models/mnist_convnet/versions/latest/infer", GOOD, 400, "'latest'"),
        ("POST", "/v2/models/resnet/infer", GOOD, 404, "unknown model: 'resnet'"),
        ("POST", "/v2/models/mnist_convnet", GOOD, 405, "takes another method"),
        ("GET", INFER, None, 405, "takes another method"),
        ("PUT", INFER, GOOD, 405, "takes another method"),
        ("DELETE", "/v2/models/mnist_convnet", None, 405, "takes another method"),
        ("BREW", "/v2", None, 405, "takes another method"),
        ("POST", "/healthz", GOOD, 405, "takes another method"),
        ("POST", "/v2/repository/index", b'{"ready": "yes"}', 400, "ready: must be true or false"),
        ("POST", "/v2/repository/index", b'{"name": 1}', 400, "unknown member 'name'"),
        ("POST", "/v2/repository/index", b"[", 400, "not JSON"),
        ("POST", "/v2/repository/models/mnist_convnet/load", b"", 501, "load / unload is not allowed"),
        ("POST", "/v2/repository/models/x/unload", b'{"parameters": {"a": true}}', 400, "no parameter is supported"),
        ("POST", "/v2/repository/models/x/load", b'{"parameters": {"a": 1.5}}', 400, "parameters['a']"),
        ("POST", "/v2/repository/models/x/load", b'{"parameters": []}', 400, "parameters: must be an object"),
    ],
)  # fmt: skip
def test_unknown_paths_and_methods_get_errors_too(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, status: int, said: str
) -> None:
    connection.request(method, path, body)
    answer = Answer(connection.getresponse())
    assert (answer.status, answer.json.keys()) == (status, {"error"})
    assert said in answer.json["error"]
    assert status != 405 or answer.headers["allow"]


def _raw_answer(address: str, sent: bytes) -> bytes:
    """What comes until the server closes."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


POST = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
CHUNKED = f"{len(GOOD):x}\r\n{GOOD.decode()}\r\n0\r\n\r\n".encode()
MEGABYTE = b"100000\r\n" + bytes(1 << 20) + b"\r\n"


@pytest.mark.parametrize("path", ["POST /v2/models/net/infer", "GET /v2", "GET /nowhere"])
def test_a_length_given_in_two_ways_ends_the_connection(address: str, path: str) -> None:
    """What follows may be a body to a proxy, and so a smuggled request."""
    head = f"{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    began = time.monotonic()
    answer = _raw_answer(address, head.encode() + b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1
    assert time.monotonic() - began < 2  # and not once it has been idle for too long


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300), 400),  # TLS
        (b"GET /v2\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nBad header\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2**20 + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 2**20, 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2, 3\r\n\r\n{}", 400),
        (POST + b"Content-Length: -1\r\n\r\n{}", 400),
        (POST + b"Content-Length: 0x2\r\n\r\n{}", 400),
        (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}", 400),
        (POST + b"Content-Length: 99999999999\r\n\r\n{}", 413),
        (POST + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED, 400),
        (POST + b"Transfer-Encoding: rot13\r\n\r\n{}", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n{}", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + MEGABYTE * 17 + b"0\r\n\r\n", 413),
    ],
)  # fmt: skip
def test_what_is_hardly_http_is_refused(address: str, sent: bytes, status: int) -> None:
    answer = _raw_answer(address, sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body).keys() == {"error"}
    assert _ask(address, INFER, GOOD).status == 200
