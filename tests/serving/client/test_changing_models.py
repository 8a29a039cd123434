"""Clients while models change: one version answers a batch, with its own label names, and no call is lost."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.client import AsyncClient, CallFailed, Classification, Client, encoded_images

COUNT = 40
# About three images per request, so that a batch needs several requests.
FEW_BYTES = 1024 + 3 * 790


class Blocking:
    """`AsyncClient` with the blocking methods of `Client`, so that each test covers both."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._open(*arguments, **options))

    async def _open(self, *arguments: object, **options: object) -> AsyncClient:
        return AsyncClient(*arguments, **options)

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    def __getattr__(self, name: str) -> Callable:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._loop.run_until_complete(method(*arguments, **options))


@pytest.fixture(params=[Client, Blocking], ids=["blocking", "asyncio"])
def client_class(request) -> type:
    return request.param


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 [n, 28, 28, 1], of all shades."""
    drawn = np.random.default_rng(3).integers(0, 140, COUNT)
    return np.broadcast_to(drawn[:, None, None, None], (COUNT, 28, 28, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def contents(digits: tuple) -> list[bytes]:
    """Files of digits on paper, which the versions prepare differently."""
    files = []
    for number, digit in enumerate(digits[0][:COUNT, :, :, 0]):
        file = io.BytesIO()
        paper = np.pad(255 - digit, 6 + number % 9, constant_values=255)
        Image.fromarray((paper * (0.2 + number / COUNT / 2)).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def said(running_rollout, images: np.ndarray) -> dict[int, list[str]]:
    """The label names that each version answers with when its own server is asked."""
    return {version: _direct(running_rollout, version, lambda client: client.classify(images)) for version in (1, 2, 5)}


@pytest.fixture(scope="module")
def said_of_files(running_rollout, contents: list[bytes]) -> dict[int, list[str]]:
    """The same for files, which each version prepares in its own way."""
    return {
        version: _direct(running_rollout, version, lambda client: client.classify_encoded(contents))
        for version in running_rollout.servers
    }


def _direct(rollout, version: int, ask: Callable[[Client], Classification]) -> list[str]:
    with Client(rollout.servers[version]) as client:
        names = _names(ask(client))
    assert len(set(names)) > 1  # or the answers of the versions could not be distinguished
    return names


def _names(answer: Classification) -> list[str]:
    return [answer.label_names[label] for label in answer.labels]


def test_one_version_answers_a_whole_batch_even_while_versions_alternate(
    rollout, client_class: type, images: np.ndarray, said: dict
) -> None:
    rollout.take_turns(1, 1, 2, 5)
    with client_class(rollout.address, max_message_bytes=FEW_BYTES) as client:
        answers = [client.classify(images, probabilities=True) for _ in range(12)]
    for answer in answers:
        assert _names(answer) == said[answer.model_version]
        assert answer.probabilities.shape == (COUNT, len(answer.label_names))
        assert answer.probabilities.argmax(axis=1).tolist() == answer.labels.tolist()
    # The first request of a batch names none, and so goes to a version on trial as often as it should.
    assert [answer.model_version for answer in answers] == [1, 1, 2, 5] * 3
    assert rollout.asked("Classify").count(0) == 12
    assert len(rollout.asked("GetModel")) == 3


def test_a_single_request_needs_no_other_call_whichever_version_answers(
    rollout, client_class: type, images: np.ndarray, said: dict
) -> None:
    rollout.take_turns(1, 2)
    with client_class(rollout.address) as client:
        for _ in range(20):
            answer = client.classify(images)
            assert _names(answer) == said[answer.model_version]
    assert rollout.asked("Classify") == [0] * 20
    assert rollout.asked("GetModel") == [0, 2]


@pytest.mark.parametrize("prepare", ["server", "client"])
def test_files_are_prepared_for_the_version_that_answers(
    rollout, client_class: type, contents: list[bytes], said_of_files: dict, prepare: str
) -> None:
    """The second version prepares images in another way, the third takes smaller ones."""
    rollout.take_turns(1, 2, 3)
    with client_class(rollout.address, max_message_bytes=FEW_BYTES) as client:
        answers = [client.classify_encoded(contents, prepare=prepare, explain=True) for _ in range(9)]
    for answer in answers:
        assert _names(answer) == said_of_files[answer.model_version]
        side = 12 if answer.model_version == 3 else 28
        assert {image.pixels.shape for image in answer.preparations.values()} == {(side, side, 1)}
        assert len(answer.preparations) == COUNT
    assert {1, 2} <= {answer.model_version for answer in answers}


def _arrays(client: Client, images: np.ndarray, _: list[bytes], __: Path) -> Classification:
    return client.classify(images)


def _list(client: Client, _: np.ndarray, contents: list[bytes], __: Path) -> Classification:
    return client.classify_encoded(contents)


def _iterator(client: Client, _: np.ndarray, contents: list[bytes], __: Path) -> Classification:
    return client.classify_encoded(iter(contents))


def _prepared(client: Client, _: np.ndarray, contents: list[bytes], __: Path) -> Classification:
    return client.classify_encoded((content for content in contents), prepare="client")


def _files(client: Client, _: np.ndarray, contents: list[bytes], folder: Path) -> Classification:
    paths = [folder / f"{number}.png" for number in range(COUNT)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return client.classify_files(iter(paths))


@pytest.mark.parametrize("ask", [_arrays, _list, _iterator, _prepared, _files])
def test_a_batch_is_restarted_when_its_version_is_unloaded(
    rollout, client_class: type, ask: Callable, images: np.ndarray, contents: list[bytes], said, said_of_files, tmp_path
) -> None:
    def unload(method: str, _: int) -> None:
        if len(rollout.asked("Classify")) == 5:
            rollout.replace(1, 2)

    rollout.before = unload
    with client_class(rollout.address, max_message_bytes=FEW_BYTES) as client:
        answer = ask(client, images, contents, tmp_path)
    assert answer.model_version == 2
    assert _names(answer) == (said if ask is _arrays else said_of_files)[2]
    assert {(named, asked) for _, named, asked in rollout.calls} > {(0, 1), (1, 1), (0, 2), (2, 2)}


def test_threads_that_share_a_client_lose_no_call_while_versions_change(
    rollout, images: np.ndarray, said: dict
) -> None:
    def change(*_: object) -> None:
        if len(rollout.calls) % 200 == 199:
            rollout.stable = {1: 2, 2: 5, 5: 1}[rollout.stable]
            rollout.loaded = {rollout.stable}

    rollout.before = change
    with Client(rollout.address, max_message_bytes=4 * FEW_BYTES) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.classify(images), range(300)))
    assert {answer.model_version for answer in answers} == {1, 2, 5}
    for answer in answers:
        assert _names(answer) == said[answer.model_version]


def test_a_batch_is_restarted_when_its_version_is_unloaded_before_its_label_names_are_known(
    rollout, client_class: type, images: np.ndarray, said: dict
) -> None:
    def unload(method: str, version: int) -> None:
        if (method, version) == ("GetModel", 5):
            rollout.replace(5, 2)

    with client_class(rollout.address) as client:
        client.classify(images)
        rollout.stable, rollout.before = 5, unload
        answer = client.classify(images)
    assert _names(answer) == said[2]


def test_a_call_fails_if_versions_keep_changing(rollout, client_class: type, images: np.ndarray) -> None:
    def unload(method: str, version: int) -> None:
        if method == "Classify" and version:
            rollout.stable, rollout.loaded = 3 - rollout.stable, {3 - rollout.stable}

    rollout.before = unload
    with client_class(rollout.address, max_message_bytes=FEW_BYTES) as client:
        with pytest.raises(CallFailed, match=r"NOT_FOUND: no version \d of 'shades'"):
            client.classify(images)
        assert len(rollout.calls) < 60
        rollout.reset()
        assert client.classify(images).model_version == 1


@pytest.mark.parametrize("prepare", ["server", "client"])
def test_contents_too_large_to_keep_are_not_answered_partly(
    rollout, client_class: type, contents: list[bytes], prepare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_images, "_KEPT_BYTES", 4 * len(contents[0]))
    rollout.before = lambda method, _: len(rollout.asked("Classify")) == 5 and rollout.replace(1, 2)
    with client_class(rollout.address, max_message_bytes=FEW_BYTES) as client:
        with pytest.raises(CallFailed, match="ABORTED: the model changed"):
            client.classify_encoded(iter(contents), prepare=prepare)
        assert client.classify_encoded(iter(contents), prepare=prepare).model_version == 2


def test_a_version_that_the_caller_names_is_never_replaced(
    rollout, client_class: type, images: np.ndarray, said: dict
) -> None:
    rollout.take_turns(2)
    with client_class(rollout.address, model_version=5, max_message_bytes=FEW_BYTES) as client:
        assert _names(client.classify(images)) == said[5]
        rollout.loaded.discard(5)
        with pytest.raises(CallFailed, match="NOT_FOUND"):
            client.classify(images)
    assert set(rollout.asked("Classify")) == {5}


@pytest.mark.parametrize(("version", "shape"), [(3, (12, 12, 1)), (4, (14, 56, 1))])
def test_a_new_version_with_another_size_takes_only_images_of_that_size(
    rollout, client_class: type, images: np.ndarray, version: int, shape: tuple
) -> None:
    """The fourth version's images have as many bytes as the first one's."""
    with client_class(rollout.address, model_name="shades") as client:
        assert client.classify(images).model_version == 1
        rollout.replace(1, version)
        with pytest.raises(ValueError, match=rf"\[n, {shape[0]}, {shape[1]}, 1\]: images of 28 x 28 x 1"):
            client.classify(images)
        fitting = np.resize(images, (COUNT, *shape))
        assert client.classify(fitting).model_version == version
        rollout.loaded.add(1)
        rollout.stable = 1
        assert client.classify(images).model_version == 1
        rollout.stable = version
        with pytest.raises(CallFailed, match="INVALID_ARGUMENT") as refused:
            client.classify(np.resize(images, (COUNT, *shape)), min_confidence=2)
        assert [field for field, _ in refused.value.violations] == ["min_confidence"]


def test_a_canary_with_another_size_fails_no_call(rollout, client_class: type, images: np.ndarray, said: dict) -> None:
    rollout.take_turns(3)
    with client_class(rollout.address, max_message_bytes=FEW_BYTES) as client:
        for _ in range(9):
            answer = client.classify(images)
            assert (answer.model_version, _names(answer)) == (1, said[1])


def test_the_client_prepares_images_for_the_version_that_answered_last(
    rollout, client_class: type, contents: list[bytes], said_of_files: dict
) -> None:
    with client_class(rollout.address) as client:
        for version in (1, 2, 1):
            rollout.stable = version
            for _ in range(3):
                answer = client.classify_encoded(contents, prepare="client")
                assert (answer.model_version, _names(answer)) == (version, said_of_files[version])
    assert rollout.asked("Classify") == [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0]
    assert rollout.asked("GetModel") == [0, 2]


def test_an_empty_batch_needs_no_request(rollout, client_class: type, images: np.ndarray) -> None:
    with client_class(rollout.address) as client:
        assert client.classify(images[:0], probabilities=True).probabilities.shape == (0, 5)
        rollout.stable = 2
        assert client.classify(images).model_version == 2
        assert client.classify(images[:0], probabilities=True).probabilities.shape == (0, 7)
        assert client.get_model().labels[0] == "tone-0"


@pytest.mark.parametrize("prepare", ["server", "client"])
def test_the_command_uses_the_label_names_of_the_version_that_answered(
    rollout, command: Callable, contents: list[bytes], said_of_files: dict, tmp_path: Path, prepare: str
) -> None:
    rollout.take_turns(2, 1)
    files = 2 * 256 + 10  # of which 256 are asked about at a time
    for number in range(files):
        (tmp_path / f"{number:04d}.png").write_bytes(contents[number % COUNT])
    done = command("digits-classify", "--target", rollout.address, "--json", "--prepare", prepare, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == [
        said_of_files[row["version"]][number % COUNT] for number, row in enumerate(rows)
    ]
    assert {row["version"] for row in rows} == {1, 2}
    assert len({row["version"] for row in rows[:256]}) == 1
    assert {row["name"].partition("-")[0] for row in rows} == {"shade", "tone"}
