"""The engine: runs one model on ONNX Runtime, on the CPU or entirely on CUDA. Only this module imports ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Must come before the import: from 1.29 on, ONNX Runtime otherwise starts a telemetry thread and writes to ~/.cache.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from serving.config import EngineConfig
from serving.errors import InferenceFailed, ModelRejected, ProviderUnavailable, install_hint
from serving.inference import cuda
from serving.inference.buckets import Buckets
from serving.inference.external_data import uses_external_data
from serving.inference.interface import INPUT, check_interface
from serving.inference.processors import available_processors

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
RUNTIME_VERSION: str = onnxruntime.__version__

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
        self._session: onnxruntime.InferenceSession | None = None
        self._run: Callable[[Uint8Array], Sequence[FloatArray]] | None = None  # returns the outputs in their order
        self._row_s = math.inf

    @property
    def provider(self) -> str:
        """The execution provider that runs the whole model, `CPUExecutionProvider` or `CUDAExecutionProvider`."""
        provider: str = self._started().get_providers()[0]
        return provider

    @property
    def batch_rows(self) -> int:
        """The most efficient batch size, in rows: one run on the CPU, the largest bucket on CUDA."""
        return self._config.max_batch_rows if self.provider == CUDA else self._config.cpu_run_rows

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
        self._session = self._open_session()
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        outputs = check_interface(
            {node.name: (node.type, tuple(node.shape)) for node in nodes},
            image_shape=self._image_shape,
            classes=self._classes,
            no_digit=self._no_digit,
        )
        self._output_names = list(outputs)
        if self.provider == CUDA:
            buckets = open_buckets(
                self._session,
                outputs=outputs,
                image_shape=self._image_shape,
                max_rows=self._config.max_batch_rows,
                device=("cuda", self._config.device),
            )
            buckets.warm_up()
            self._run = buckets.run
        else:
            self._run = self._run_split
            self._run_split(np.zeros((self._config.cpu_run_rows, *self._image_shape), np.uint8))
            row = np.zeros((1, *self._image_shape), np.uint8)
            self._row_s = min(timeit.repeat(lambda: self._run_split(row), number=1, repeat=_TIMED_RUNS))

    def infer(self, images: Uint8Array) -> Prediction:
        """Runs the network.

        Args:
            images: uint8 `[n, height, width, channels]`, n at least 1.

        Raises:
            InferenceFailed: ONNX Runtime failed.
        """
        if self._run is None:
            raise InferenceFailed("the engine has not started")
        try:
            logits, probabilities, *others = self._run(images)
        except Exception as error:
            raise InferenceFailed(str(error)) from error
        return Prediction(logits=logits, probabilities=probabilities, no_digit=others[0] if others else None)

    def _started(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise InferenceFailed("the engine has not started")
        return self._session

    def _open_session(self) -> onnxruntime.InferenceSession:
        if self._config.provider == "cpu":
            return self._open_cpu()
        try:
            session = self._open_cuda()
        except ProviderUnavailable as error:
            if self._config.provider == "cuda":
                raise
            _logger.info("provider auto: running on the CPU, because %s", error)
            return self._open_cpu()
        _logger.info("running on CUDA device %d", self._config.device)
        return session

    def _open_cpu(self) -> onnxruntime.InferenceSession:
        options = _session_options()
        options.intra_op_num_threads = self._config.threads or available_processors()
        try:
            return onnxruntime.InferenceSession(self._content, options, providers=[CPU])
        except Exception as error:
            raise ModelRejected("model.onnx: ONNX Runtime can't load it", detail=_first_line(error)) from error

    def _open_cuda(self) -> onnxruntime.InferenceSession:
        if reason := cuda_unavailable_reason():
            raise ProviderUnavailable(reason)
        options = _session_options()
        # get_providers() proves only registration: without this, single nodes may silently run on the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # TF32 keeps only 10 bits of the mantissa, so the served model would not be the trained one.
        cuda_options = {"device_id": str(self._config.device), "use_tf32": "0"}
        try:
            session = onnxruntime.InferenceSession(
                self._content, options, providers=[(CUDA, cuda_options)], enable_fallback=0
            )
        except Exception as error:
            raise ProviderUnavailable(f"CUDA can't run this model: {_first_line(error)}") from error
        if session.get_providers()[0] != CUDA:
            raise ProviderUnavailable("ONNX Runtime could not load its CUDA provider; see its log on stderr")
        return session

    def _run_split(self, images: Uint8Array) -> list[FloatArray]:
        session, rows = self._started(), self._config.cpu_run_rows
        parts = [
            session.run(self._output_names, {INPUT: images[start : start + rows]})
            for start in range(0, len(images), rows)
        ]
        return parts[0] if len(parts) == 1 else [np.concatenate(output) for output in zip(*parts, strict=True)]


def open_buckets(session: onnxruntime.InferenceSession, *, device: tuple[str, int], **sizes: Any) -> Buckets:
    """Allocates the buckets of a session on a device, given as its type and index. See `Buckets` for the sizes."""

    def allocate(shape: Sequence[int], dtype: type) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, *device)

    return Buckets(session, allocate, input_name=INPUT, **sizes)


def open_untouched(content: bytes) -> onnxruntime.InferenceSession:
    """Opens a graph of any form on the CPU, in silence, to compare an engine with it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=[CPU])


def cuda_unavailable_reason() -> str | None:
    """Returns one sentence on why CUDA can't run here and how to fix it, or None if it can."""
    if CUDA not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime is the CPU wheel; in a new environment, {install_hint('gpu')}"
    onnxruntime.preload_dlls()  # the loader does not search the CUDA libraries' wheels
    return cuda.unavailable_reason()


def runtime_report() -> str:
    """Returns ONNX Runtime's own report on its providers and libraries. It contains local paths."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        onnxruntime.print_debug_info()
    return written.getvalue().strip()


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
