"""The clients: any number of images, answers in order, clear errors, and retries."""

from __future__ import annotations

import asyncio
import inspect
import io
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest
from PIL import Image
from ports import free_port

from serving.client import AsyncClient, CallFailed, Client, Credentials
from serving.config import SAMPLES
from serving.errors import UnusableFile
from training.synthetic import draw_digits


@pytest.fixture(scope="module")
def expected(server, digits: tuple) -> np.ndarray:
    """Labels of the 500 digits, each from a call of its own."""
    with Client(server.address) as client:
        return np.concatenate([client.classify(image[None]).labels for image in digits[0]])


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_any_number_of_images_comes_back_in_order(server, digits: tuple, expected: np.ndarray, count: int) -> None:
    with Client(server.address) as client:
        answer = client.classify(digits[0][:count], probabilities=True)
    assert answer.labels.tolist() == expected[:count].tolist()
    assert answer.labels.dtype == np.int64
    assert answer.probabilities.shape == (count, 10)
    assert (answer.model_name, answer.model_version) == ("mnist_convnet", 1)
    np.testing.assert_allclose(answer.probabilities.max(axis=1, initial=0), answer.confidences)


def test_more_than_a_request_may_hold_is_split_by_count_and_by_bytes(
    server, digits: tuple, expected: np.ndarray
) -> None:
    images = np.concatenate([digits[0]] * 6)
    labels = np.concatenate([expected] * 6)
    for limit in (4 << 20, 20_000):  # 1,024 images per request, and 24
        with Client(server.address, max_message_bytes=limit) as client:
            assert np.array_equal(client.classify(images).labels, labels)


def test_gray_images_need_no_channel_axis(server, digits: tuple, expected: np.ndarray) -> None:
    with Client(server.address) as client:
        assert np.array_equal(client.classify(digits[0][:9, :, :, 0]).labels, expected[:9])
        assert client.classify(digits[0][:9]).probabilities is None


async def test_the_async_client_does_the_same(server, digits: tuple, expected: np.ndarray) -> None:
    async with AsyncClient(server.address, max_message_bytes=20_000) as client:
        await client.wait_until_serving(20)
        assert (await client.get_model()).model_name == "mnist_convnet"
        answers = await asyncio.gather(*(client.classify(digits[0][i : i + 100]) for i in range(0, 500, 100)))
        assert np.array_equal(np.concatenate([answer.labels for answer in answers]), expected)
        with pytest.raises(CallFailed, match="NOT_FOUND"):
            await AsyncClient(server.address, model_name="resnet").classify(digits[0][:1])
        with pytest.raises(ValueError, match="a multiple of 1/255"):
            await client.classify(digits[0] / 300)


# Ways to hold the first three digits, of which there is only one reading.
TAKEN: dict[str, Callable[[np.ndarray], object]] = {
    "a list of arrays": list,
    "nested lists": lambda images: images[..., 0].tolist(),
    "an iterator": iter,
    "whole numbers": lambda images: images.astype(">i8"),
    "whole floats": lambda images: images.astype(np.float32),
    "255ths": lambda images: (images / 255).astype(np.float32),
    "rows": lambda images: images.reshape(3, 784),
    "channels first": lambda images: images.transpose(0, 3, 1, 2),
    "a reversed view": lambda images: images[::-1].copy()[::-1],
    "Pillow's images": lambda images: [Image.fromarray(image[..., 0]) for image in images],
}


@pytest.mark.parametrize("held", TAKEN.values(), ids=TAKEN)
def test_arrays_are_taken_where_no_doubt_is_possible(server, digits: tuple, expected: np.ndarray, held: Any) -> None:
    with Client(server.address) as client:
        assert client.classify(held(digits[0][:3])).labels.tolist() == expected[:3].tolist()


def test_one_image_and_no_image_are_batches_too(server, digits: tuple, expected: np.ndarray) -> None:
    with Client(server.address) as client:
        assert client.classify(digits[0][0, :, :, 0]).labels.tolist() == [expected[0]]
        nothing = client.classify([], probabilities=True)
    assert (nothing.labels.shape, nothing.probabilities.shape, nothing.model_version) == ((0,), (0, 10), 1)


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (np.full((1, 28, 28), 0.3, np.float32), ValueError, "0.3 is not a multiple of 1/255"),
        (np.full((1, 28, 28), np.nan), ValueError, "NaN"),
        (np.zeros((1, 28, 27), np.uint8), ValueError, "28 x 27 x 1, but the model takes 28 x 28 x 1"),
        (np.zeros((1, 28, 28, 3), np.uint8), ValueError, "28 x 28 x 3, but the model takes 28 x 28 x 1"),
        ([np.zeros((28, 28)), np.zeros((30, 28))], ValueError, "must all have the same size"),
        (None, TypeError, "must be numbers from 0 to 255, not object"),
        ("a.png", TypeError, "classify_files takes paths"),
        (b"\x89PNG", TypeError, "classify_encoded takes the bytes of files"),
        ([Image.new("P", (28, 28))], TypeError, "mode P leaves a doubt"),
        ([Image.new("1", (28, 28), 1), Image.new("L", (28, 28))], TypeError, "of several types leave a doubt"),
    ],
)
def test_wrong_arrays_are_refused_before_they_are_sent(server, images: Any, error: type, said: str) -> None:
    with Client(server.address) as client, pytest.raises(error, match=said):
        client.classify(images)


SEVEN = SAMPLES / "7.png"


