"""What this machine offers a server: interpreter, packages, processors, CUDA, models, an inference on each provider."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from serving.commands.start_check import NOTE, OK, PROBLEM, Finding, StartCheck
from serving.config import EngineConfig, ServerConfig
from serving.errors import DigitsError, ModelNotFound, ProviderUnavailable, RepositoryError
from serving.inference import cuda
from serving.inference.engine import CPU, RUNTIME_VERSION, Engine, cuda_unavailable_reason
from serving.inference.processors import available_processors
from serving.repository.listing import ModelListing, VersionListing, model_listings
from serving.repository.repository import Repository, StoredModel

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_PACKAGES = ("grpcio", "protobuf", "numpy", "pillow", "uvloop", "uvicorn", "prometheus-client")
# What ONNX Runtime's kernels choose between.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "sve")
_FEW_FILES = 4096
# The parity gate's bound for probabilities.
_AGREEMENT = 1e-5


def examine(config: ServerConfig) -> Iterator[Finding]:
    """Looks at everything that a server with this configuration would need; yields as it goes."""
    yield Finding(subject="python", state=OK, text=f"{platform.python_version()} on {platform.platform()}")
    yield from _packages()
    yield from _optional(config)
    yield from _processors()
    yield _open_files()
    absence = cuda_unavailable_reason()
    if absence is None:
        yield Finding(subject="cuda", state=OK, text=f"the driver and {len(cuda.LIBRARIES)} libraries are found")
    else:
        yield Finding(subject="cuda", state=PROBLEM if config.engine.provider == "cuda" else NOTE, text=absence)
    yield from _models(Repository(config.repository), config.models)
    rehearsal = StartCheck(config)
    yield from rehearsal.models()
    for stored in rehearsal.rollout.models if rehearsal.rollout else ():
        yield from _inferences(stored, config, rehearsal.providers[stored.name, stored.version])
    yield from rehearsal.files()
    yield from rehearsal.addresses()


def _packages() -> Iterator[Finding]:
    versions = {name: _version(name) for name in (*_RUNTIMES, *_PACKAGES)}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding(subject="packages", state=OK, text=shown)
    if all(versions[name] for name in _RUNTIMES):
        yield Finding(
            subject="packages",
            state=PROBLEM,
            text="onnxruntime and onnxruntime-gpu overwrite each other: install one of the two in a new environment",
        )
    installed = next((version for name in _RUNTIMES if (version := versions[name])), None)
    if installed != RUNTIME_VERSION:
        text = f"onnxruntime imports as {RUNTIME_VERSION}, but {installed or 'none'} is installed"
        yield Finding(subject="packages", state=NOTE, text=text)
    if not versions["uvloop"]:
        text = "without uvloop a call takes a third more of the processor: pip install 'digits-serving[uvloop]'"
        yield Finding(subject="packages", state=NOTE, text=text)


def _optional(config: ServerConfig) -> Iterator[Finding]:
    """Packages that only some servers need."""
    needed = {
        "serving.server.fronts.http": config.http_port is not None,
        "serving.server.telemetry.traces": bool(config.traces_endpoint),
    }
    for module in (name for name, wanted in needed.items() if wanted):
        try:
            importlib.import_module(module)
        except ImportError as error:
            yield Finding(subject="packages", state=PROBLEM, text=f"what was asked for needs {error.name}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processors() -> Iterator[Finding]:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    name = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", told, re.MULTILINE)
    features = [feature for feature in _FEATURES if flags and feature in flags[1].split()]
    online, usable = os.cpu_count() or 1, available_processors()
    text = (
        f"{name[1] if name else platform.machine()}, {', '.join(features) or 'no vector extensions that are known'}; "
        f"{usable} of {online} may be used (affinity mask: {len(os.sched_getaffinity(0))})"
    )
    yield Finding(subject="processors", state=OK if features else NOTE, text=text)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} at a time (at most {hard}): each connection takes one"
    return Finding(subject="open files", state=OK if soft >= _FEW_FILES else NOTE, text=text)


def _models(repository: Repository, wanted: Sequence[str]) -> Iterator[Finding]:
    """Looks at every version and label of the models that are wanted, all where none is named."""
    names: Sequence[str | None] = wanted or [None]
    try:
        for name in names:
            for model in model_listings(repository, name):
                for listed in reversed(model.versions):
                    yield _version_found(model.name, listed)
                yield from _labels_found(model)
    except (RepositoryError, ModelNotFound):
        return  # which the rehearsal stumbles over too


def _version_found(name: str, listed: VersionListing) -> Finding:
    if listed.manifest is None or listed.problem is not None:
        return Finding(subject="models", state=NOTE, text=f"{name} version {listed.version}: {listed.problem}")
    providers = ", ".join(listed.manifest.parity)
    text = f"{name} version {listed.version}: digest and parity ({providers}) hold"
    return Finding(subject="models", state=OK, text=text)


def _labels_found(model: ModelListing) -> Iterator[Finding]:
    for text in model.problems:
        yield Finding(subject="labels", state=NOTE, text=f"{model.name}: {text}")
    if model.labels and not model.problems:
        yield Finding(subject="labels", state=OK, text=f"{model.name}: {model.labels.describe(model.current)}")


def _inferences(stored: StoredModel, config: ServerConfig, chosen: str) -> Iterator[Finding]:
    """Runs a batch on each provider there is, of which the server has chosen one, and compares."""
    spec = stored.manifest.input
    images = np.random.default_rng(0).integers(0, 256, (16, *spec.shape), np.uint8)
    answers: dict[str, np.ndarray] = {}
    for provider in ("cpu", "cuda"):
        engine = Engine(
            stored.content,
            image_shape=spec.shape,
            classes=len(stored.manifest.labels),
            config=EngineConfig(provider=provider, device=config.engine.device, max_batch_rows=len(images)),
        )
        subject = f"{provider} inference"
        try:
            started = time.perf_counter()
            engine.start()
            ready = time.perf_counter()
            answers[provider] = engine.infer(images).probabilities
        except ProviderUnavailable:
            continue  # where that is the one that was asked for, there is no server
        except DigitsError as error:
            state = PROBLEM if engine.provider == chosen else NOTE
            yield Finding(subject=subject, state=state, text=f"{stored.name} version {stored.version}: {error}")
            continue
        text = (
            f"{stored.name} version {stored.version}: ready in {ready - started:.2f} s, "
            f"{len(images)} images in {1000 * (time.perf_counter() - ready):.1f} ms"
        )
        unproven = "" if engine.provider in stored.manifest.parity else "; parity is not proven on it"
        yield Finding(subject=subject, state=NOTE if unproven else OK, text=text + unproven)
    if len(answers) == 2:
        difference = float(np.abs(answers["cpu"] - answers["cuda"]).max())
        text = f"{stored.name}: probabilities on CUDA differ from those on the CPU ({CPU}) by at most {difference:.1e}"
        yield Finding(subject="agreement", state=OK if difference <= _AGREEMENT else PROBLEM, text=text)
