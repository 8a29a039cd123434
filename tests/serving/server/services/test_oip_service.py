"""`inference.GRPCInferenceService` over the wire: right answers in every form, under the rules of `digits.v1`."""

from __future__ import annotations

import asyncio
import struct
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2 as pb
from protos.inference import inference_pb2_grpc
from serving.client import Client
from serving.config import BatcherConfig, EngineConfig, ServerConfig
from serving.inference.engine import Engine
from serving.server.process.server import Server

SERVICE = "inference.GRPCInferenceService"
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def channel(server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> inference_pb2_grpc.GRPCInferenceServiceStub:
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def _request(images: np.ndarray, outputs: tuple[str, ...] = (), **fields: object) -> pb.ModelInferRequest:
    """Images, uint8 or float32 [n, 28, 28, 1], as raw bytes."""
    datatype = {"uint8": "UINT8", "float32": "FP32"}[str(images.dtype)]
    tensor = pb.ModelInferRequest.InferInputTensor(name="images", datatype=datatype, shape=images.shape)
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs]
    return pb.ModelInferRequest(
        model_name="mnist_convnet", inputs=[tensor], raw_input_contents=[images.tobytes()], outputs=wanted, **fields
    )


def _typed(images: np.ndarray) -> pb.ModelInferRequest:
    request = _request(images)
    del request.raw_input_contents[:]
    contents = request.inputs[0].contents
    (contents.uint_contents if images.dtype == np.uint8 else contents.fp32_contents).extend(images.ravel().tolist())
    return request


def _floats(response: pb.ModelInferResponse, name: str) -> np.ndarray:
    (index,) = [i for i, output in enumerate(response.outputs) if output.name == name]
    output = response.outputs[index]
    assert output.datatype == "FP32"
    return np.frombuffer(response.raw_output_contents[index], "<f4").reshape(output.shape)


def _strings(raw: bytes) -> list[str]:
    found = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return found


def test_answers_are_those_of_the_engine_and_of_the_other_protocol(stub, server, shipped, digits: tuple) -> None:
    images = digits[0][:100]
    response = stub.ModelInfer(_request(images, id="é-7"), timeout=20)
    assert (response.model_name, response.model_version, response.id) == ("mnist_convnet", "1", "é-7")
    assert [output.name for output in response.outputs] == ["logits", "probabilities"]
    engine = Engine(shipped.content, image_shape=(28, 28, 1), classes=10, config=EngineConfig(provider="cpu"))
    engine.start()
    expected = engine.infer(images)
    np.testing.assert_allclose(_floats(response, "logits"), expected.logits, atol=1e-4)
    np.testing.assert_allclose(_floats(response, "probabilities"), expected.probabilities, atol=1e-6)
    with Client(server.address) as client:
        native = client.classify(images, probabilities=True)
    np.testing.assert_allclose(_floats(response, "probabilities"), native.probabilities, atol=1e-6)


def test_a_large_request_that_is_run_in_pieces_comes_back_whole(stub, digits: tuple) -> None:
    images = np.tile(digits[0], (2, 1, 1, 1))
    response = stub.ModelInfer(_request(images), timeout=20)
    alone = stub.ModelInfer(_request(images[777:778]), timeout=20)
    for name in ("logits", "probabilities"):
        assert _floats(response, name).shape == (1000, 10)
        np.testing.assert_allclose(_floats(response, name)[777], _floats(alone, name)[0], atol=1e-4)


@pytest.mark.parametrize(
    "scaled",
    [
        lambda images: images.astype(np.float32) / 255,
        lambda images: images.astype(np.float32) * np.float32(1 / 255),
        lambda images: (images / 255.0).astype(np.float32),
        lambda images: np.nextafter(images.astype(np.float32) / 255, np.float32(0)),
        lambda images: np.nextafter(images.astype(np.float32) / 255, np.float32(2)),
    ],
)
def test_floats_become_the_very_bytes_that_they_were(stub, scaled: Callable) -> None:
    """Every value that a pixel may have is in the image; one wrong byte would change the logits."""
    image = np.arange(784, dtype=np.uint32).astype(np.uint8).reshape(1, 28, 28, 1)
    expected = stub.ModelInfer(_request(image), timeout=20).raw_output_contents
    for request in (_request(scaled(image)), _typed(scaled(image)), _typed(image)):
        assert stub.ModelInfer(request, timeout=20).raw_output_contents == expected


