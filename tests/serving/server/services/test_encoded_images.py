"""Encoded images over the wire: prepared answers, errors of single images, decoders that are full, slow or ending."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import AsyncClient, CallFailed, Client
from serving.config import SAMPLES, DecoderConfig, EngineConfig, ServerConfig
from serving.errors import InvalidImage
from serving.images.preparation import PreparedImage
from serving.server.process.server import Server

FILES = [SAMPLES / f"{digit}.png" for digit in range(10)]
CONTENTS = [file.read_bytes() for file in FILES]
BAD = b"no image"


@pytest.fixture
def stub(server) -> Iterator[digits_pb2_grpc.DigitClassifierServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield digits_pb2_grpc.DigitClassifierServiceStub(channel)


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _request(images: list[bytes], **options: object) -> digits_pb2.ClassifyRequest:
    return digits_pb2.ClassifyRequest(encoded_images=digits_pb2.EncodedImages(images=images), **options)


def _raw(images: np.ndarray, **options: object) -> digits_pb2.ClassifyRequest:
    raw = digits_pb2.RawImages(pixels=images.tobytes(), count=len(images))
    return digits_pb2.ClassifyRequest(raw_images=raw, **options)


def _details(error: grpc.RpcError, kind: type) -> list:
    (encoded,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    details = []
    for packed in status_pb2.Status.FromString(encoded).details:
        detail = kind()
        if packed.Unpack(detail):
            details.append(detail)
    return details


def _violations(error: grpc.RpcError) -> dict[str, str]:
    (detail,) = _details(error, error_details_pb2.BadRequest)
    return {violation.field: violation.description for violation in detail.field_violations}


def test_files_of_the_data_set_s_images_are_answered_as_their_pixels(stub, digits: tuple) -> None:
    images = digits[0][:100]
    files = stub.Classify(_request([_png(image[..., 0]) for image in images], include_probabilities=True), timeout=20)
    pixels = stub.Classify(_raw(images, include_probabilities=True), timeout=20)
    np.testing.assert_allclose(files.probabilities, pixels.probabilities, atol=1e-6)
    assert files.labels == pixels.labels
    assert files.inference_time_us > 0


def test_the_preparation_of_an_image_is_explained_on_request(stub, digits: tuple) -> None:
    page = np.pad(255 - digits[0][0, :, :, 0].repeat(3, 0).repeat(3, 1), ((10, 90), (50, 0)), constant_values=255)
    response = stub.Classify(_request([_png(page), BAD, CONTENTS[4]], explain=True, per_image_errors=True), timeout=20)
    photo, bad, sample = response.preparations
    assert (photo.height, photo.width) == page.shape
    assert any("inverted" in step for step in photo.steps)
    prepared = np.frombuffer(photo.pixels, np.uint8).reshape(1, 28, 28, 1)
    (again,) = stub.Classify(_raw(prepared), timeout=20).confidences
    assert abs(again - response.confidences[0]) < 1e-5
    assert bad == digits_pb2.ImagePreparation()
    assert list(sample.steps) == ["left as it is"]
    assert not stub.Classify(_request(CONTENTS), timeout=20).preparations
    assert not stub.Classify(_raw(digits[0][:3], explain=True), timeout=20).preparations


def test_a_bad_image_fails_by_itself_only_on_request(stub) -> None:
    images = [CONTENTS[3], BAD, CONTENTS[5], b"", CONTENTS[9]]
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(_request(images), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert _violations(refused.value).keys() == {"encoded_images.images[1]", "encoded_images.images[3]"}
    options = {"per_image_errors": True, "top_k": 2, "include_probabilities": True}
    response = stub.Classify(_request(images, **options), timeout=20)
    assert response.labels == [3, -1, 5, -1, 9]
    assert response.confidences[1] == response.confidences[3] == 0 < min(response.confidences[::2])
    assert response.top_labels[::2] == [3, -1, 5, -1, 9]
    assert np.array(response.probabilities).reshape(5, 10).sum(axis=1) == pytest.approx([1, 0, 1, 0, 1], abs=1e-5)
    assert [error.index for error in response.errors] == [1, 3]
    assert {error.status.code for error in response.errors} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert response.errors[0].status.message.startswith("encoded_images.images[1]: not an image")
    nothing = stub.Classify(_request([BAD, BAD], **options), timeout=20)
    assert nothing.labels == [-1, -1]
    assert len(nothing.errors) == 2
    assert nothing.model_name == "mnist_convnet"


def test_files_below_min_confidence_are_unsure_and_bad_ones_are_errors(stub, digits: tuple) -> None:
    images = [CONTENTS[3], BAD, CONTENTS[5], CONTENTS[9]]
    options = {"per_image_errors": True, "top_k": 1, "include_probabilities": True}
    plain = stub.Classify(_request(images, **options), timeout=20)
    between = float(np.sort(np.array(plain.confidences)[[0, 2, 3]])[1])
    response = stub.Classify(_request(images, min_confidence=between, **options), timeout=20)
    assert sum(label == -1 for label in response.labels) == 2
    assert [error.index for error in response.errors] == [1]
    for name in ("confidences", "probabilities", "top_labels", "top_confidences"):
        assert getattr(response, name) == getattr(plain, name)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(_request(images, min_confidence=1.5), timeout=20)
    assert _violations(refused.value).keys() == {"min_confidence"}


def test_the_error_of_a_request_with_only_bad_images_fits_in_metadata(stub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(_request([BAD] * 1000), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = _violations(refused.value)
    assert "encoded_images.images[0]" in violations
    assert violations["encoded_images.images"] == "990 more can't be read"


@pytest.mark.parametrize(("count", "said"), [(0, "at least one"), (1025, "1025 images, but at most 1024")])
def test_a_wrong_number_of_images_is_refused(stub, count: int, said: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(_request([BAD] * count, per_image_errors=True), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in _violations(refused.value)["encoded_images.images"]


def test_a_message_up_to_the_stated_size_is_taken_and_no_larger_one(stub) -> None:
    limit = stub.GetModel(digits_pb2.GetModelRequest(), timeout=20).max_message_bytes
    padding = limit - _request([CONTENTS[7] + bytes(limit)]).ByteSize() + limit
    largest = _request([CONTENTS[7] + bytes(padding)])
    assert largest.ByteSize() == limit > 16 << 20
    assert stub.Classify(largest, timeout=20).labels == [7]
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(_request([CONTENTS[7] + bytes(padding + 1)]), timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_stream_of_files_and_pixels_is_answered_in_order(stub, digits: tuple) -> None:
    requests = []
    for turn in range(40):
        requests += [_request([CONTENTS[turn % 10], CONTENTS[3]]), _raw(digits[0][turn : turn + 1]), _request([BAD])]
    stream = stub.ClassifyStream((digits_pb2.ClassifyStreamRequest(request=each) for each in requests), timeout=60)
    responses = list(stream)
    assert len(responses) == 120
    raw = stub.Classify(_raw(digits[0][:40]), timeout=20).labels
    for turn in range(40):
        files, pixels, bad = responses[3 * turn : 3 * turn + 3]
        assert files.response.labels == [turn % 10, 3]
        assert pixels.response.labels == [raw[turn]]
        assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize("prepare", ["server", "client"])
def test_the_client_answers_for_any_number_of_files(server, tmp_path: Path, prepare: str) -> None:
    (tmp_path / "bad.png").write_bytes(BAD)
    (tmp_path / "huge.png").write_bytes(bytes(20 << 20))
    paths = [*FILES, tmp_path / "bad.png", *map(str, FILES), tmp_path / "absent.png", tmp_path / "huge.png", *FILES]
    with Client(server.address, max_message_bytes=6_000) as client:  # some ten files a request
        answer = client.classify_files(paths, prepare=prepare, probabilities=True, explain=True)
        nothing = client.classify_files([], prepare=prepare)
    assert answer.labels.tolist() == [*range(10), -1, *range(10), -1, -1, *range(10)]
    assert answer.confidences.dtype == np.float32
    assert answer.probabilities.shape == (33, 10)
    assert answer.errors.keys() == {10, 21, 22}
    assert answer.errors[10].startswith("not an image")
    assert answer.errors[21] == "No such file or directory"
    assert "server takes" in answer.errors[22]
    assert answer.preparations.keys() == set(range(33)) - {10, 21, 22}
    assert answer.preparations[32].steps == ("left as it is",)
    assert answer.preparations[32].pixels.shape == (28, 28, 1)
    assert len(nothing.labels) == 0


async def test_the_async_client_does_the_same(server) -> None:
    async with AsyncClient(server.address) as client:
        for prepare in ("server", "client"):
            answer = await client.classify_files([*FILES, "absent.png"], prepare=prepare)
            assert answer.labels.tolist() == [*range(10), -1]
        answer = await client.classify_encoded([CONTENTS[2], InvalidImage("lost"), BAD])
        assert answer.labels.tolist() == [2, -1, -1]
        assert answer.errors[1] == "lost"


class _HeldServer:
    """A real server in this process, whose decoders can be held."""

    def __init__(self, front: str, **decoder: object) -> None:
        config = DecoderConfig(**decoder)
        self.server = Server(ServerConfig(port=0, front=front, engine=EngineConfig(provider="cpu"), decoder=config))
        self.began, self.released = threading.Semaphore(0), threading.Event()
        self.pieces: list[int] = []

    async def start(self) -> digits_pb2_grpc.DigitClassifierServiceStub:
        await self.server.start()
        decoder = self.server.deployments.find()._decoder
        decode_chunk = decoder._decode_chunk

        def held(piece: list[bytes]) -> list[PreparedImage | InvalidImage]:
            self.pieces.append(len(piece))
            self.began.release()
            assert self.released.wait(20)
            return decode_chunk(piece)

        decoder._decode_chunk = held
        self.channel = grpc.aio.insecure_channel(self.server.address)
        return digits_pb2_grpc.DigitClassifierServiceStub(self.channel)

    async def occupied(self, threads: int) -> None:
        """Returns when this many threads are decoding an image."""
        for _ in range(threads):
            assert await asyncio.to_thread(self.began.acquire, timeout=20)


@pytest_asyncio.fixture
async def held_server(front: str) -> AsyncIterator[Callable[..., _HeldServer]]:
    made: list[_HeldServer] = []

    def make(**decoder: object) -> _HeldServer:
        made.append(_HeldServer(front, **decoder))
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


async def test_full_decoders_say_when_to_try_again_and_pixels_pass_them(held_server, digits: tuple) -> None:
    held = held_server(decoder_threads=1, max_queue_images=4)
    stub = await held.start()
    first = asyncio.ensure_future(stub.Classify(_request(CONTENTS[:3]), timeout=20))
    await held.occupied(1)
    error = await _refused(stub.Classify(_request(CONTENTS[:2]), timeout=20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (retry,) = _details(error, error_details_pb2.RetryInfo)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() < 60
    second = asyncio.ensure_future(stub.Classify(_request(CONTENTS[3:4]), timeout=20))
    assert len((await stub.Classify(_raw(digits[0][:7]), timeout=20)).labels) == 7
    held.released.set()
    assert (await first).labels == [0, 1, 2]
    assert (await second).labels == [3]
    assert (await stub.Classify(_request(CONTENTS), timeout=20)).labels == list(range(10))  # more than the queue holds


async def test_bytes_that_wait_are_bounded_too(held_server) -> None:
    held = held_server(max_queue_bytes=sum(map(len, CONTENTS)) + 10)
    stub = await held.start()
    first = asyncio.ensure_future(stub.Classify(_request(CONTENTS), timeout=20))
    await held.occupied(1)
    assert (await _refused(stub.Classify(_request(CONTENTS[:1]), timeout=20))).code().name == "RESOURCE_EXHAUSTED"
    held.released.set()
    assert (await first).labels == list(range(10))


async def test_a_deadline_that_passes_while_images_wait_ends_the_call_and_its_work(held_server) -> None:
    held = held_server(decoder_threads=1)
    stub = await held.start()
    first = asyncio.ensure_future(stub.Classify(_request(CONTENTS[:1]), timeout=20))
    await held.occupied(1)
    late = await _refused(stub.Classify(_request(CONTENTS * 10), timeout=0.3))
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(20):  # the client's clock may be ahead of the server's by a moment
        while held.server.deployments.find()._decoder._images > 1:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
    held.released.set()
    assert (await first).labels == [0]
    assert (await stub.Classify(_request(CONTENTS[5:6]), timeout=20)).labels == [5]
    # Two calls were decoded: none of the hundred images of the one that was given up.
    await held.occupied(1)
    assert not held.began.acquire(blocking=False)


async def test_images_that_are_being_decoded_are_answered_before_the_server_ends(held_server) -> None:
    held = held_server()
    stub = await held.start()
    call = asyncio.ensure_future(stub.Classify(_request(CONTENTS), timeout=20))
    await held.occupied(1)
    stopping = asyncio.create_task(held.server.aclose(grace_s=15))
    error = await _refused(_until_refused(stub))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "not accepting requests" in error.details()
    held.released.set()
    assert (await call).labels == list(range(10))
    assert await asyncio.wait_for(stopping, 20)


async def _until_refused(stub) -> None:
    """Raw pixels until the server, which is this loop's, has begun to stop."""
    while True:
        await stub.Classify(_raw(np.zeros((1, 28, 28, 1), np.uint8)), timeout=20)


