"""The requests of a benchmark, and the labels expected for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from serving.bench.measurement import BenchFailed
from serving.config import SAMPLES
from serving.images.decoding import load_image
from serving.images.geometry import resize

Uint8Array = npt.NDArray[np.uint8]

_POOL_BYTES = 16 << 20
_POOL_ROWS = 2048
_REQUESTS_BYTES = 64 << 20
_REQUESTS = 64
# If the two most probable labels are closer than this, results of providers and batch sizes may rightly differ.
_MARGIN = 0.01


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """A serialized request and the expected start of its answer.

    Attributes:
        message: The request as bytes.
        expected: The first bytes of a right answer; for `wire`, its labels as protobuf writes them.
    """

    message: bytes
    expected: bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Images with the labels that the model gives them.

    Attributes:
        images: uint8 `[n, height, width, channels]`.
        labels: int64 `[n]`.
        model_name: Name of the model that answers.
    """

    images: Uint8Array
    labels: npt.NDArray[np.int64]
    model_name: str

    def rows(self, number: int, batch_rows: int) -> npt.NDArray[np.int64]:
        """Returns the indices of the images of a request: int64 `[batch_rows]`."""
        return (np.arange(batch_rows) + number * (batch_rows + 1)) % len(self.images)

    def count(self, batch_rows: int) -> int:
        """Returns how many different requests of this size to send."""
        request_bytes: int = self.images[0].nbytes * batch_rows
        return max(2, min(_REQUESTS, _REQUESTS_BYTES // request_bytes))

    def requests(self, batch_rows: int, mode: str) -> list[PreparedRequest]:
        """Returns the requests of a scenario."""
        return [self._request(self.rows(number, batch_rows), mode) for number in range(self.count(batch_rows))]

    def echo_requests(self, batch_rows: int, mode: str) -> list[PreparedRequest]:
        """Returns messages of the same sizes in both directions, for `serving.bench.echo`."""
        answer_bytes = self._answer(self.rows(0, batch_rows)).ByteSize()
        header = answer_bytes.to_bytes(4, "little")
        requests = [header + prepared.message[4:] for prepared in self.requests(batch_rows, mode)]
        return [PreparedRequest(message=request, expected=request[:answer_bytes]) for request in requests]

    def _request(self, rows: npt.NDArray[np.int64], mode: str) -> PreparedRequest:
        request = digits_pb2.ClassifyRequest(
            raw_images=digits_pb2.RawImages(pixels=self.images[rows].tobytes(), count=len(rows))
        )
        message = digits_pb2.ClassifyStreamRequest(request=request) if mode == "stream" else request
        labels = digits_pb2.ClassifyResponse(labels=self.labels[rows].tolist())
        return PreparedRequest(message=message.SerializeToString(), expected=labels.SerializeToString())

    def _answer(self, rows: npt.NDArray[np.int64]) -> digits_pb2.ClassifyResponse:
        """An answer as long as that of a server."""
        return digits_pb2.ClassifyResponse(
            labels=self.labels[rows].tolist(),
            confidences=[1.0] * len(rows),
            model_name=self.model_name,
            model_version=1,
            queue_time_us=1000,
            inference_time_us=1000,
        )


def draw_images(shape: tuple[int, int, int]) -> Uint8Array:
    """Returns the sample digits of the package, shifted and dimmed at random, the same each time.

    Args:
        shape: Height, width and channels.

    Returns:
        uint8 `[n, height, width, channels]`; at most 2,048, fewer if they are large.
    """
    height, width, channels = shape
    paths = sorted(SAMPLES.glob("*.png"))
    samples = np.stack([resize(load_image(path, channels=channels), height, width) for path in paths])
    count = max(64, min(_POOL_ROWS, _POOL_BYTES // samples[0].nbytes))
    random = np.random.default_rng(0)
    images = np.empty((count, height, width, channels), np.uint8)
    for index in range(count):
        shift = random.integers(-2, 3, size=2)
        brightness = random.uniform(0.7, 1.0)
        sample = samples[random.integers(len(samples))]
        images[index] = np.roll(sample, tuple(shift), axis=(0, 1)) * brightness
    return images


def make_workload(images: Uint8Array, probabilities: npt.NDArray[np.float32], model_name: str) -> Workload:
    """Keeps the images with a clear label.

    Args:
        images: uint8 `[n, height, width, channels]`.
        probabilities: float32 `[n, classes]` of the model.
        model_name: Name of the model that answers.

    Raises:
        BenchFailed: No label is clear.
    """
    ordered = np.sort(probabilities, axis=1)
    clear = ordered[:, -1] - ordered[:, -2:-1].sum(axis=1) > _MARGIN
    if not clear.any():
        raise BenchFailed("the model gives no clear label to any image of the benchmark")
    return Workload(images=images[clear], labels=probabilities[clear].argmax(axis=1), model_name=model_name)