def test_only_the_outputs_that_are_named_come_in_their_order(stub, digits: tuple) -> None:
    request = _request(digits[0][:3], outputs=("probabilities", "logits"))
    response = stub.ModelInfer(request, timeout=20)
    assert [output.name for output in response.outputs] == ["probabilities", "logits"]
    np.testing.assert_allclose(_floats(response, "probabilities").sum(axis=1), 1, atol=1e-5)
    assert len(stub.ModelInfer(_request(digits[0][:3], outputs=("logits",)), timeout=20).raw_output_contents) == 1


@pytest.mark.parametrize(("k", "given"), [(1, 1), (3, 3), (10, 10), (2**40, 10)])
def test_classification_gives_the_best_classes_as_strings(stub, digits: tuple, k: int, given: int) -> None:
    request = _request(digits[0][:5], outputs=("probabilities", "logits"))
    request.outputs[0].parameters["classification"].int64_param = k
    response = stub.ModelInfer(request, timeout=20)
    assert response.outputs[0].datatype == "BYTES"
    assert response.outputs[0].shape == [5, given]
    probabilities = _floats(stub.ModelInfer(_request(digits[0][:5]), timeout=20), "probabilities")
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :given]
    expected = [f"{probabilities[row, i]:f}:{i}:{i}" for row in range(5) for i in best[row]]
    assert _strings(response.raw_output_contents[0]) == expected
    assert response.outputs[1].datatype == "FP32"


def test_a_stream_answers_in_order_and_survives_a_bad_request(stub, digits: tuple) -> None:
    def requests() -> Iterator[pb.ModelInferRequest]:
        for number in range(200):
            yield _request(digits[0][number : number + 1 + number % 7], id=str(number))
            bad = _request(digits[0][:1], id=f"bad {number}")
            bad.inputs[0].shape[0] = -(2**40)
            yield bad

    responses = list(stub.ModelStreamInfer(requests(), timeout=60))
    assert len(responses) == 400
    whole = _floats(stub.ModelInfer(_request(digits[0][:300]), timeout=20), "logits")
    for number in range(200):
        answer, refusal = responses[2 * number : 2 * number + 2]
        assert (answer.error_message, answer.infer_response.id) == ("", str(number))
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        expected = whole[number : number + 1 + number % 7]
        np.testing.assert_allclose(_floats(answer.infer_response, "logits"), expected, atol=1e-4)
        assert "at least 1" in refusal.error_message
        assert refusal.infer_response.id == f"bad {number}"


def test_statistics_are_true(start_server, digits: tuple) -> None:
    sizes = [1, 3, 64, 1, 100]
    with start_server() as server, grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        (before,) = stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=20).model_stats
        assert (before.inference_count, before.execution_count, before.last_inference) == (0, 0, 0)
        for size in sizes:
            stub.ModelInfer(_request(digits[0][:size]), timeout=20)
        client.classify(digits[0][:5], timeout_s=20)
        late = _request(digits[0])
        late.parameters["timeout"].int64_param = 1
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(late, timeout=20)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(_request(digits[0][:, :27]), timeout=20)
        (found,) = stub.ModelStatistics(
            pb.ModelStatisticsRequest(name="mnist_convnet", version="1"), timeout=20
        ).model_stats
    assert (found.name, found.version) == ("mnist_convnet", "1")
    assert found.inference_count == sum(sizes) + 5
    stats = found.inference_stats
    assert (stats.success.count, stats.fail.count) == (6, 1)
    assert stats.queue.count == stats.compute_infer.count == 6
    assert stats.compute_input.count == stats.compute_output.count == 5
    # The request that ran out of time may have been in the engine by then. Batches are of at most 64.
    by_size = {batch.batch_size: batch.compute_infer for batch in found.batch_stats}
    assert found.execution_count == sum(batch.count for batch in by_size.values())
    assert by_size[1].count == 2
    assert by_size[3].count == by_size[5].count == by_size[36].count == 1
    parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert all(part.ns > 0 for part in parts)
    assert stats.success.ns >= sum(part.ns for part in parts)
    assert stats.fail.ns > 0
    assert found.last_inference > 1_700_000_000_000