def test_one_path_is_one_file(server) -> None:
    with Client(server.address) as client:
        for paths in (SEVEN, str(SEVEN), [SEVEN], (str(SEVEN) for _ in range(1))):
            answer = client.classify_files(paths)
            assert (answer.labels.tolist(), answer.errors) == ([7], {})


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda content: np.frombuffer(content, np.uint8)])
async def test_all_that_holds_bytes_is_an_image(server, kind: Callable, alone: bool) -> None:
    content = kind(SEVEN.read_bytes())
    with Client(server.address) as client:
        answer = client.classify_encoded(content if alone else [content])
    assert (answer.labels.tolist(), answer.errors) == ([7], {})
    async with AsyncClient(server.address) as client:
        assert (await client.classify_encoded(content if alone else iter([content]))).labels.tolist() == [7]


async def test_what_is_neither_a_file_nor_its_bytes_is_a_type_error(server) -> None:
    async with AsyncClient(server.address) as client:
        for given in (["7.png"], [None], np.zeros((2, 2), np.uint8), io.BytesIO(b"image"), 7):
            with pytest.raises(TypeError):
                await client.classify_encoded(given)
        for given in (b"7.png", [None], None):
            with pytest.raises(TypeError):
                await client.classify_files(given)


def test_an_async_client_is_made_anywhere_and_used_in_any_loop(server, digits: tuple) -> None:
    """Web applications make it at import, long before their event loop runs; scripts call `asyncio.run` repeatedly."""
    client = AsyncClient(server.address)

    async def classify() -> int:
        await client.wait_until_serving(5)
        return len((await client.classify(digits[0][:2], timeout_s=5)).labels)

    async def classify_and_close() -> int:
        async with client:
            return await classify()

    assert [asyncio.run(classify()), asyncio.run(classify())] == [2, 2]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: asyncio.run(classify()), range(2))) == [2, 2]
    assert asyncio.run(classify_and_close()) == 2
    with pytest.raises(CallFailed, match="the client was closed"):
        asyncio.run(classify())


def test_an_async_client_checks_its_arguments_where_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile):
        AsyncClient("127.0.0.1:1", credentials=Credentials(root_certificates=tmp_path / "absent"))


def test_methods_of_the_async_client_are_coroutine_functions() -> None:
    """Mocks that are made of the class await them only then."""
    mock = AsyncMock(spec=AsyncClient)
    for name in ("wait_until_serving", "get_model", "classify", "classify_files", "classify_encoded"):
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name))
        assert isinstance(getattr(mock, name), AsyncMock)


def test_an_unknown_model_is_not_found(server, digits: tuple) -> None:
    with Client(server.address, model_name="resnet") as client, pytest.raises(CallFailed) as failed:
        client.classify(digits[0][:1])
    assert failed.value.code.name == "NOT_FOUND"


def test_without_a_server_a_call_is_unavailable_within_its_time(digits: tuple) -> None:
    with Client("127.0.0.1:1") as client:
        with pytest.raises(CallFailed, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
            client.classify(digits[0][:1], timeout_s=3)
        with pytest.raises(CallFailed):
            client.wait_until_serving(0.5)


def test_a_silent_listener_ends_with_the_deadline(digits: tuple) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Client(f"127.0.0.1:{listener.getsockname()[1]}") as client,
        pytest.raises(CallFailed) as failed,
    ):
        client.classify(digits[0][:1], timeout_s=1)
    assert failed.value.code.name in {"DEADLINE_EXCEEDED", "UNAVAILABLE"}


def test_a_client_waits_for_a_server_that_starts_later(start_server: Callable, digits: tuple) -> None:
    port = free_port()
    serving = threading.Event()

    def wait() -> None:
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_until_serving(30)
            assert len(client.classify(digits[0][:3]).labels) == 3
            serving.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    with start_server("--port", str(port)):
        waiter.join(30)
    assert serving.is_set()


def test_clients_wait_for_a_full_queue_as_long_as_the_server_asks(start_server: Callable) -> None:
    """Callers that exceed the queue many times over all get their own answers."""
    images, _ = draw_digits(64, seed=4)
    with start_server("--max-batch-rows", "8", "--max-queue-rows", "8") as server:
        with Client(server.address) as client:
            whole = client.classify(images).labels
        results: dict[int, np.ndarray] = {}

        def call(index: int) -> None:
            with Client(server.address) as client:
                results[index] = client.classify(np.roll(images, index, axis=0)).labels

        threads = [threading.Thread(target=call, args=(index,)) for index in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert all(np.array_equal(results[index], np.roll(whole, index)) for index in range(12))


async def test_below_min_confidence_labels_are_minus_one(server, digits: tuple, expected: np.ndarray) -> None:
    images = digits[0]
    with Client(server.address, max_message_bytes=100_000) as client:
        threshold = float(np.median(client.classify(images).confidences))
        answer = client.classify(images, min_confidence=threshold)
        with pytest.raises(CallFailed, match="INVALID_ARGUMENT") as refused:
            client.classify(images, min_confidence=2)
    assert [field for field, _ in refused.value.violations] == ["min_confidence"]
    np.testing.assert_array_equal(answer.labels, np.where(answer.confidences < threshold, -1, expected))
    assert 0 < (answer.labels == -1).sum() <= 250
    async with AsyncClient(server.address) as client:
        assert (await client.classify(images, min_confidence=threshold)).labels.tolist() == answer.labels.tolist()