async def test_a_single_image_does_not_wait_for_a_thousand(held_server) -> None:
    held = held_server(decoder_threads=1)
    stub = await held.start()
    many = asyncio.ensure_future(stub.Classify(_request(CONTENTS * 100), timeout=60))
    await held.occupied(1)
    one = asyncio.ensure_future(stub.Classify(_request(CONTENTS[8:9]), timeout=60))
    await _waiting(held, 2)
    held.released.set()
    assert (await one).labels == [8]
    assert held.pieces[:2] == [16, 1]
    assert (await many).labels == list(range(10)) * 100


async def _waiting(held: _HeldServer, requests: int) -> None:
    """Waits until the decoders have this many requests; each turn lets the server run, which shares this event loop."""
    async with asyncio.timeout(20):
        while held.server.deployments.find()._decoder._requests != requests:  # noqa: ASYNC110 - the decoder has no event for it
            await asyncio.sleep(0)


def test_a_client_waits_for_full_decoders_as_the_server_asks(start_server: Callable) -> None:
    with start_server("--decoder-threads", "1", "--max-queue-images", "10") as server:
        results: dict[int, list[int]] = {}

        def call(index: int) -> None:
            with Client(server.address) as client:
                results[index] = client.classify_encoded(CONTENTS[index:] * 3).labels.tolist()

        threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == {index: list(range(index, 10)) * 3 for index in range(8)}


def test_smaller_limits_hold_and_are_reported(start_server: Callable, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(_png(np.full((60, 60), 255, np.uint8)))
    with start_server("--max-image-pixels", "3000", "--max-encoded-bytes", "100000") as server:
        with Client(server.address) as client:
            model = client.get_model()
            assert model.max_image_pixels == 3000
            assert 784 * 1024 < model.max_message_bytes < 1_000_000  # the largest batch of raw pixels still fits
            for prepare in ("server", "client"):
                answer = client.classify_files([tmp_path / "page.png", FILES[1]], prepare=prepare)
                assert answer.labels.tolist() == [-1, 1]
                assert answer.errors[0] == "60 x 60 pixels are more than 3,000"
        with Client(server.address, model_name="resnet") as client, pytest.raises(CallFailed, match="NOT_FOUND"):
            client.classify_encoded(CONTENTS)
