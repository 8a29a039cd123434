"""The clients: any number of images, answers in order, clear errors, and retries."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Callable
from unittest.mock import AsyncMock

import numpy as np
import pytest

from serving.client import AsyncClient, CallFailed, Client
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
        with pytest.raises(TypeError):
            await client.classify(digits[0].astype(np.float32))


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (np.zeros((1, 28, 28), np.float32), TypeError, "uint8 from 0 to 255, not float32"),
        (np.zeros((1, 28, 27), np.uint8), ValueError, r"\[n, 28, 28, 1\], not \[1, 28, 27, 1\]"),
        (np.zeros((28, 28), np.uint8), ValueError, r"not \[28, 28\]"),
        (np.zeros((1, 28, 28, 3), np.uint8), ValueError, r"not \[1, 28, 28, 3\]"),
    ],
)
def test_wrong_arrays_are_refused_before_they_are_sent(server, images: np.ndarray, error: type, said: str) -> None:
    with Client(server.address) as client, pytest.raises(error, match=said):
        client.classify(images)


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
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
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