def test_the_server_and_its_model_describe_themselves(stub, shipped) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
    assert stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    for name, version, ready in [("mnist_convnet", "", True), ("mnist_convnet", "2", False), ("other", "1", False)]:
        assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=20).ready is ready
    server = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
    assert server.name == "digits-serving"
    assert {"classification", "statistics"} <= set(server.extensions)
    model = stub.ModelMetadata(pb.ModelMetadataRequest(name="mnist_convnet"), timeout=20)
    assert model.versions == ["1"]
    described = [(tensor.name, tensor.datatype, [*tensor.shape]) for tensor in (*model.inputs, *model.outputs)]
    assert described == [
        ("images", "UINT8", [-1, 28, 28, 1]),
        ("logits", "FP32", [-1, 10]),
        ("probabilities", "FP32", [-1, 10]),
        *([("no_digit", "FP32", [-1, 1])] if shipped.manifest.no_digit else []),
    ]
    config = stub.ModelConfig(pb.ModelConfigRequest(name="mnist_convnet", version="1"), timeout=20).config
    assert config.max_batch_size == 1024
    assert config.parameters["sha256"].string_value == shipped.manifest.sha256
    assert config.HasField("dynamic_batching")
    for ready in (False, True):
        (listed,) = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=20).models
        assert (listed.name, listed.version, listed.state) == ("mnist_convnet", "1", "READY")


