"""The environment of a benchmark: the processes that it needs, started and ended together."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.bench.benchmark import Benchmark, CallConfig
from serving.bench.measurement import BenchFailed
from serving.bench.scenario import BenchConfig
from serving.bench.target import Target, digits_server, echo_server
from serving.bench.worker import Worker
from serving.bench.workload import Workload, draw_images, make_workload
from serving.client import CallFailed, Client
from serving.config import PRETRAINED, EngineConfig
from serving.inference.processors import available_processors

_NO_NETWORK = {"engine", "batcher"}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model to measure in a process, which our own server serves too.

    Attributes:
        repository: Directory of the model repository.
        model: Name of the model; None for the only one.
        version: Version of the model; None for the newest.
        provider: See `EngineConfig`.
        precision: See `EngineConfig`.
        threads: See `EngineConfig`.
    """

    repository: Path = PRETRAINED
    model: str | None = None
    version: int | None = None
    provider: str = "auto"
    precision: str = "float32"
    threads: int = 1

    @property
    def server_options(self) -> list[str]:
        """The same as options of `digits-serve`."""
        options = {
            "--repository": self.repository,
            "--model": self.model,
            "--model-version": self.version,
            "--provider": self.provider,
            "--precision": self.precision,
            "--threads": self.threads,
        }
        return [str(part) for name, value in options.items() if value is not None for part in (name, value)]


@contextlib.contextmanager
def open_benchmark(
    config: BenchConfig,
    calls: CallConfig,
    model: ModelConfig,
    *,
    target: Target | None,
    server_options: Sequence[str],
    load_generator: str,
    generators: int,
) -> Iterator[Benchmark]:
    """Starts what the scenarios need: load generators, an echo server, the model in a process, and a server.

    Args:
        config: What to measure.
        calls: How callers reach servers.
        model: The model to measure in a process, and to serve if there is no target.
        target: A running server; None to start one.
        server_options: More options of `digits-serve`, if it is started.
        load_generator: What generates the load: `grpcio` or `h2load`.
        generators: Processes that generate the load.

    Raises:
        BenchFailed: Something does not start, can't be reached, or serves another model.
    """
    layers = set(config.layers)
    with contextlib.ExitStack() as stack:
        in_process = None
        if target is None or layers & _NO_NETWORK:
            in_process = stack.enter_context(_model_worker(config, model))
        names = [load_generator] * generators if layers - _NO_NETWORK else []
        workers = [stack.enter_context(Worker(name)) for name in names]
        targets = {}
        if "echo" in layers:
            targets["echo"] = stack.enter_context(echo_server())
        for scenario in config.scenarios():
            if scenario.layer == "wire" and scenario.target not in targets:
                front = ["--front", scenario.front] if scenario.front else []
                options = [*model.server_options, *front, *server_options]
                targets[scenario.target] = target or stack.enter_context(digits_server(options))
        workload = _workload_of_target(target) if in_process is None and target else _workload_here(in_process, target)
        if in_process is not None and layers & _NO_NETWORK:
            in_process.call("use", workload)
        about = {
            "target": target.address if target else None,
            "server_options": [] if target else list(server_options),
            "model": workload.model_name,
            "expected_labels_from": "engine" if in_process else "target",
            "seconds": config.seconds,
            "load_generator": load_generator,
            "generators": generators,
            "connections": calls.connections,
            "callers_per_stream": calls.callers_per_stream,
            "processors": available_processors(),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
        }
        yield Benchmark(
            config, calls, workload, targets=targets, generators=workers, in_process=in_process, about=about
        )


def _model_worker(config: BenchConfig, model: ModelConfig) -> Worker:
    rows = max(EngineConfig().max_batch_rows, *config.batch_rows)
    engine = EngineConfig(
        provider=model.provider, precision=model.precision, threads=model.threads, max_batch_rows=rows
    )
    # The queue has room for every caller: without network, time is measured, not admission.
    queue_rows = rows * max(config.callers)
    return Worker("in_process", model.repository, model.model, model.version, engine, queue_rows)


def _workload_here(in_process: Worker | None, target: Target | None) -> Workload:
    """Labels images by the engine in the process; a target must serve the same model."""
    if in_process is None:
        raise ValueError("needs the model in a process")
    name, sha256, shape = in_process.call("describe")
    if target is not None:
        with _client(target) as client:
            served = client.get_model().sha256
        if served != sha256:
            raise BenchFailed(
                f"{target.address} serves another model (sha256 {served[:12]}…) than the repository contains "
                f"({sha256[:12]}…): name the target's repository with --repository, or measure --layers echo,wire"
            )
    images = draw_images(shape)
    return make_workload(images, in_process.call("probabilities", images), name)


def _workload_of_target(target: Target) -> Workload:
    """Labels images by a first call to the target."""
    with _client(target) as client:
        model = client.get_model()
        images = draw_images((model.height, model.width, model.channels))
        answer = client.classify(images, probabilities=True)
    if answer.probabilities is None:
        raise BenchFailed(f"{target.address} answers without probabilities")
    return make_workload(images, answer.probabilities, answer.model_name)


@contextlib.contextmanager
def _client(target: Target) -> Iterator[Client]:
    try:
        with Client(target.address) as client:
            yield client
    except CallFailed as error:
        raise BenchFailed(f"{target.address}: {error}") from error
