"""A session: the processes of one run of `digits-bench`, started and ended together."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from serving.bench.ladder import Ladder, WireConfig
from serving.bench.outcome import BenchFailed
from serving.bench.rung import LadderConfig
from serving.bench.target import Target, digits_server, echo_server
from serving.bench.worker import Worker
from serving.bench.workload import Workload, draw_images, make_workload
from serving.client import CallFailed, Client
from serving.config import PRETRAINED, EngineConfig
from serving.inference.processors import available_processors

_NO_NETWORK = {"engine", "batcher"}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model that is measured in the process, and that our own server serves.

    Attributes:
        repository: Directory of the model repository.
        model: Name of the model; None for the only one.
        version: Its version; None for the newest.
        provider: See `EngineConfig`.
        threads: See `EngineConfig`.
    """

    repository: Path = PRETRAINED
    model: str | None = None
    version: int | None = None
    provider: str = "auto"
    threads: int = 1

    @property
    def server_options(self) -> list[str]:
        """The same as options of `digits-serve`."""
        options = {
            "--repository": self.repository,
            "--model": self.model,
            "--model-version": self.version,
            "--provider": self.provider,
            "--threads": self.threads,
        }
        return [str(part) for name, value in options.items() if value is not None for part in (name, value)]


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is ready to be measured.

    Attributes:
        ladder: Measures it.
        about: What it is, for the report.
    """

    ladder: Ladder
    about: Mapping[str, Any]


@contextlib.contextmanager
def open_session(
    config: LadderConfig,
    wire: WireConfig,
    model: ModelConfig,
    *,
    target: Target | None,
    server_options: Sequence[str],
    generators: int,
) -> Iterator[Session]:
    """Starts what the rungs need: generators, an echo server, the model in a process, a server of our own.

    Args:
        config: What is measured.
        wire: How callers reach servers.
        model: What is measured in the process, and served where no target is given.
        target: A server that runs already.
        server_options: More options of `digits-serve`, where no target is given.
        generators: Processes that make the load.

    Raises:
        BenchFailed: Something does not start, can't be reached, or serves another model.
    """
    kinds = set(config.kinds)
    with contextlib.ExitStack() as stack:
        in_process = None
        if target is None or kinds & _NO_NETWORK:
            in_process = stack.enter_context(_model_worker(config, model))
        names = ["generator"] * generators if kinds - _NO_NETWORK else []
        workers = [stack.enter_context(Worker(name)) for name in names]
        targets = {}
        if "echo" in kinds:
            targets["echo"] = stack.enter_context(echo_server())
        if "wire" in kinds:
            targets["wire"] = target or stack.enter_context(digits_server([*model.server_options, *server_options]))
        workload = _workload_of_target(target) if in_process is None and target else _workload_here(in_process, target)
        if in_process is not None and kinds & _NO_NETWORK:
            in_process.call("use", workload)
        ladder = Ladder(config, wire, workload, targets=targets, generators=workers, in_process=in_process)
        yield Session(
            ladder=ladder,
            about={
                "target": targets["wire"].address if "wire" in targets else None,
                "server_options": [] if target else list(server_options),
                "model": workload.model_name,
                "expected_labels_from": "engine" if in_process else "target",
                "seconds": config.seconds,
                "generators": generators,
                "connections": wire.connections,
                "callers_per_stream": wire.callers_per_stream,
                "processors": available_processors(),
                "python": platform.python_version(),
                "grpcio": grpc.__version__,
            },
        )


def _model_worker(config: LadderConfig, model: ModelConfig) -> Worker:
    rows = max(EngineConfig().max_batch_rows, *config.batch_rows)
    engine = EngineConfig(provider=model.provider, threads=model.threads, max_batch_rows=rows)
    # In the process nobody is refused: what is measured there is time, not admission.
    queue_rows = rows * max(config.callers)
    return Worker("in_process", model.repository, model.model, model.version, engine, queue_rows)


def _workload_here(in_process: Worker | None, target: Target | None) -> Workload:
    """Images with the labels of the engine in the process; a target must serve the same model."""
    if in_process is None:
        raise ValueError("needs the model in a process")
    name, sha256, shape = in_process.call("describe")
    if target is not None:
        with _client(target) as client:
            served = client.get_model().sha256
        if served != sha256:
            raise BenchFailed(
                f"{target.address} serves another model (sha256 {served[:12]}…) than is here ({sha256[:12]}…): name "
                "its own with --repository, or measure --rungs echo,wire, which need none"
            )
    images = draw_images(shape)
    return make_workload(images, in_process.call("probabilities", images), name)


def _workload_of_target(target: Target) -> Workload:
    """Images with the labels that the target gave them in a first call."""
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
