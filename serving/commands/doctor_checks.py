"""The checks of `digits-doctor`: first the machine, then a start of the server by its own code, short of serving."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import platform
import re
import resource
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from serving.commands.doctor_inference import check_inference
from serving.commands.finding import NOTE, OK, PROBLEM, Finding
from serving.config import ServerConfig, is_loopback
from serving.errors import DigitsError, ModelNotFound, RepositoryError, StartFailed, UnusableFile, install_hint
from serving.inference import cuda
from serving.inference.processors import available_processors
from serving.inference.sessions import RUNTIME_VERSION, cuda_unavailable_reason
from serving.repository.listing import ModelListing, VersionListing, model_listings
from serving.repository.repository import Repository
from serving.rollout.controller import RolloutController
from serving.rollout.deployments import Deployments
from serving.rollout.rollout import Rollout
from serving.server.fronts.shared_port import SharedPort
from serving.server.fronts.unix_socket import check_socket_file
from serving.server.security.tls import TlsFiles
from serving.server.security.tokens import TokenFile
from serving.server.telemetry.metrics import Metrics

# By name and version, the execution provider that a model would run on.
Providers = Mapping[tuple[str, int], str]

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_PACKAGES = ("grpcio", "protobuf", "numpy", "pillow", "uvloop", "uvicorn", "prometheus-client")
# Processor features that ONNX Runtime's kernels choose between.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "sve")
_FEW_FILES = 4096


def run_checks(config: ServerConfig, doubts: Iterable[str] = ()) -> Iterator[Finding]:
    """Checks everything that a server with this configuration needs; yields each finding as soon as it is known.

    Args:
        config: The configuration.
        doubts: What is to be said about environment variables.
    """
    yield Finding("python", OK, f"{platform.python_version()} on {platform.platform()}")
    yield from (Finding("variables", NOTE, doubt) for doubt in doubts)
    yield from _packages()
    yield from _optional_packages(config)
    yield _processors()
    yield _open_files()
    yield from _cuda(config)
    yield from _repository(config)
    try:
        rollout, providers = asyncio.run(_load_models(config))
    except DigitsError as error:
        yield Finding("serving", PROBLEM, str(error))
    else:
        yield from _served(rollout, providers)
        for stored in rollout.models:
            yield from check_inference(stored, config.engine, chosen=providers[stored.name, stored.version])
    yield from _security(config)
    yield from _ports(config)


def _packages() -> Iterator[Finding]:
    versions = {name: _installed_version(name) for name in (*_RUNTIMES, *_PACKAGES)}
    yield Finding("packages", OK, ", ".join(f"{name} {version}" for name, version in versions.items() if version))
    if all(versions[name] for name in _RUNTIMES):
        text = "onnxruntime and onnxruntime-gpu overwrite each other: install only one of them, in a new environment"
        yield Finding("packages", PROBLEM, text)
    installed = next((version for name in _RUNTIMES if (version := versions[name])), None)
    if installed != RUNTIME_VERSION:
        text = f"onnxruntime imports as {RUNTIME_VERSION}, but {installed or 'none'} is installed"
        yield Finding("packages", NOTE, text)
    if not versions["uvloop"]:
        text = f"without uvloop, each call takes a third more processor time; {install_hint('uvloop')}"
        yield Finding("packages", NOTE, text)


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _optional_packages(config: ServerConfig) -> Iterator[Finding]:
    needed = {
        "HTTP": ("serving.server.fronts.http", config.http_port is not None, "cpu"),
        "tracing": ("serving.server.telemetry.traces", bool(config.traces_endpoint), "otel"),
    }
    for feature, (module, enabled, extra) in needed.items():
        try:
            if enabled:
                importlib.import_module(module)
        except ImportError as error:
            yield Finding("packages", PROBLEM, f"{feature} needs {error.name}; {install_hint(extra)}")


def _processors() -> Finding:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        info = ""
    name = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    features = [feature for feature in _FEATURES if flags and feature in flags[1].split()]
    text = (
        f"{name[1] if name else platform.machine()}, {', '.join(features) or 'no known vector extensions'}; "
        f"{available_processors()} of {os.cpu_count() or 1} usable (affinity mask: {len(os.sched_getaffinity(0))})"
    )
    return Finding("processors", OK if features else NOTE, text)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"limit {soft}, can be raised to {hard}; each connection takes one"
    return Finding("open files", OK if soft >= _FEW_FILES else NOTE, text)


def _cuda(config: ServerConfig) -> Iterator[Finding]:
    for device in config.engine.devices:
        absence = cuda_unavailable_reason(device)
        if absence is None:
            yield Finding("cuda", OK, f"found the driver, device {device} and {len(cuda.LIBRARIES)} libraries")
        else:
            yield Finding("cuda", PROBLEM if config.engine.provider == "cuda" else NOTE, absence)


def _repository(config: ServerConfig) -> Iterator[Finding]:
    """Checks every version and label of the models to be served."""
    repository = Repository(config.repository, trusted_keys=config.trusted_keys)
    try:
        for name in config.models or (None,):
            for model in model_listings(repository, name):
                for listed in reversed(model.versions):
                    yield _version(model.name, listed)
                yield from _labels(model)
    except (RepositoryError, ModelNotFound, UnusableFile):
        return  # the start below reports it


def _version(name: str, listed: VersionListing) -> Finding:
    if listed.manifest is None or listed.problem is not None:
        return Finding("models", NOTE, f"{name} version {listed.version}: {listed.problem}")
    providers = ", ".join(listed.manifest.parity)
    return Finding("models", OK, f"{name} version {listed.version}: digest and parity ({providers}) hold")


def _labels(model: ModelListing) -> Iterator[Finding]:
    for text in model.problems:
        yield Finding("labels", NOTE, f"{model.name}: {text}")
    if model.labels and not model.problems:
        yield Finding("labels", OK, f"{model.name}: {model.labels.describe(model.current)}")


async def _load_models(config: ServerConfig) -> tuple[Rollout, Providers]:
    """Chooses, loads and warms up models as the server would."""
    number = 0

    def switch(to: int) -> None:
        nonlocal number
        number = to

    deployments = Deployments(config, Metrics(registry=None), number=lambda: number)
    controller = RolloutController(config, lambda: [deployments], switch)
    try:
        await controller.update_from_repository()
        return controller.rollout, {(each.name, each.version): each.provider for each in deployments}
    finally:
        await deployments.drain(0)
        deployments.close()


def _served(rollout: Rollout, providers: Providers) -> Iterator[Finding]:
    """States which versions would answer, and why others would not."""
    for name, route in rollout.routes.items():
        text = f"{name}: version {route.stable} on {providers[name, route.stable]}"
        if route.canary:
            text += f"; canary {route.canary} with {route.share * 100:g} % of the calls that name no version"
        others = {version for model, version in providers if model == name} - {route.stable, route.canary}
        if others:
            text += f"; also {', '.join(map(str, sorted(others)))} for calls that name it"
        yield Finding("serving", OK, text)
    for refusal in rollout.refusals:
        yield Finding("serving", NOTE, f"not served: {refusal}")
    if rollout.default:
        yield Finding("serving", OK, f"{rollout.default} answers calls that name no model")
    else:
        yield Finding("serving", OK, f"each call must name its model, one of {', '.join(rollout.routes)}")


def _security(config: ServerConfig) -> Iterator[Finding]:
    """Checks certificates and tokens, if any are configured."""
    try:
        tls, tokens = TlsFiles.of(config.security), TokenFile.of(config.security, config.host)
    except DigitsError as error:
        yield Finding("security", PROBLEM, str(error))
        return
    if tls:
        yield Finding("security", OK, "the certificate and its key match")
    if tokens and (tls or is_loopback(config.host)):
        yield Finding("security", OK, "a call needs a token")
    elif tokens:
        text = "a call needs a token, which travels in plain text, readable on the way: configure a certificate"
        yield Finding("security", NOTE, text)


def _ports(config: ServerConfig) -> Iterator[Finding]:
    """Checks that the configured ports are free."""
    ports = {"address": config.port, "http address": config.http_port, "metrics address": config.metrics_port}
    taken: set[int] = set()
    for subject, number in ports.items():
        if number is None:
            continue
        path = config.socket_path if subject == "address" else None
        try:
            if path is not None:
                check_socket_file(path)
                yield Finding(subject, OK, f"unix:{path} is free")
                continue
            if number in taken:
                raise StartFailed(f"port {number} is configured twice")
            port = SharedPort(config.tcp_host, number)
        except StartFailed as error:
            yield Finding(subject, PROBLEM, str(error))
            continue
        port.close()
        taken |= {number} - {0}
        yield Finding(subject, OK, f"{port.address} is free")
