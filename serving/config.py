"""The server's configuration: one frozen dataclass for each part, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from serving.errors import InvalidConfig

PROVIDERS = ("auto", "cuda", "cpu")
PRETRAINED = Path(__file__).parent / "pretrained"

# Launchers such as timeout(1) signal a process and then its group: the same request, twice within a moment.
SAME_SIGNAL_S = 0.5


def _at_least(config: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= least:
            raise InvalidConfig(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the model is run.

    Attributes:
        provider: `cuda` runs the whole model on CUDA or refuses to start; `cpu` runs it on the CPU; `auto` takes CUDA
            where it works and the CPU otherwise, and logs which and why.
        threads: Threads of one inference on the CPU; 0 for as many as this process has processors.
        cpu_run_rows: Rows of one run on the CPU; larger batches are split, since small ones stay in the cache.
        max_batch_rows: Rows of the largest batch. On CUDA, buffers for every power of two up to it are kept.
        device: Index of the CUDA device.
    """

    provider: str = "auto"
    threads: int = 0
    cpu_run_rows: int = 64
    max_batch_rows: int = 1024
    device: int = 0

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise InvalidConfig(f"provider must be one of {', '.join(PROVIDERS)}, not {self.provider!r}")
        _at_least(self, 0, "threads", "device")
        _at_least(self, 1, "cpu_run_rows", "max_batch_rows")


@dataclass(frozen=True, kw_only=True)
class BatcherConfig:
    """How concurrent requests are grouped.

    Attributes:
        max_batch_rows: A batch takes whole requests until one more would exceed this many rows. A request of more
            rows is refused when it is submitted.
        max_queue_rows: A request that would make more rows wait than this is refused at once. Bounds memory and
            waiting time: waiting time is about `max_queue_rows` divided by the engine's images a second.
        max_wait_ms: How long an idle engine waits for a fuller batch, in milliseconds. 0 never waits, which is best
            unless batches stay small under load and throughput matters more than latency.
    """

    max_batch_rows: int = 1024
    max_queue_rows: int = 16384
    max_wait_ms: float = 0.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_batch_rows")
        if not 0 <= self.max_wait_ms <= 60_000:
            raise InvalidConfig(f"max_wait_ms must lie between 0 and 60000, not {self.max_wait_ms}")
        if self.max_queue_rows < self.max_batch_rows:
            raise InvalidConfig("max_queue_rows must be at least max_batch_rows, or a full batch could never queue")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The process: what it serves, where, and how it stops.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        repository: Directory of the model repository.
        model: Name of the model; None where the repository has just one.
        version: Version of the model; None for the newest.
        workers: Processes that share the port, each with an engine and a batcher of its own.
        drain_pause_s: On SIGTERM or SIGINT, how long health says NOT_SERVING while calls are still taken, in seconds,
            so that load balancers notice first.
        grace_s: After that, how long calls in flight may take to finish, in seconds.
        watchdog_s: A batch that is in the engine for longer than this ends its process, in seconds; a supervisor starts
            another.
        metrics_port: Port for Prometheus on the same host; 0 for any free one, None for none.
        engine: How the model is run.
        batcher: How requests are grouped.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    repository: Path = PRETRAINED
    model: str | None = None
    version: int | None = None
    workers: int = 1
    drain_pause_s: float = 0.0
    grace_s: float = 10.0
    watchdog_s: float = 60.0
    metrics_port: int | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    batcher: BatcherConfig = field(default_factory=BatcherConfig)

    def __post_init__(self) -> None:
        if not self.host:
            raise InvalidConfig("host must not be empty; 0.0.0.0 listens on all addresses")
        if not 0 <= self.port <= 65535:
            raise InvalidConfig(f"port must lie between 0 and 65535, not {self.port}")
        for name in ("grace_s", "drain_pause_s"):
            if not 0 <= getattr(self, name) <= 3600:
                raise InvalidConfig(f"{name} must lie between 0 and 3600, not {getattr(self, name)}")
        _at_least(self, 1, "workers", "watchdog_s")
