"""The server's configuration: one frozen dataclass for each part, checked when it is made."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from serving.errors import InvalidConfig

PROVIDERS = ("auto", "cuda", "cpu")
# What the package ships: a model repository, and an image of each digit.
PRETRAINED = Path(__file__).parent / "pretrained"
SAMPLES = Path(__file__).parent / "samples"

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
        threads: Threads of one inference on the CPU; 0 for as many as this process has processors. One is best for
            small requests: more shorten large batches, and burn twice the CPU for a single image, since they spin
            between inferences. Several workers use several processors better.
        cpu_run_rows: Rows of one run on the CPU; larger batches are split, since small ones stay in the cache.
        max_batch_rows: Rows of the largest batch. On CUDA, buffers for every power of two up to it are kept.
        device: Index of the CUDA device.
    """

    provider: str = "auto"
    threads: int = 1
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
        max_batch_rows: Rows of the largest request; one of more is refused when it is submitted. Also of the largest
            batch, unless the engine runs smaller ones better: then a large request is run in pieces, with others
            between them.
        max_queue_rows: A request that would make more rows wait than this is refused at once. Bounds memory and
            waiting time: waiting time is about `max_queue_rows` divided by the engine's images a second.
        max_wait_ms: How long an idle engine waits for a fuller batch, in milliseconds. 0 never waits, which is best
            unless batches stay small under load and throughput matters more than latency.
        inline_s: A batch that takes less than this, in seconds, is run on the event loop where nobody else waits. To
            hand it to the engine's thread and back takes some 0.1 ms, and twice that hold up nobody noticeably.
    """

    max_batch_rows: int = 1024
    max_queue_rows: int = 16384
    max_wait_ms: float = 0.0
    inline_s: float = 0.0002

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_batch_rows")
        _at_least(self, 0, "inline_s")
        if not 0 <= self.max_wait_ms <= 60_000:
            raise InvalidConfig(f"max_wait_ms must lie between 0 and 60000, not {self.max_wait_ms}")
        if self.max_queue_rows < self.max_batch_rows:
            raise InvalidConfig("max_queue_rows must be at least max_batch_rows, or a full batch could never queue")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """How encoded images are decoded.

    Attributes:
        decoder_threads: Images that are decoded at a time. Each takes memory of up to seven bytes for each of
            `max_image_pixels`.
        max_encoded_bytes: Encoded images of one request, together. A message may be as large.
        max_image_pixels: An image of more is refused on the word of its header, before it is decoded; a WebP of more
            than two fifths.
        max_queue_images: Where images wait already, a request that would make more wait than this is refused at once.
        max_queue_bytes: The same for their bytes.
    """

    decoder_threads: int = 2
    max_encoded_bytes: int = 16 << 20
    max_image_pixels: int = 40_000_000
    max_queue_images: int = 4096
    max_queue_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        _at_least(self, 1, *dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class SecurityConfig:
    """Who may call, and how the connection is protected. Files are read when the server starts and when they change.

    Attributes:
        tls_certificate: The server's certificate and those between it and its authority, PEM; None for plain text.
        tls_key: Its private key, PEM, not encrypted.
        tls_client_ca: Authorities of client certificates, PEM; where given, a client without such a certificate gets no
            connection.
        token_file: Bearer tokens, one a line; where given, a call needs one of them.
        open_health: Whether health answers without a token.
        reflection: Whether the server describes its services.
    """

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    open_health: bool = True
    reflection: bool = True

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidConfig("tls_certificate and tls_key need each other")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise InvalidConfig("tls_client_ca needs tls_certificate and tls_key")


@dataclass(frozen=True, kw_only=True)
class ConnectionConfig:
    """How many connections and calls are taken, and when a connection ends.

    Attributes:
        max_concurrent_calls: A call beyond is refused at once. A stream is one call; health and reflection don't count.
        max_connections: A connection beyond is closed at once; 0 for no limit.
        max_streams_per_connection: Calls on one connection; gRPC makes its client wait with those beyond, unseen by
            the server. Larger than `max_concurrent_calls`, or callers wait where they should be refused.
        max_connection_age_s: A connection is asked to end after this time, give or take a tenth, in seconds; 0 for
            never. Its client opens another one, which a load balancer or another worker may get, and loses no call
            unless it has switched gRPC's transparent retries off.
        max_connection_age_grace_s: How long calls may then still take before they fail, in seconds.
        keepalive_s: After so long without a sign of life a client is asked for one, in seconds.
        keepalive_timeout_s: How long it may take to answer before the connection is closed, in seconds.
        handshake_timeout_s: A client that has not finished TLS's and HTTP/2's handshakes by then is closed, in seconds.
        http_timeout_s: How long a client may take over HTTP to send a request, and then to take its answer, and then to
            send the next one, in seconds; its connection is closed after that.
    """

    max_concurrent_calls: int = 8192
    max_connections: int = 0
    max_streams_per_connection: int = 16384
    max_connection_age_s: float = 0.0
    max_connection_age_grace_s: float = 30.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    handshake_timeout_s: float = 20.0
    http_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        _at_least(self, 0, "max_connections", "max_connection_age_s", "max_connection_age_grace_s")
        _at_least(self, 1, "max_concurrent_calls", "max_streams_per_connection")
        _at_least(self, 0.001, "keepalive_s", "keepalive_timeout_s", "handshake_timeout_s", "http_timeout_s")
        for name in dataclasses.asdict(self):
            if getattr(self, name) > 2_000_000:  # gRPC takes integers of 32 bits, for times in milliseconds
                raise InvalidConfig(f"{name} must be at most 2000000, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The process: what it serves, where, and how it stops.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        repository: Directory of the model repository.
        models: Names of the models, the first of them for calls that name none; empty for all in the repository.
        version: Version of the only model, whatever its labels say; None for what they say, or the newest.
        extra_versions: So many of the newest versions are loaded besides, for calls that name them.
        linger_s: A version that is not current any more still answers calls that name it for so long, in seconds: those
            whose callers began with it, as the later requests of a large batch.
        watch_s: The repository is looked at again after so long, in seconds; 0 for never.
        model_control: Whether clients may load and unload models.
        workers: Processes that share the port, each with an engine and a batcher of its own.
        drain_pause_s: On SIGTERM or SIGINT, how long health says NOT_SERVING while calls are still taken, in seconds,
            so that load balancers notice first.
        grace_s: After that, how long calls in flight may take to finish, in seconds.
        watchdog_s: A batch that is in the engine for longer than this ends its process, in seconds; a supervisor starts
            another.
        traces_endpoint: OpenTelemetry collector that gets a span for every call, `http://host:4318`; empty for none.
        access_log_share: Share of the calls that are logged, from 0 to 1.
        metrics_port: Port for Prometheus on the same host; 0 for any free one, None for none.
        http_port: Port for the Open Inference Protocol over HTTP on the same host; 0 for any free one, None for none.
        engine: How the model is run.
        batcher: How requests are grouped.
        decoder: How encoded images are decoded.
        security: Who may call.
        connections: How many at a time.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    repository: Path = PRETRAINED
    models: tuple[str, ...] = ()
    version: int | None = None
    extra_versions: int = 0
    linger_s: float = 5.0
    watch_s: float = 0.0
    model_control: bool = False
    workers: int = 1
    drain_pause_s: float = 0.0
    grace_s: float = 10.0
    watchdog_s: float = 60.0
    traces_endpoint: str = ""
    access_log_share: float = 0.0
    metrics_port: int | None = None
    http_port: int | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    batcher: BatcherConfig = field(default_factory=BatcherConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    connections: ConnectionConfig = field(default_factory=ConnectionConfig)

    def __post_init__(self) -> None:
        if not self.host:
            raise InvalidConfig("host must not be empty; 0.0.0.0 listens on all addresses")
        if not 0 <= self.port <= 65535:
            raise InvalidConfig(f"port must lie between 0 and 65535, not {self.port}")
        if self.http_port is not None and not 0 <= self.http_port <= 65535:
            raise InvalidConfig(f"http_port must lie between 0 and 65535, not {self.http_port}")
        if self.http_port and self.http_port == self.port:
            raise InvalidConfig(f"http_port and port must differ, not both be {self.port}")
        for name in ("grace_s", "drain_pause_s"):
            if not 0 <= getattr(self, name) <= 3600:
                raise InvalidConfig(f"{name} must lie between 0 and 3600, not {getattr(self, name)}")
        _at_least(self, 1, "workers", "watchdog_s")
        _at_least(self, 0, "extra_versions", "linger_s", "watch_s")
        if self.version is not None and len(self.models) > 1:
            raise InvalidConfig("version: of which model? Name one")
        if self.traces_endpoint and not self.traces_endpoint.startswith(("http://", "https://")):
            raise InvalidConfig(f"traces_endpoint must be like http://host:4318, not {self.traces_endpoint!r}")
        if not 0 <= self.access_log_share <= 1:
            raise InvalidConfig(f"access_log_share must lie between 0 and 1, not {self.access_log_share}")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, reached without a network.

    Args:
        host: A name or an address, without a port.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
