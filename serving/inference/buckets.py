"""Batches in few sizes, from buffers that stay on the device: what CUDA runs fast. Gets ONNX Runtime's objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class Buckets:
    """Runs batches in power-of-two sizes from buffers on the device, kept for each size.

    Every new shape costs CUDA an algorithm search and arena growth, so there are few shapes and all are warmed.

    Args:
        session: Of ONNX Runtime, with the one input.
        allocate: Makes an OrtValue of a shape and a NumPy type, on the session's device.
        input_name: The session's input, uint8 `[batch, height, width, channels]`.
        output_names: Its outputs, each float32 `[batch, classes]`.
        image_shape: Height, width and channels.
        classes: Columns of the outputs.
        max_rows: Images of the largest batch that is run at once.
    """

    def __init__(
        self,
        session: Any,
        allocate: Callable[[Sequence[int], type], Any],
        *,
        input_name: str,
        output_names: Sequence[str],
        image_shape: tuple[int, int, int],
        classes: int,
        max_rows: int,
    ) -> None:
        self._session = session
        self._bindings: dict[int, tuple[Any, Any, Uint8Array]] = {}
        for rows in bucket_sizes(max_rows):
            images = allocate([rows, *image_shape], np.uint8)
            binding = session.io_binding()
            binding.bind_ortvalue_input(input_name, images)
            for name in output_names:
                binding.bind_ortvalue_output(name, allocate([rows, classes], np.float32))
            self._bindings[rows] = binding, images, np.zeros((rows, *image_shape), np.uint8)

    def warm_up(self) -> None:
        """Runs each size once."""
        for _, _, staging in self._bindings.values():
            self.run(staging)

    def run(self, images: Uint8Array) -> list[FloatArray]:
        """Runs n images in the smallest bucket that holds them, or in several of the largest.

        Returns:
            float32 `[n, classes]` for each output.
        """
        largest = max(self._bindings)
        parts = [self._run_one(images[start : start + largest]) for start in range(0, len(images), largest)]
        return [np.concatenate(output) for output in zip(*parts, strict=True)]

    def _run_one(self, images: Uint8Array) -> list[FloatArray]:
        rows = len(images)
        binding, device_images, staging = self._bindings[min(size for size in self._bindings if size >= rows)]
        staging[:rows] = images  # rows beyond are what an earlier batch left: each row is computed by itself
        device_images.update_inplace(staging)
        self._session.run_with_iobinding(binding)
        return [output[:rows] for output in binding.copy_outputs_to_cpu()]


def bucket_sizes(max_rows: int) -> list[int]:
    """Powers of two from 1 up to the first that holds `max_rows`."""
    return [1 << exponent for exponent in range((max_rows - 1).bit_length() + 1)]
