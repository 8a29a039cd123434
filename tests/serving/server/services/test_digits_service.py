"""`digits.v1` over the wire: right answers, and for each row of the status table its code and details."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import AsyncClient, CallFailed
from serving.config import PRETRAINED, BatcherConfig, EngineConfig, ServerConfig
from serving.errors import NotReady
from serving.repository.repository import Repository
from serving.server.process.server import Server

CLASSIFY = "/digits.v1.DigitClassifierService/Classify"


@pytest.fixture
def channel(server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> digits_pb2_grpc.DigitClassifierServiceStub:
    return digits_pb2_grpc.DigitClassifierServiceStub(channel)


def _request(images: np.ndarray, **options: object) -> digits_pb2.ClassifyRequest:
    raw = digits_pb2.RawImages(pixels=images.tobytes(), count=len(images))
    return digits_pb2.ClassifyRequest(raw_images=raw, **options)


def _details(error: grpc.RpcError, kind: type) -> list:
    (encoded,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(encoded)
    assert status.code == error.code().value[0]
    found = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


def _violations(error: grpc.RpcError) -> dict[str, str]:
    (detail,) = _details(error, error_details_pb2.BadRequest)
    return {violation.field: violation.description for violation in detail.field_violations}


def test_a_batch_is_labelled_in_order(stub, digits: tuple) -> None:
    images, labels = digits
    response = stub.Classify(_request(images), timeout=20)
    assert (np.array(response.labels) == labels).mean() > 0.95
    assert len(response.confidences) == 500
    assert min(response.confidences) > 0.1
    assert (response.model_name, response.model_version) == ("mnist_convnet", 1)
    assert response.inference_time_us > 0
    assert not response.probabilities
    assert not response.top_labels


def test_probabilities_and_top_labels_come_when_asked_for(stub, digits: tuple) -> None:
    response = stub.Classify(_request(digits[0][:20], top_k=3, include_probabilities=True), timeout=20)
    probabilities = np.array(response.probabilities).reshape(20, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    assert np.array(response.top_labels).reshape(20, 3).tolist() == order.tolist()
    assert response.labels[:] == order[:, 0].tolist()
    np.testing.assert_allclose(response.confidences, probabilities.max(axis=1))
    everything = stub.Classify(_request(digits[0][:2], top_k=99), timeout=20)
    assert len(everything.top_labels) == 20


def test_the_model_describes_itself(stub, shipped) -> None:
    model = stub.GetModel(digits_pb2.GetModelRequest(model_name="mnist_convnet", model_version=1), timeout=20)
    assert model.labels[:] == [str(digit) for digit in range(10)]
    assert (model.height, model.width, model.channels) == (28, 28, 1)
    assert model.max_images_per_request == 1024
    assert model.sha256 == shipped.manifest.sha256
    assert model.execution_provider == "CPUExecutionProvider"
    assert model.test_accuracy >= 0.992
    assert 0 < model.parity_max_difference <= 1e-5


IMAGE = bytes(784)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, {"raw_images": "no images in the request"}),
        ({}, {"raw_images.count": "must be at least 1"}),
        ({"pixels": IMAGE}, {"raw_images.count": "at least 1", "raw_images.pixels": "784 bytes"}),
        ({"pixels": IMAGE, "count": 2}, {"raw_images.pixels": "784 bytes, but 2 images of 28 x 28 x 1 are 1568"}),
        ({"pixels": IMAGE[1:], "count": 1}, {"raw_images.pixels": "783 bytes"}),
        ({"pixels": IMAGE * 4, "count": 1}, {"raw_images.pixels": "3136 bytes"}),
        (
            {"pixels": IMAGE, "count": 1, "height": 784, "width": 1},
            {"raw_images.height": "784", "raw_images.width": "1"},
        ),
        ({"pixels": IMAGE, "count": 1, "channels": 3}, {"raw_images.channels": "3, but the model has 1"}),
        ({"pixels": IMAGE * 1025, "count": 1025}, {"raw_images.count": "1025 images, but at most 1024"}),
        ({"pixels": IMAGE, "count": 2**32 - 1}, {"raw_images.count": "at most 1024", "raw_images.pixels": "784"}),
    ],
)
def test_a_wrong_request_gets_an_error_for_each_field(stub, raw: dict | None, expected: dict[str, str]) -> None:
    request = digits_pb2.ClassifyRequest() if raw is None else digits_pb2.ClassifyRequest(raw_images=raw)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(request, timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = _violations(refused.value)
    assert violations.keys() == expected.keys()
    for field, said in expected.items():
        assert said in violations[field]


@pytest.mark.parametrize(
    "method", [CLASSIFY, "/digits.v1.DigitClassifierService/GetModel", "/grpc.health.v1.Health/Check"]
)
def test_bytes_that_are_not_a_message_are_an_invalid_argument(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(method)(b"\xff\xff\xff no protocol buffer", timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "request" in _violations(refused.value)
    assert "Exception" not in refused.value.details()


@pytest.mark.parametrize("selection", [{"model_name": "resnet"}, {"model_version": 7}, {"model_version": -1}])
def test_an_unknown_model_or_version_is_not_found(stub, digits: tuple, selection: dict) -> None:
    calls = [
        lambda: stub.Classify(_request(digits[0][:1], **selection), timeout=20),
        lambda: stub.GetModel(digits_pb2.GetModelRequest(**selection), timeout=20),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_message_over_the_limit_is_refused_by_grpc_and_the_server_goes_on(stub, digits: tuple) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(digits_pb2.ClassifyRequest(raw_images={"pixels": bytes(17 << 20), "count": 1}), timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Classify(_request(digits[0][:1]), timeout=20).labels


def test_the_largest_batch_fits_in_a_message(stub) -> None:
    assert len(stub.Classify(_request(np.zeros((1024, 28, 28, 1), np.uint8)), timeout=20).labels) == 1024


def test_a_stream_answers_in_order_and_survives_a_bad_request(stub, digits: tuple) -> None:
    images, _ = digits
    sizes = [1, 30, 2, 64, 1, 1, 17] * 20
    starts = [sum(sizes[:i]) % 400 for i in range(len(sizes))]
    whole = np.array(stub.Classify(_request(images), timeout=20).labels)

    def requests() -> Iterator[digits_pb2.ClassifyStreamRequest]:
        for start, size in zip(starts, sizes, strict=True):
            yield digits_pb2.ClassifyStreamRequest(request=_request(images[start : start + size]))
            yield digits_pb2.ClassifyStreamRequest(request=_request(images[:0]))

    responses = list(stub.ClassifyStream(requests(), timeout=60))
    assert len(responses) == 2 * len(sizes)
    for index, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        assert responses[2 * index].response.labels[:] == whole[start : start + size].tolist()
        assert responses[2 * index + 1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_garbage_on_a_stream_ends_it_after_the_answers_before_it(channel: grpc.Channel, digits: tuple) -> None:
    good = digits_pb2.ClassifyStreamRequest(request=_request(digits[0][:3])).SerializeToString()
    stream = channel.stream_stream("/digits.v1.DigitClassifierService/ClassifyStream")
    call = stream(iter([good, good, b"\xff\xff", good]), timeout=20)
    answers = [digits_pb2.ClassifyStreamResponse.FromString(next(call)) for _ in range(2)]
    assert [len(answer.response.labels) for answer in answers] == [3, 3]
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_that_leaves_a_stream_harms_no_other(stub, digits: tuple) -> None:
    released = threading.Event()

    def endless() -> Iterator[digits_pb2.ClassifyStreamRequest]:
        while not released.is_set():
            yield digits_pb2.ClassifyStreamRequest(request=_request(digits[0][:64]))

    for _ in range(5):
        call = stub.ClassifyStream(endless(), timeout=20)
        next(call)
        call.cancel()
    released.set()
    assert len(stub.Classify(_request(digits[0]), timeout=20).labels) == 500


def test_health_and_reflection_answer(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"digits.v1.DigitClassifierService", "grpc.health.v1.Health"} <= set(services)
    for service in ("", "digits.v1.DigitClassifierService"):
        status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    listed = health.List(health_pb2.HealthListRequest(), timeout=20).statuses
    assert {"", "digits.v1.DigitClassifierService"} <= set(listed)
    assert {entry.status for entry in listed.values()} == {health_pb2.HealthCheckResponse.SERVING}
    with pytest.raises(grpc.RpcError) as refused:
        health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=20)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_v1_describes_itself_and_the_services(channel: grpc.Channel) -> None:
    """With messages made from what the server says about them, as tools do."""
    known = ProtoReflectionDescriptorDatabase(channel)  # which asks v1alpha
    pool = descriptor_pool.DescriptorPool(known)
    (method,) = pool.FindServiceByName("grpc.reflection.v1.ServerReflection").methods
    request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    assert request_type.DESCRIPTOR.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    symbol = "digits.v1.DigitClassifierService"
    asked = [request_type(list_services=""), request_type(file_containing_symbol=symbol)]
    listed, described = ask(iter(asked), timeout=20)
    names = [service.name for service in listed.list_services_response.service]
    assert {symbol, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} <= set(names)
    assert sorted(known.get_services()) == names
    assert described.original_request == asked[1]
    files = described.file_descriptor_response.file_descriptor_proto
    assert digits_pb2.DESCRIPTOR.serialized_pb in files


class _HeldServer:
    """A real server in this process, whose engine can be held."""

    def __init__(self, front: str, **batcher: object) -> None:
        # Nothing inline: what is held is the engine's thread, not the event loop.
        config = BatcherConfig(inline_s=0, **batcher)
        self.server = Server(ServerConfig(port=0, front=front, engine=EngineConfig(provider="cpu"), batcher=config))
        self.began, self.released = threading.Event(), threading.Event()
        self.released.set()
        self.error: Exception | None = None

    async def start(self) -> digits_pb2_grpc.DigitClassifierServiceStub:
        await self.server.start()
        deployment = self.server.deployments.find()
        infer = deployment._engine.infer

        def held(images: np.ndarray):
            self.began.set()
            assert self.released.wait(20)
            if self.error:
                raise self.error
            return infer(images)

        deployment._engine.infer = held
        self.channel = grpc.aio.insecure_channel(self.server.address)
        return digits_pb2_grpc.DigitClassifierServiceStub(self.channel)

    async def occupy(self, stub) -> asyncio.Future:
        """Returns once a call holds the engine."""
        self.released.clear()
        self.began.clear()
        call = asyncio.ensure_future(stub.Classify(_request(np.zeros((1, 28, 28, 1), np.uint8)), timeout=20))
        assert await asyncio.to_thread(self.began.wait, 20)
        return call


@pytest_asyncio.fixture
async def held_server(front: str) -> AsyncIterator[Callable[..., _HeldServer]]:
    made: list[_HeldServer] = []

    def make(**batcher: object) -> _HeldServer:
        made.append(_HeldServer(front, **batcher))
        return made[-1]

    yield make
    for held in made:
        held.released.set()
        await held.channel.close()
        await asyncio.wait_for(held.server.aclose(), 20)


async def _refused(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(call, 20)
    return refused.value


async def _queued(held: _HeldServer, rows: int) -> None:
    """Waits until this many rows are queued; each turn lets the server run, which shares this event loop."""
    async with asyncio.timeout(20):
        while held.server.deployments.find()._batcher.queued_rows != rows:  # noqa: ASYNC110 - the batcher has no event for it
            await asyncio.sleep(0)


async def test_a_full_queue_says_when_to_try_again(held_server, digits: tuple) -> None:
    held = held_server(max_batch_rows=4, max_queue_rows=4)
    stub = await held.start()
    first = await held.occupy(stub)
    waiting = asyncio.ensure_future(stub.Classify(_request(digits[0][:4]), timeout=20))
    await _queued(held, 4)
    error = await _refused(stub.Classify(_request(digits[0][:1]), timeout=20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (retry,) = _details(error, error_details_pb2.RetryInfo)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() < 60
    held.released.set()
    assert len((await waiting).labels) == 4
    await first


async def test_a_call_whose_deadline_passes_in_the_queue_never_reaches_the_engine(held_server, digits: tuple) -> None:
    held = held_server()
    stub = await held.start()
    first = await held.occupy(stub)
    late = asyncio.ensure_future(stub.Classify(_request(digits[0][:3]), timeout=0.3))
    await _queued(held, 3)
    error = await _refused(late)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await _queued(held, 0)  # the client's clock may be a moment ahead of the server's
    seen = []
    infer = held.server.deployments.find()._batcher._infer
    held.server.deployments.find()._batcher._infer = lambda images: seen.append(len(images)) or infer(images)
    held.released.set()
    await first
    assert len((await stub.Classify(_request(digits[0][:2]), timeout=20)).labels) == 2
    assert seen == [2]


async def test_an_internal_error_tells_the_client_an_id_and_the_log_the_rest(
    held_server, digits: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    held = held_server()
    stub = await held.start()
    held.error = RuntimeError("secret path /etc/model")
    error = await _refused(stub.Classify(_request(digits[0][:1]), timeout=20))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert "secret" not in repr(error.trailing_metadata())
    incident = error.details().split()[-1]
    assert any(incident in record.getMessage() and record.exc_info for record in caplog.records)
    assert "secret path" in caplog.text
    held.error = None
    assert len((await stub.Classify(_request(digits[0][:1]), timeout=20)).labels) == 1


async def test_a_starting_server_is_unavailable_and_not_serving(held_server, digits: tuple) -> None:
    held = held_server()
    server, warm = held.server, threading.Event()
    answers = {}

    async def ask(address: str) -> None:
        held.channel = grpc.aio.insecure_channel(address)
        try:
            stub = digits_pb2_grpc.DigitClassifierServiceStub(held.channel)
            answers["classify"] = await _refused(stub.Classify(_request(digits[0][:1]), timeout=20))
            answers["get_model"] = await _refused(stub.GetModel(digits_pb2.GetModelRequest(), timeout=20))
            health = health_pb2_grpc.HealthStub(held.channel)
            answers["health"] = (await health.Check(health_pb2.HealthCheckRequest(), timeout=20)).status
        finally:
            warm.set()

    from serving.inference.engine import Engine

    start, loop = Engine.start, asyncio.get_running_loop()

    def slow_start(engine: Engine) -> None:
        loop.call_soon_threadsafe(lambda: asking.append(loop.create_task(ask(server.address))))
        assert warm.wait(20)
        start(engine)

    asking: list[asyncio.Task] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "start", slow_start)
        await server.start()
    await asking[0]
    assert answers["classify"].code() is grpc.StatusCode.UNAVAILABLE
    assert answers["get_model"].code() is grpc.StatusCode.UNAVAILABLE
    assert answers["health"] == health_pb2.HealthCheckResponse.NOT_SERVING
    health = health_pb2_grpc.HealthStub(held.channel)
    status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=20)).status
    assert status == health_pb2.HealthCheckResponse.SERVING


async def test_a_draining_server_answers_what_it_has_and_ends_streams_and_watches(held_server, digits: tuple) -> None:
    held = held_server()
    stub = await held.start()
    health = health_pb2_grpc.HealthStub(held.channel)
    watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(5)]
    for watch in watches:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(held.channel).ServerReflectionInfo()
    await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert (await reflection.read()).list_services_response.service
    stream = stub.ClassifyStream()
    await stream.write(digits_pb2.ClassifyStreamRequest(request=_request(digits[0][:2])))
    assert len((await stream.read()).response.labels) == 2
    in_flight = await held.occupy(stub)
    await stream.write(digits_pb2.ClassifyStreamRequest(request=_request(digits[0][:5])))
    await _queued(held, 5)
    closing = asyncio.ensure_future(held.server.aclose())
    for watch in watches:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    late = stub.ClassifyStream()
    assert (await _refused(late.read())).code() is grpc.StatusCode.UNAVAILABLE
    assert (await _refused(reflection.read())).code() is grpc.StatusCode.UNAVAILABLE
    held.released.set()
    assert len((await in_flight).labels) == 1
    assert len((await stream.read()).response.labels) == 5
    assert (await _refused(stream.read())).code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.wait_for(closing, 5)  # well below the grace period: nothing keeps it
    error = await _refused(stub.Classify(_request(digits[0][:1]), timeout=20))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_that_begins_as_the_server_drains_ends_too(held_server) -> None:
    """Between its first step and that of the task that reads for it, a stream has nothing to cancel yet."""
    held = held_server()
    await held.start()
    service = held.server._services[0]

    class Context:
        def time_remaining(self) -> None:
            return None

    async def silence() -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield

    stream = asyncio.create_task(anext(service.ClassifyStream(silence(), Context())))
    await asyncio.sleep(0)
    service.drain()
    with pytest.raises(NotReady):
        await asyncio.wait_for(stream, 10)


async def test_a_stream_waits_for_room_and_leaves_some_to_others(held_server, digits: tuple) -> None:
    held = held_server(max_batch_rows=8, max_queue_rows=16)
    stub = await held.start()
    first = await held.occupy(stub)

    async def requests() -> AsyncIterator[digits_pb2.ClassifyStreamRequest]:
        for start in range(0, 400, 8):
            yield digits_pb2.ClassifyStreamRequest(request=_request(digits[0][start : start + 8]))

    stream = stub.ClassifyStream(requests(), timeout=60)
    responses = asyncio.ensure_future(_collected(stream))
    await _queued(held, 8)
    other = asyncio.ensure_future(stub.Classify(_request(digits[0][:8]), timeout=20))
    await _queued(held, 16)
    held.released.set()
    assert len((await other).labels) == 8
    await first
    assert [response.error.code for response in await responses] == [0] * 50


async def _collected(stream: object) -> list:
    return [response async for response in stream]


async def test_thousands_of_waiting_calls_are_all_answered(held_server, digits: tuple) -> None:
    """gRPC has a bound of its own, below which the server's queue must not lie."""
    held = held_server()
    stub = await held.start()
    first = await held.occupy(stub)
    calls = [stub.Classify(_request(digits[0][i % 500][None]), timeout=60) for i in range(3000)]
    gathered = asyncio.gather(*calls)
    await _queued(held, 3000)
    held.released.set()
    await first
    alone = {i: (await stub.Classify(_request(digits[0][i][None]), timeout=20)).labels[0] for i in range(0, 500, 50)}
    responses = await gathered
    assert all(responses[i].labels[0] == label for i, label in alone.items())


