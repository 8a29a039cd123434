"""The engine: runs one model, on the CPU or entirely on CUDA."""

from __future__ import annotations

import logging
import math
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.config import EngineConfig
from serving.errors import DeviceLost, InferenceFailed, ModelRejected, ProviderUnavailable
from serving.inference import sessions
from serving.inference.buckets import Buckets, largest_bucket
from serving.inference.cuda_device import CudaDevice
from serving.inference.external_data import uses_external_data
from serving.inference.interface import INPUT, check_interface

_TIMED_RUNS = 5

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The outputs of the network for one batch.

    Attributes:
        logits: float32 `[n, classes]`.
        probabilities: float32 `[n, classes]`, each row sums to 1.
        no_digit: float32 `[n]`, 0 to 1, how much speaks against a digit; None for a model without that output.
    """

    logits: FloatArray
    probabilities: FloatArray
    no_digit: FloatArray | None = None


class Engine:
    """Runs one model. Call `start` first; after that, call `infer` from one thread at a time.

    On CUDA, `start`, `infer` and `close` belong to the same thread, since that thread owns the CUDA graphs.

    Args:
        content: The bytes of `model.onnx`.
        image_shape: Height, width and channels according to the manifest.
        classes: Number of labels according to the manifest.
        config: Provider, threads and batch sizes.
        no_digit: Whether the model has the output `no_digit` according to the manifest; None if there is no manifest.
    """

    def __init__(
        self,
        content: bytes,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        config: EngineConfig,
        no_digit: bool | None = None,
    ) -> None:
        self._content = content
        self._image_shape = image_shape
        self._classes = classes
        self._no_digit = no_digit
        self._output_names: list[str] = []
        self._config = config
        self._session: Any = None
        self._provider = ""
        self._run: Callable[[Uint8Array], Sequence[FloatArray]] | None = None  # returns the outputs in their order
        self._device: CudaDevice | None = None
        self._buckets: Buckets | None = None
        self._row_s = math.inf

    @property
    def provider(self) -> str:
        """The execution provider that runs the whole model, `CPUExecutionProvider` or `CUDAExecutionProvider`."""
        if not self._provider:
            raise InferenceFailed("the engine has not started")
        return self._provider

    @property
    def batch_rows(self) -> int:
        """The most efficient batch size, in rows: one run on the CPU, the largest bucket on CUDA."""
        return self._buckets.max_rows if self._buckets else self._config.cpu_run_rows

    @property
    def fixed_sizes(self) -> list[int]:
        """The batch sizes that run in a way of their own, in rows, so that each must be proven; none on the CPU."""
        return self._buckets.sizes if self._buckets else []

    @property
    def row_s(self) -> float:
        """Time to run a single row, in seconds, measured by `start`; infinite on CUDA, where it varies."""
        return self._row_s

    @property
    def metadata(self) -> dict[str, str]:
        """The `metadata_props` of the model."""
        return dict(self._started().get_modelmeta().custom_metadata_map)

    def start(self) -> None:
        """Loads the model, checks its inputs and outputs against the manifest, and warms up every batch shape.

        Raises:
            ModelRejected: The model uses external data, can't be loaded, or does not match the manifest.
            ProviderUnavailable: The provider is `cuda`, and CUDA can't run the whole model here.
        """
        if uses_external_data(self._content):
            raise ModelRejected("model.onnx: uses external data, which no digest covers; export the model as one file")
        if self._config.provider == "cpu":
            self._start_cpu()
            return
        try:
            self._start_cuda()
        except ProviderUnavailable as error:
            if self._config.provider == "cuda":
                raise
            _logger.info("provider auto: running on the CPU, because %s", error)
            self._start_cpu()

    def infer(self, images: Uint8Array) -> Prediction:
        """Runs the network.

        Args:
            images: uint8 `[n, height, width, channels]`, n at least 1.

        Raises:
            DeviceLost: The GPU has failed. This process can't use it any more.
            InferenceFailed: ONNX Runtime failed.
        """
        if self._run is None:
            raise InferenceFailed("the engine has not started")
        try:
            logits, probabilities, *others = self._run(images)
        except Exception as error:
            if lost := self.device_error():
                raise DeviceLost(lost) from error
            raise InferenceFailed(str(error)) from error
        return Prediction(logits=logits, probabilities=probabilities, no_digit=others[0] if others else None)

    def device_error(self) -> str | None:
        """Returns why the GPU can't be used any more; None if it can, and on the CPU. Safe from any thread."""
        return self._device.error() if self._device else None

    def close(self) -> None:
        """Frees the memory of the model, which also other models on the same GPU can then use."""
        if self.device_error():
            sessions.keep_forever(self._session)
        self._run = self._buckets = self._session = None

    def _started(self) -> Any:
        if self._session is None:
            raise InferenceFailed("the engine has not started")
        return self._session

    def _check_outputs(self) -> dict[str, tuple[int, ...]]:
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        outputs = check_interface(
            {node.name: (node.type, tuple(node.shape)) for node in nodes},
            image_shape=self._image_shape,
            classes=self._classes,
            no_digit=self._no_digit,
        )
        self._output_names, self._provider = list(outputs), self._session.get_providers()[0]
        return outputs

    def _start_cpu(self) -> None:
        self._session = sessions.open_cpu(self._content, self._config)
        self._check_outputs()
        self._run = self._run_split
        self._run_split(np.zeros((self._config.cpu_run_rows, *self._image_shape), np.uint8))
        row = np.zeros((1, *self._image_shape), np.uint8)
        self._row_s = min(timeit.repeat(lambda: self._run_split(row), number=1, repeat=_TIMED_RUNS))

    def _start_cuda(self) -> None:
        """Takes CUDA if its warm-up succeeds: missing libraries and GPUs that are too old show only there."""
        index = self._config.device
        if reason := sessions.cuda_unavailable_reason(index):
            raise ProviderUnavailable(reason)
        any_size = bool(self._config.gpu_memory_mb)
        wanted = rows = largest_bucket(self._config.max_batch_rows, self._image_shape, any_size=any_size)
        device = CudaDevice(index)
        device.enter_thread()
        while not (buckets := self._try_buckets(device, rows)):
            rows //= 2
        if rows < wanted:
            _logger.warning("CUDA device %d has too little memory for batches of %d images", index, 2 * rows)
        self._device, self._buckets, self._run = device, buckets, buckets.run
        _logger.info("running on CUDA device %d, in batches of up to %d images", index, rows)

    def _try_buckets(self, device: CudaDevice, rows: int) -> Buckets | None:
        """Opens a session and runs each size up to `rows`; returns None if fewer rows may fit into memory."""
        index = self._config.device
        try:
            self._session = sessions.open_cuda(self._content, self._config)
            buckets = Buckets(
                self._session,
                device.pinned,
                sessions.graph_run,
                device=("cuda", index),
                input_name=INPUT,
                outputs=self._check_outputs(),
                image_shape=self._image_shape,
                max_rows=rows,
            )
            buckets.warm_up()
        except Exception as error:
            session, self._session = self._session, None
            if isinstance(error, (ModelRejected, ProviderUnavailable)):
                raise
            if lost := device.error():
                sessions.keep_forever(session)
                raise ProviderUnavailable(f"CUDA device {index} has failed: {lost}") from error
            if rows == 1 or not sessions.is_out_of_memory(error):
                raise ProviderUnavailable(f"CUDA can't run this model: {sessions.cause(error)}") from error
            return None
        return buckets

    def _run_split(self, images: Uint8Array) -> list[FloatArray]:
        session, rows = self._started(), self._config.cpu_run_rows
        parts = [
            session.run(self._output_names, {INPUT: images[start : start + rows]})
            for start in range(0, len(images), rows)
        ]
        return parts[0] if len(parts) == 1 else [np.concatenate(output) for output in zip(*parts, strict=True)]