def test_a_client_that_knows_nothing_but_reflection_can_use_it(channel: grpc.Channel, digits: tuple) -> None:
    """Its descriptors come over the wire, into a pool of their own."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    service = DescriptorPool(database).FindServiceByName(SERVICE)

    def call(called: str, **fields: object) -> object:
        method = service.methods_by_name[called]
        made = GetMessageClass(method.input_type)(**fields)
        return channel.unary_unary(
            f"/{SERVICE}/{called}",
            request_serializer=made.__class__.SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )(made, timeout=20)

    model = call("ModelMetadata", name="mnist_convnet")
    tensor = {"name": model.inputs[0].name, "datatype": model.inputs[0].datatype}
    tensor["shape"] = [50 if size < 0 else size for size in model.inputs[0].shape]
    answer = call("ModelInfer", model_name=model.name, inputs=[tensor], raw_input_contents=[digits[0][:50].tobytes()])
    assert answer.outputs[1].name == "probabilities"
    labels = np.frombuffer(answer.raw_output_contents[1], "<f4").reshape(50, 10).argmax(axis=1)
    assert np.array_equal(labels, digits[1][:50])


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelStatistics"])
def test_bytes_that_are_not_a_message_are_an_invalid_argument(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/{method}")(b"\xff\xff\xff no protocol buffer", timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Exception" not in refused.value.details()


def test_health_knows_the_service_and_metrics_count_its_calls(start_server, digits: tuple) -> None:
    with start_server("--metrics-port", "0") as server, grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(_request(digits[0][:7]), timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(pb.ModelInferRequest(), timeout=20)
        line = next(line for line in iter(server.process.stderr.readline, "") if "metrics on" in line)
        shown = urllib.request.urlopen(line.split("metrics on ")[1].strip(), timeout=20).read().decode()
    for code, labels in {"OK": 'model="mnist_convnet",version="1"', "NOT_FOUND": 'model="",version=""'}.items():
        assert f'digits_requests_total{{code="{code}",method="/{SERVICE}/ModelInfer",{labels}}} 1.0' in shown
    assert 'digits_images_total{model="mnist_convnet",version="1"} 7.0' in shown


@pytest.mark.parametrize("open_health", [True, False])
def test_a_token_is_needed_but_to_ask_whether_the_server_lives(start_server, tmp_path: Path, open_health: bool) -> None:
    (tmp_path / "tokens").write_text("a-good-token-of-length\n")
    options = ["--token-file", str(tmp_path / "tokens"), *([] if open_health else ["--no-open-health"])]
    metadata = (("authorization", "Bearer a-good-token-of-length"),)
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = {
            "ServerLive": pb.ServerLiveRequest(),
            "ServerReady": pb.ServerReadyRequest(),
            "ServerMetadata": pb.ServerMetadataRequest(),
            "ModelReady": pb.ModelReadyRequest(name="mnist_convnet"),
            "ModelInfer": _request(np.zeros((1, 28, 28, 1), np.uint8)),
            "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(),
        }
        open_to_all = {"ServerLive", "ServerReady"} if open_health else set()
        for name, request in calls.items():
            call = getattr(stub, name)
            if name in open_to_all:
                call(request, timeout=20)
            else:
                assert _code(lambda call=call, request=request: call(request, timeout=20)) is UNAUTHENTICATED, name
        assert stub.ModelInfer(calls["ModelInfer"], timeout=20, metadata=metadata).outputs


def _code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code()


class _HeldServer:
    """A real server in this process, whose engine can be held."""

    def __init__(self, front: str) -> None:
        config = BatcherConfig(inline_s=0)  # what is held is the engine's thread, not the event loop
        self.server = Server(ServerConfig(port=0, front=front, engine=EngineConfig(provider="cpu"), batcher=config))
        self.began, self.released = threading.Event(), threading.Event()
        self.error: Exception | None = None

    async def start(self) -> inference_pb2_grpc.GRPCInferenceServiceStub:
        await self.server.start()
        engine = self.server.deployments.find()._engine
        infer = engine.infer

        def held(images: np.ndarray):
            self.began.set()
            assert self.released.wait(20)
            if self.error:
                raise self.error
            return infer(images)

        engine.infer = held
        self.channel = grpc.aio.insecure_channel(self.server.address)
        return inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    async def queued(self, rows: int) -> None:
        """Waits until this many rows are queued; each turn lets the server run, which shares this event loop."""
        async with asyncio.timeout(20):
            while self.server.deployments.find().queued_rows != rows:  # noqa: ASYNC110 - the batcher has no event for it
                await asyncio.sleep(0)


@pytest_asyncio.fixture
async def held(front: str) -> AsyncIterator[_HeldServer]:
    made = _HeldServer(front)
    yield made
    made.released.set()
    await made.channel.close()
    await asyncio.wait_for(made.server.aclose(), 20)


async def _refused(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(call, 20)
    return refused.value


async def test_both_protocols_share_a_batch(held: _HeldServer, digits: tuple) -> None:
    stub = await held.start()
    native = digits_pb2_grpc.DigitClassifierServiceStub(held.channel)
    first = asyncio.ensure_future(stub.ModelInfer(_request(digits[0][:1]), timeout=20))
    assert await asyncio.to_thread(held.began.wait, 20)
    waiting = [asyncio.ensure_future(stub.ModelInfer(_request(digits[0][1:4]), timeout=20))]
    raw = digits_pb2.RawImages(pixels=digits[0][4:9].tobytes(), count=5)
    waiting.append(asyncio.ensure_future(native.Classify(digits_pb2.ClassifyRequest(raw_images=raw), timeout=20)))
    await held.queued(8)
    held.released.set()
    oip, other = await asyncio.gather(*waiting)
    await first
    assert _floats(oip, "probabilities").argmax(axis=1).tolist() == digits[1][1:4].tolist()
    assert other.labels == digits[1][4:9].tolist()
    (stats,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    assert {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats} == {1: 1, 8: 1}


async def test_a_timeout_ends_a_request_whose_engine_is_busy(held: _HeldServer, digits: tuple) -> None:
    stub = await held.start()
    first = asyncio.ensure_future(stub.ModelInfer(_request(digits[0][:1]), timeout=20))
    assert await asyncio.to_thread(held.began.wait, 20)
    late = _request(digits[0][:3])
    late.parameters["timeout"].int64_param = 200_000
    error = await _refused(stub.ModelInfer(late))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await held.queued(0)  # its place in the queue is free again
    (failed,) = [answer async for answer in stub.ModelStreamInfer(iter([late]))]
    assert "timeout" in failed.error_message
    held.released.set()
    assert (await first).outputs
    late.parameters["timeout"].int64_param = 20_000_000
    assert (await stub.ModelInfer(late)).outputs
    late.parameters["timeout"].int64_param = 0
    assert (await stub.ModelInfer(late)).outputs


async def test_an_internal_error_tells_the_client_only_an_id(held: _HeldServer, digits: tuple) -> None:
    stub = await held.start()
    held.released.set()
    held.error = RuntimeError("secret path /etc/model")
    error = await _refused(stub.ModelInfer(_request(digits[0][:1])))
    assert error.code() is grpc.StatusCode.INTERNAL
    (answer,) = [answer async for answer in stub.ModelStreamInfer(iter([_request(digits[0][:1])]))]
    for said in (error.details(), repr(error.trailing_metadata()), str(answer)):
        assert "secret" not in said
    assert "internal error" in answer.error_message
    (stats,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (0, 2)


async def test_a_starting_server_lives_and_is_not_ready(held: _HeldServer, digits: tuple) -> None:
    warm, answers, asking = threading.Event(), {}, []
    start, loop = Engine.start, asyncio.get_running_loop()

    async def ask() -> None:
        try:
            async with grpc.aio.insecure_channel(held.server.address) as channel:
                stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
                answers["live"] = (await stub.ServerLive(pb.ServerLiveRequest())).live
                answers["ready"] = (await stub.ServerReady(pb.ServerReadyRequest())).ready
                answers["model"] = (await stub.ModelReady(pb.ModelReadyRequest(name="mnist_convnet"))).ready
                answers["index"] = [
                    [model.state for model in (await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=r))).models]
                    for r in (False, True)
                ]
                answers["infer"] = (await _refused(stub.ModelInfer(_request(digits[0][:1])))).code()
                answers["config"] = (
                    await _refused(stub.ModelConfig(pb.ModelConfigRequest(name="mnist_convnet")))
                ).code()
        finally:
            warm.set()

    def slow_start(engine: Engine) -> None:
        loop.call_soon_threadsafe(lambda: asking.append(loop.create_task(ask())))
        assert warm.wait(20)
        start(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "start", slow_start)
        stub = await held.start()
    await asking[0]
    assert answers == {
        "live": True,
        "ready": False,
        "model": False,
        "index": [["LOADING"], []],
        "infer": grpc.StatusCode.UNAVAILABLE,
        "config": grpc.StatusCode.UNAVAILABLE,
    }
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready


async def test_a_stopping_server_says_so_and_ends_streams_after_their_answers(held: _HeldServer, digits: tuple) -> None:
    stub = await held.start()
    stream = stub.ModelStreamInfer()
    await stream.write(_request(digits[0][:2], id="last"))
    assert await asyncio.to_thread(held.began.wait, 20)
    await held.server.report_not_serving()
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="mnist_convnet"))).ready
    await stream.write(_request(digits[0][:3], id="later"))  # what comes before the end is still taken
    await held.queued(3)
    closing = asyncio.ensure_future(held.server.aclose())
    held.released.set()
    async with asyncio.timeout(5):  # well below the grace period: the stream does not last until its end
        assert [(await stream.read()).infer_response.id for _ in range(2)] == ["last", "later"]
        assert (await _refused(stream.read())).code() is grpc.StatusCode.UNAVAILABLE
        assert await closing


async def test_calls_beyond_the_limit_are_refused_but_the_server_says_that_it_lives(
    start_server, digits: tuple
) -> None:
    with start_server("--max-concurrent-calls", "1") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            stream = stub.ModelStreamInfer()  # takes the only place
            await stream.write(_request(digits[0][:1]))
            assert not (await stream.read()).error_message
            error = await _refused(stub.ModelInfer(_request(digits[0][:1])))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live
            assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
            stream.cancel()