async def test_closing_the_async_client_is_its_own_error(held_server, digits: tuple) -> None:
    held = held_server()
    await held.occupy(await held.start())
    client = AsyncClient(held.server.address)
    call = asyncio.create_task(client.classify(digits[0][:3]))
    await _queued(held, 3)
    await client.aclose()
    with pytest.raises(CallFailed, match="CANCELLED"):
        await asyncio.wait_for(call, 10)


async def test_an_inference_that_hangs_does_not_keep_a_stopping_server(held_server) -> None:
    held = held_server()
    stub = await held.start()
    in_flight = await held.occupy(stub)
    assert await asyncio.wait_for(held.server.aclose(grace_s=0.1), 10) is False
    await _refused(in_flight)


def test_below_min_confidence_the_label_is_minus_one_and_candidates_stay(stub, digits: tuple) -> None:
    images = np.concatenate([digits[0][:20], np.zeros((3, 28, 28, 1), np.uint8)])
    plain = stub.Classify(_request(images, top_k=3, include_probabilities=True), timeout=20)
    assert min(plain.labels) >= 0
    threshold = sorted(plain.confidences)[10]
    options = {"top_k": 3, "include_probabilities": True, "min_confidence": threshold}
    asked = stub.Classify(_request(images, **options), timeout=20)
    for label, confidence, before in zip(asked.labels, asked.confidences, plain.labels, strict=True):
        assert label == (-1 if confidence < threshold else before)
    assert list(asked.labels).count(-1) == 10
    for name in ("confidences", "probabilities", "top_labels", "top_confidences"):
        assert getattr(asked, name) == getattr(plain, name)


@pytest.mark.parametrize("value", [float("nan"), -0.01, 1.01, float("inf"), float("-inf")])
def test_an_impossible_min_confidence_is_refused_with_the_field(stub, digits: tuple, value: float) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(_request(digits[0][:1], min_confidence=value), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(_violations(refused.value)) == ["min_confidence"]


def test_a_model_without_calibration_has_temperature_one(stub) -> None:
    """Whatever the shipped model is: what it says is what its manifest says."""
    shipped = Repository(PRETRAINED).read_manifest("mnist_convnet", 1)
    assert stub.GetModel(digits_pb2.GetModelRequest()).temperature == shipped.calibration.temperature
