"""What this machine offers a server: interpreter, packages, processors, CUDA, models, an inference on each provider."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving import cuda
from serving.config import EngineConfig
from serving.engine import CPU, RUNTIME_VERSION, Engine, explain_cuda_absence
from serving.errors import DigitsError, ModelRejected, ProviderUnavailable, RepositoryError, StartFailed
from serving.inventory import ListedModel, ListedVersion, take_inventory
from serving.port import SharedPort
from serving.processors import available_processors
from serving.repository import Repository, StoredModel

OK, NOTE, PROBLEM = "ok", "note", "problem"

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_PACKAGES = ("grpcio", "protobuf", "numpy", "pillow", "uvloop", "uvicorn", "prometheus-client")
# What ONNX Runtime's kernels choose between.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "sve")
_FEW_FILES = 4096
# The parity gate's bound for probabilities.
_AGREEMENT = 1e-5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What it is about, such as `cuda`.
        state: `ok`; `note` where a server runs, but not as it might; `problem` where it would not start.
        text: What was found.
    """

    subject: str
    state: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a server would be started.

    Attributes:
        provider: `auto`, `cuda` or `cpu`.
        device: Index of the CUDA device.
        repository: Directory of the models.
        host: Address that it would listen on.
        port: Port that it would listen on; 0 for any free one.
    """

    provider: str
    device: int
    repository: Path
    host: str
    port: int


def examine(plan: Plan) -> Iterator[Finding]:
    """Looks at everything that a server with this plan would need; yields as it goes."""
    yield Finding(subject="python", state=OK, text=f"{platform.python_version()} on {platform.platform()}")
    yield from _packages()
    yield from _processors()
    yield _open_files()
    absence = explain_cuda_absence()
    if absence is None:
        yield Finding(subject="cuda", state=OK, text=f"the driver and {len(cuda.LIBRARIES)} libraries are found")
    else:
        yield Finding(subject="cuda", state=PROBLEM if plan.provider == "cuda" else NOTE, text=absence)
    stored: list[StoredModel] = []
    for finding, model in _models(Repository(plan.repository)):
        yield finding
        stored += [model] if model else []
    for model in stored:
        yield from _inferences(model, plan)
    yield _address(plan)


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


def _models(repository: Repository) -> Iterator[tuple[Finding, StoredModel | None]]:
    """Looks at every version and label; gives the versions that calls go to which name none."""
    try:
        models = list(take_inventory(repository))
    except RepositoryError as error:
        yield Finding(subject="models", state=PROBLEM, text=str(error)), None
        return
    if not models:
        yield Finding(subject="models", state=PROBLEM, text=f"{repository.root}: no models"), None
    for model in models:
        for listed in reversed(model.versions):
            yield _version_found(model, listed), _read(repository, model, listed.version)
        yield from ((finding, None) for finding in _labels_found(model))


def _read(repository: Repository, model: ListedModel, version: int) -> StoredModel | None:
    try:
        return repository.load(model.name, version) if model.answers(version) else None
    except ModelRejected:  # changed since it was listed
        return None


def _version_found(model: ListedModel, listed: ListedVersion) -> Finding:
    if listed.manifest is None or listed.problem is not None:
        # Servers answer with another version, where there is one.
        state = NOTE if model.servable else PROBLEM
        return Finding(subject="models", state=state, text=f"{model.name} version {listed.version}: {listed.problem}")
    providers = ", ".join(listed.manifest.parity)
    text = f"{model.name} version {listed.version}: digest and parity ({providers}) hold"
    return Finding(subject="models", state=OK, text=text)


def _labels_found(model: ListedModel) -> Iterator[Finding]:
    for text in model.problems:
        yield Finding(subject="labels", state=PROBLEM, text=f"{model.name}: {text}")
    if model.labels and not model.problems:
        yield Finding(subject="labels", state=OK, text=f"{model.name}: {model.labels.describe(model.current)}")


def _inferences(stored: StoredModel, plan: Plan) -> Iterator[Finding]:
    """Runs a batch on each provider there is, and compares."""
    spec = stored.manifest.input
    images = np.random.default_rng(0).integers(0, 256, (16, *spec.shape), np.uint8)
    answers: dict[str, np.ndarray] = {}
    for provider in ("cpu", "cuda"):
        engine = Engine(
            stored.content,
            image_shape=spec.shape,
            classes=len(stored.manifest.labels),
            config=EngineConfig(provider=provider, device=plan.device, max_batch_rows=len(images)),
        )
        subject = f"{provider} inference"
        try:
            started = time.perf_counter()
            engine.start()
            ready = time.perf_counter()
            answers[provider] = engine.infer(images).probabilities
        except ProviderUnavailable as error:
            if provider == plan.provider:
                yield Finding(subject=subject, state=PROBLEM, text=f"{stored.name}: {error}")
            continue
        except DigitsError as error:
            yield Finding(subject=subject, state=PROBLEM, text=f"{stored.name}: {error}")
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


def _address(plan: Plan) -> Finding:
    try:
        port = SharedPort(plan.host, plan.port)
    except StartFailed as error:
        return Finding(subject="address", state=PROBLEM, text=str(error))
    port.close()
    return Finding(subject="address", state=OK, text=f"{port.address} is free")
