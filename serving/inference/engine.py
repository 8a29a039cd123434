"""The engine: one model on ONNX Runtime, on the CPU or wholly on CUDA. The only module that imports ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Before the import: releases from 1.29 on start a telemetry thread and write under the user's cache directory.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from serving.config import EngineConfig
from serving.errors import InferenceFailed, ModelRejected, ProviderUnavailable
from serving.inference import cuda
from serving.inference.buckets import Buckets
from serving.inference.onnx_file import uses_external_data
from serving.inference.processors import available_processors

INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
RUNTIME_VERSION: str = onnxruntime.__version__

_TIMED_RUNS = 5

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network says about a batch.

    Attributes:
        logits: float32 `[n, classes]`.
        probabilities: float32 `[n, classes]`, each row adding up to 1.
    """

    logits: FloatArray
    probabilities: FloatArray


class Engine:
    """Runs one model. `start` loads and warms it; after that `infer` may be called from one thread at a time.

    Args:
        content: The bytes of `model.onnx`.
        image_shape: Height, width and channels that the manifest promises.
        classes: Number of labels that the manifest promises.
        config: Provider, threads and batch sizes.
    """

    def __init__(self, content: bytes, *, image_shape: tuple[int, int, int], classes: int, config: EngineConfig):
        self._content = content
        self._image_shape = image_shape
        self._classes = classes
        self._config = config
        self._session: onnxruntime.InferenceSession | None = None
        self._run: Callable[[Uint8Array], Sequence[FloatArray]] | None = None  # gives logits and probabilities
        self._row_s = math.inf

    @property
    def provider(self) -> str:
        """The execution provider that runs the whole model, `CPUExecutionProvider` or `CUDAExecutionProvider`."""
        provider: str = self._started().get_providers()[0]
        return provider

    @property
    def batch_rows(self) -> int:
        """Rows of the batch that it runs best: one run on the CPU, the largest bucket on CUDA."""
        return self._config.max_batch_rows if self.provider == CUDA else self._config.cpu_run_rows

    @property
    def row_s(self) -> float:
        """Time of a run of a single row, in seconds, as measured when it started; infinite on CUDA, where it varies."""
        return self._row_s

    @property
    def metadata(self) -> dict[str, str]:
        """The model's own `metadata_props`."""
        return dict(self._started().get_modelmeta().custom_metadata_map)

    def start(self) -> None:
        """Loads the model, checks it against the manifest's promises, and runs every shape that will be run.

        Raises:
            ModelRejected: The model uses external data, can't be loaded, or its inputs and outputs are not as promised.
            ProviderUnavailable: `cuda` was asked for and can't run the whole model here.
        """
        if uses_external_data(self._content):
            raise ModelRejected("model.onnx: uses external data, which no digest covers; export it as one file")
        self._session = self._open_session()
        self._check_interface(self._session)
        if self.provider == CUDA:
            buckets = open_buckets(
                self._session,
                image_shape=self._image_shape,
                classes=self._classes,
                max_rows=self._config.max_batch_rows,
                device=("cuda", self._config.device),
            )
            buckets.warm_up()
            self._run = buckets.run
        else:
            self._run = self._run_split
            self._run_split(np.zeros((self._config.cpu_run_rows, *self._image_shape), np.uint8))
            self._row_s = min(self._time_one_row() for _ in range(_TIMED_RUNS))

    def infer(self, images: Uint8Array) -> Prediction:
        """Runs the network.

        Args:
            images: uint8 `[n, height, width, channels]`, n at least 1.

        Raises:
            InferenceFailed: ONNX Runtime failed.
        """
        if self._run is None:
            raise InferenceFailed("the engine was not started")
        try:
            logits, probabilities = self._run(images)
        except Exception as error:
            raise InferenceFailed(str(error)) from error
        return Prediction(logits=logits, probabilities=probabilities)

    def _started(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise InferenceFailed("the engine was not started")
        return self._session

    def _open_session(self) -> onnxruntime.InferenceSession:
        if self._config.provider == "cpu":
            return self._open_cpu()
        try:
            session = self._open_cuda()
        except ProviderUnavailable as error:
            if self._config.provider == "cuda":
                raise
            _logger.info("provider auto: running on the CPU, since %s", error)
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
        absence = explain_cuda_absence()
        if absence:
            raise ProviderUnavailable(absence)
        options = _session_options()
        # get_providers() proves registration only: without this, single nodes may run on the CPU in silence.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # TF32 keeps 10 bits of the mantissa: the served model would not be the trained one.
        cuda_options = {"device_id": str(self._config.device), "use_tf32": "0"}
        try:
            session = onnxruntime.InferenceSession(
                self._content, options, providers=[(CUDA, cuda_options)], enable_fallback=0
            )
        except Exception as error:
            raise ProviderUnavailable(f"CUDA can't run this model: {_first_line(error)}") from error
        if session.get_providers()[0] != CUDA:
            raise ProviderUnavailable("ONNX Runtime could not load its CUDA provider; its log on stderr says why")
        return session

    def _check_interface(self, session: onnxruntime.InferenceSession) -> None:
        """Compares names, types and shapes with what the manifest promises."""
        found = {node.name: (node.type, tuple(node.shape)) for node in (*session.get_inputs(), *session.get_outputs())}
        promised = {
            INPUT: ("tensor(uint8)", ("batch", *self._image_shape)),
            LOGITS: ("tensor(float)", ("batch", self._classes)),
            PROBABILITIES: ("tensor(float)", ("batch", self._classes)),
        }
        for name in promised.keys() | found.keys():
            if found.get(name) != promised.get(name):
                raise ModelRejected(
                    f"model.onnx: {name} is {_describe(found.get(name))}, "
                    f"but the manifest promises {_describe(promised.get(name))}"
                )

    def _time_one_row(self) -> float:
        image = np.zeros((1, *self._image_shape), np.uint8)
        started = time.perf_counter()
        self._run_split(image)
        return time.perf_counter() - started

    def _run_split(self, images: Uint8Array) -> list[FloatArray]:
        session, rows = self._started(), self._config.cpu_run_rows
        parts = [
            session.run([LOGITS, PROBABILITIES], {INPUT: images[start : start + rows]})
            for start in range(0, len(images), rows)
        ]
        return parts[0] if len(parts) == 1 else [np.concatenate(output) for output in zip(*parts, strict=True)]


def open_buckets(session: onnxruntime.InferenceSession, *, device: tuple[str, int], **sizes: Any) -> Buckets:
    """Buffers of a session on a device, its kind and its number; `sizes` are those of `Buckets`."""

    def allocate(shape: Sequence[int], dtype: type) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, *device)

    return Buckets(session, allocate, input_name=INPUT, output_names=(LOGITS, PROBABILITIES), **sizes)


def explain_cuda_absence() -> str | None:
    """One sentence on why nothing can run on CUDA here and what helps, or None where it can."""
    if CUDA not in onnxruntime.get_available_providers():
        return "the installed onnxruntime is the CPU wheel; in a new environment: pip install 'digits-serving[gpu]'"
    onnxruntime.preload_dlls()  # wheels keep the CUDA libraries where the loader does not look
    return cuda.explain_absence()


def runtime_report() -> str:
    """What ONNX Runtime says about itself, its providers and the libraries that it would load; names local paths."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        onnxruntime.print_debug_info()
    return written.getvalue().strip()


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _describe(node: tuple[str, tuple[Any, ...]] | None) -> str:
    return "absent" if node is None else f"{node[0]} {list(node[1])}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
