"""Sessions of ONNX Runtime, on the CPU or entirely on CUDA. Only this module imports ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import re
from pathlib import Path

# Must come before the import: from 1.29 on, ONNX Runtime otherwise starts a telemetry thread and writes to ~/.cache.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from serving.config import EngineConfig
from serving.errors import ModelRejected, ProviderUnavailable, install_hint
from serving.inference import cuda
from serving.inference.processors import available_processors

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
RUNTIME_VERSION: str = onnxruntime.__version__

_ERRORS, _NOTHING = 3, 4  # levels of its log
# Its allocator's limit, its allocator without a limit, and CUDA itself.
_OUT_OF_MEMORY = re.compile("Available memory of|Failed to allocate memory|out of memory", re.IGNORECASE)
# What failed, among the places in ONNX Runtime's source and the names of this machine.
_CAUSE = re.compile(r"(CUDA|CUBLAS|CUDNN) failure \d+: [^;]*\b|(Available memory of|Failed to allocate memory) .*")

_logger = logging.getLogger(__name__)

# What is not about one session, such as the devices that it looks for, goes to its default logger.
onnxruntime.set_default_logger_severity(_ERRORS)


def open_cpu(content: bytes, config: EngineConfig) -> onnxruntime.InferenceSession:
    """Opens a model on the CPU.

    Raises:
        ModelRejected: ONNX Runtime can't load it.
    """
    options = _options(_ERRORS)
    options.intra_op_num_threads = config.threads or available_processors()
    try:
        return onnxruntime.InferenceSession(content, options, providers=[CPU])
    except Exception as error:
        raise ModelRejected("model.onnx: ONNX Runtime can't load it", detail=cause(error)) from error


def open_cuda(content: bytes, config: EngineConfig) -> onnxruntime.InferenceSession:
    """Opens a model on CUDA for runs in CUDA graphs, whose options come from `graph_run`.

    Raises:
        ProviderUnavailable: ONNX Runtime could not load its CUDA provider.
        Exception: What ONNX Runtime raises, for example if memory is exhausted or a node can't run on CUDA.
    """
    options = _options(_NOTHING)  # the engine tries again and says why
    # get_providers() proves only registration: without this, single nodes may silently run on the CPU.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    cuda_options = {
        "device_id": str(config.device),
        # TF32 keeps only 10 bits of the mantissa, so the served model would not be the trained one.
        "use_tf32": "0",
        "enable_cuda_graph": "1",
        # By default the arena grows by doubling, though all that is ever needed is allocated by the warm-up.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if config.gpu_memory_mb:
        cuda_options["gpu_mem_limit"] = str(config.gpu_memory_mb << 20)
    session = onnxruntime.InferenceSession(content, options, providers=[(CUDA, cuda_options)], enable_fallback=0)
    if session.get_providers()[0] != CUDA:
        raise ProviderUnavailable("ONNX Runtime could not load its CUDA provider; see its log on stderr")
    return session


def open_untouched(content: bytes) -> onnxruntime.InferenceSession:
    """Opens a graph of any form on the CPU, in silence, to compare an engine with it."""
    return onnxruntime.InferenceSession(content, _options(_NOTHING), providers=[CPU])


def graph_run(number: int) -> onnxruntime.RunOptions:
    """Options of a run that captures CUDA graph `number` the first time, and replays it afterwards.

    A graph belongs to the thread that captured it, and to the shapes and addresses of that run. Nothing checks them.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def keep_forever(session: onnxruntime.InferenceSession) -> None:
    """Never frees a session, even at the end: after its device has failed, that would abort the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime raised this because a device's memory, or its limit, was exhausted."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def cuda_unavailable_reason(device: int = 0) -> str | None:
    """Returns one sentence on why CUDA can't run on a device and how to fix it, or None if it can."""
    if CUDA not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime is the CPU wheel; in a new environment, {install_hint('gpu')}"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls()  # the loader does not search the CUDA libraries' wheels
    if text := printed.getvalue().strip():
        _logger.debug("preload_dlls: %s", text)
    return cuda.unavailable_reason(device) or _provider_problem()


def _provider_problem() -> str | None:
    """Loads the CUDA provider so that it takes functions only from the libraries that it names; says if it can't.

    Otherwise it would take those of TensorFlow, which exports the same names for another release of CUDA.
    """
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=os.RTLD_NOW | os.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"), mode=os.RTLD_NOW | os.RTLD_DEEPBIND)
    except OSError as error:
        return f"ONNX Runtime's CUDA provider can't be loaded: {error}"
    return None


def runtime_report() -> str:
    """Returns ONNX Runtime's own report on its providers and libraries. It contains local paths."""
    with contextlib.redirect_stdout(io.StringIO()) as written:
        onnxruntime.print_debug_info()
    return written.getvalue().strip()


def cause(error: Exception) -> str:
    """Returns what went wrong, in one line: the first line of an error's message, or only what CUDA says in it."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    found = _CAUSE.search(line)
    return found[0] if found else line


def _options(severity: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = severity
    return options
