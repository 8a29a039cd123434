"""The server's configuration: one frozen dataclass for each part.

Each setting is declared once, as a field with its default, its range and its help. The fields are checked when a part
is made, and `serving.commands.server_options` makes the options of the command line from them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.errors import InvalidConfig

FRONTS = ("grpcio", "native")
PROVIDERS = ("auto", "cuda", "cpu")
PRECISIONS = ("auto", "float32", "int8")
# Shipped with the package: a model repository, and an image of each digit.
PRETRAINED = Path(__file__).parent / "pretrained"
SAMPLES = Path(__file__).parent / "samples"

# Launchers such as timeout(1) signal a process and then its group: the same request, twice within a moment.
SAME_SIGNAL_S = 0.5

# As browsers send it: scheme, host and, unless it is the usual one, port.
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@*A-Z]+")

_LARGEST_PORT = 65_535
_LONGEST_SOCKET_PATH = 107  # see unix(7)
_LARGEST_NUMBER = 2_000_000  # gRPC takes integers of 32 bits, and times in milliseconds


def setting(
    default: Any,
    text: str,
    *,
    limits: tuple[float | None, float | None] = (None, None),
    choices: tuple[str, ...] = (),
    section: str = "",
    unset: str = "",
    option: bool = True,
) -> Any:
    """A field that describes itself.

    Args:
        default: Its default.
        text: What it does, with its unit.
        limits: The smallest and the largest value that are accepted; None for no limit.
        choices: The values that are accepted; empty for any.
        section: Title of the section of the help that begins with it; empty for the one before.
        unset: What the server does without it, shown instead of the default.
        option: Whether it is an option of the command line.
    """
    declared = {
        "text": text,
        "limits": limits,
        "choices": choices,
        "section": section,
        "unset": unset,
        "option": option,
    }
    return field(default=default, metadata=declared)


def _part(section: str, kind: type) -> Any:
    """A field that holds another part, with the title of the section of the help that lists its settings."""
    return field(default_factory=kind, metadata={"section": section})


@dataclass(frozen=True, kw_only=True)
class _Part:
    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            _check(each.name, getattr(self, each.name), each.metadata)


def _check(name: str, value: Any, declared: Mapping[str, Any]) -> None:
    """Raises InvalidConfig unless a value is one of the choices and within the limits that its field declares."""
    choices, (minimum, maximum) = declared.get("choices"), declared.get("limits", (None, None))
    if value is None:
        return
    if choices and value not in choices:
        raise InvalidConfig(f"{name} must be one of {', '.join(choices)}, not {value!r}", fields=(name,))
    # Written so that NaN is refused too.
    if not ((minimum is None or value >= minimum) and (maximum is None or value <= maximum)):
        limits = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise InvalidConfig(f"{name} must be {limits}, not {value}", fields=(name,))


@dataclass(frozen=True, kw_only=True)
class EngineConfig(_Part):
    """How ONNX Runtime runs the model."""

    provider: str = setting(
        "auto",
        "What runs the model. cuda: CUDA only; the server does not start without it. cpu: the CPU. "
        "auto: CUDA if it works, else the CPU; the log says which and why.",
        choices=PROVIDERS,
    )
    precision: str = setting(
        "float32",
        "What the network computes with. float32: what was trained. int8: integers, on the CPU, if this was published "
        "and proven for this kind of processor; the server does not start without. auto: int8 where it was proven, "
        "else float32; the log says why.",
        choices=PRECISIONS,
    )
    devices: tuple[int, ...] = setting(
        (0,),
        "Index of the CUDA device. Several, such as 0,1: each worker takes one of them, in turn, and there is at least "
        "one worker for each.",
    )
    gpu_memory_mb: int = setting(
        0,
        "Memory on the GPU for each version of a model in each worker, in MiB, beyond what CUDA itself takes. Where it "
        "does not suffice, batches are smaller. 0: as much as batches of a million pixels take.",
        limits=(0, 1 << 20),
    )
    threads: int = setting(
        1,
        "Threads per inference on the CPU; 0: one per processor. More threads speed up large batches and waste "
        "processor time on single images; several workers make better use of several processors.",
        limits=(0, None),
    )
    max_batch_rows: int = setting(
        1024,
        "Images in the largest batch. On CUDA, buffers are kept for every power of two up to it.",
        limits=(1, None),
        option=False,  # the batcher's, of the same name, sets both
    )
    cpu_run_rows: int = setting(
        64,
        "Images per run on the CPU. Larger batches are split, since small ones fit the cache.",
        limits=(1, None),
        option=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.devices or min(self.devices) < 0 or len(set(self.devices)) < len(self.devices):
            message = f"devices must be different numbers from 0 on, not {', '.join(map(str, self.devices))}"
            raise InvalidConfig(message, fields=("devices",))
        if self.precision == "int8" and self.provider == "cuda":
            raise InvalidConfig("precision: int8 runs on the CPU only, not on cuda", fields=("precision", "provider"))

    @property
    def device(self) -> int:
        """The device that this process uses."""
        return self.devices[0]


@dataclass(frozen=True, kw_only=True)
class BatcherConfig(_Part):
    """How concurrent requests are grouped into batches."""

    max_batch_rows: int = setting(
        1024,
        "Images in the largest request, and in the largest batch on CUDA. The server refuses larger requests.",
        limits=(1, None),
    )
    max_queue_rows: int = setting(
        16384,
        "Images that may wait. The server immediately refuses a request that would exceed this. The longest wait is "
        "about this number divided by the images per second that the engine reaches.",
        limits=(1, None),
    )
    max_wait_ms: float = setting(
        0.0,
        "How long an idle engine waits for a fuller batch, in milliseconds. 0 is best unless batches stay small under "
        "load and throughput matters more than latency.",
        limits=(0, 60_000),
    )
    inline_s: float = setting(
        0.0002,
        "A batch that takes less time than this, in seconds, runs on the event loop if no other request waits. To "
        "pass it to the engine's thread and back takes about 0.1 ms.",
        limits=(0, None),
        option=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_queue_rows < self.max_batch_rows:
            message = "max_queue_rows must be at least max_batch_rows, or a full batch could never queue"
            raise InvalidConfig(message, fields=("max_queue_rows", "max_batch_rows"))


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(_Part):
    """How encoded images are decoded."""

    decoder_threads: int = setting(
        2, "Images decoded at a time. Each takes up to seven bytes of memory per pixel.", limits=(1, 1024)
    )
    max_encoded_bytes: int = setting(16 << 20, "Size of the encoded images of one request, in bytes.", limits=(1, None))
    max_image_pixels: int = setting(
        40_000_000,
        "Pixels of the largest image; two fifths of this for WebP. The server reads the size from the header and "
        "refuses a larger image without decoding it.",
        limits=(1, None),
    )
    max_queue_images: int = setting(
        4096,
        "Encoded images that may wait for a decoder. The server immediately refuses a request that would exceed this.",
        limits=(1, None),
    )
    max_queue_bytes: int = setting(
        256 << 20, "Size of the encoded images that may wait for a decoder, in bytes.", limits=(1, None)
    )


@dataclass(frozen=True, kw_only=True)
class SecurityConfig(_Part):
    """Who may call, and how connections are protected. Files are read at the start and again when they change."""

    tls_certificate: Path | None = setting(
        None,
        "The server's certificate, PEM, followed by those between it and its authority. Read again when it changes.",
        unset="no TLS",
    )
    tls_key: Path | None = setting(None, "Private key of the certificate, PEM, not encrypted.")
    tls_client_ca: Path | None = setting(
        None,
        "Authorities for client certificates, PEM. A client without a certificate from one of them can't connect.",
        unset="any client may connect",
    )
    token_file: Path | None = setting(
        None,
        "Bearer tokens, one per line. Each call needs one of them. Read again when it changes.",
        unset="no token is needed",
    )
    open_health: bool = setting(True, "Answer health checks without a token.")
    reflection: bool = setting(True, "Describe the API through gRPC reflection.")
    cors_origins: tuple[str, ...] = setting(
        (),
        "Origin, such as https://digits.example, whose pages may call over HTTP; *: any. "
        "Repeat the option for several; separate them by spaces in the environment variable.",
        unset="none",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                message = f"cors_origins must be * or like https://digits.example, without a path, not {origin!r}"
                raise InvalidConfig(message, fields=("cors_origins",))
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidConfig("tls_certificate and tls_key need each other", fields=("tls_certificate", "tls_key"))
        if self.tls_client_ca is not None and self.tls_certificate is None:
            fields = ("tls_client_ca", "tls_certificate", "tls_key")
            raise InvalidConfig("tls_client_ca needs tls_certificate and tls_key", fields=fields)


@dataclass(frozen=True, kw_only=True)
class ConnectionConfig(_Part):
    """How many connections and calls the server accepts, and when it closes a connection."""

    max_concurrent_calls: int = setting(
        8192,
        "Calls and streams at a time. The server immediately refuses further ones. Health and reflection don't count.",
        limits=(1, _LARGEST_NUMBER),
    )
    max_connections: int = setting(
        0,
        "Connections at a time; 0: no limit. The server immediately closes further ones.",
        limits=(0, _LARGEST_NUMBER),
    )
    max_streams_per_connection: int = setting(
        16384,
        "Calls on one connection at a time. gRPC makes the client wait with further ones, which the server can't see; "
        "so keep it above --max-concurrent-calls.",
        limits=(1, _LARGEST_NUMBER),
    )
    max_connection_age_s: float = setting(
        0.0,
        "Age at which the server asks a client to reconnect, in seconds, give or take 10 %; 0: never. Behind a load "
        "balancer, 300 spreads clients over new servers. No call is lost unless the client disables gRPC's "
        "transparent retries.",
        limits=(0, _LARGEST_NUMBER),
    )
    max_connection_age_grace_s: float = setting(
        30.0,
        "How long calls on such a connection may still take before they fail, in seconds.",
        limits=(0, _LARGEST_NUMBER),
    )
    keepalive_s: float = setting(
        60.0, "Silence after which the server pings a client, in seconds.", limits=(0.001, _LARGEST_NUMBER)
    )
    keepalive_timeout_s: float = setting(
        20.0,
        "How long a client may take to answer a ping before its connection is closed, in seconds.",
        limits=(0.001, _LARGEST_NUMBER),
    )
    handshake_timeout_s: float = setting(
        20.0,
        "How long a client may take for the TLS and HTTP/2 handshakes, in seconds.",
        limits=(0.001, _LARGEST_NUMBER),
    )
    http_timeout_s: float = setting(
        60.0,
        "How long an HTTP client may take to send a request, to read the response, or to send the next request, "
        "in seconds. Its connection is then closed.",
        limits=(0.001, _LARGEST_NUMBER),
    )


@dataclass(frozen=True, kw_only=True)
class ServerConfig(_Part):
    """The process: what it serves, where, and how it stops."""

    host: str = setting(
        "127.0.0.1",
        "Address to listen on; 0.0.0.0: all addresses. unix:PATH: a Unix socket for gRPC, without a port; HTTP and "
        "metrics then listen on 127.0.0.1.",
        section="Addresses",
    )
    port: int = setting(50051, "Port for gRPC; 0: any free one.", limits=(0, _LARGEST_PORT))
    http_port: int | None = setting(
        None,
        "Port for HTTP, on the same host: the Open Inference Protocol, image files, and a page to draw digits on; "
        "0: any free one.",
        limits=(0, _LARGEST_PORT),
        unset="none",
    )
    page: bool = setting(True, "With --http-port: show a page at / on which one draws a digit.")
    metrics_port: int | None = setting(
        None,
        "Port for Prometheus's /metrics, on the same host; 0: any free one.",
        limits=(0, _LARGEST_PORT),
        unset="none",
    )
    front: str = setting(
        "grpcio",
        "What speaks gRPC. native takes less processor time and needs the extra native; it can do no TLS, for example. "
        "auto: native if it is installed and no option needs grpcio.",
        choices=(*FRONTS, "auto"),
    )
    repository: Path = setting(
        PRETRAINED,
        "Directory of the model repository.",
        section="Models",
        unset="the repository that comes with the package",
    )
    models: tuple[str, ...] = setting(
        (),
        "Name of a model to serve. Repeat the option for several; separate names by spaces in the environment "
        "variable. The first one answers calls that name no model.",
        unset="all in the repository",
    )
    model_version: int | None = setting(
        None,
        "Version of the model to serve, regardless of its labels. Needs a single model.",
        limits=(1, None),
        unset="as the model's labels say, else the newest",
    )
    trusted_keys: tuple[Path, ...] = setting(
        (),
        "Public key of someone whose versions may be served, PEM: versions that no such key has signed are refused. "
        "Repeat the option for several; separate files by colons in the environment variable. Read once, at the start. "
        "Needs the extra signing.",
        unset="versions need no signature",
    )
    extra_versions: int = setting(
        0, "How many of the newest versions to load in addition, for calls that name them.", limits=(0, None)
    )
    linger_s: float = setting(
        5.0,
        "How long a version that was replaced still answers calls that name it, in seconds, so that callers can "
        "finish what they began with it.",
        limits=(0, 3600),
    )
    watch_s: float = setting(
        0.0, "How often to look for changes in the repository, in seconds; 0: never.", limits=(0, None)
    )
    model_control: bool = setting(False, "Let clients load and unload models.")
    engine: EngineConfig = _part("Inference", EngineConfig)
    batcher: BatcherConfig = _part("Batching", BatcherConfig)
    decoder: DecoderConfig = _part("Encoded images", DecoderConfig)
    workers: int = setting(
        1,
        "Worker processes that share the port, each with its own engine and batcher. auto: one per processor, or one "
        "with CUDA.",
        limits=(1, 1024),
        section="Processes and shutdown",
    )
    watchdog_s: float = setting(
        60.0,
        "Longest time for one batch, in seconds. A process that exceeds it exits; with several workers, another one "
        "replaces it.",
        limits=(1, None),
    )
    drain_pause_s: float = setting(
        0.0,
        "On SIGTERM or SIGINT, how long to accept calls while health says NOT_SERVING, in seconds, so that load "
        "balancers notice first.",
        limits=(0, 3600),
    )
    grace_s: float = setting(10.0, "How long calls in flight may take after that, in seconds.", limits=(0, 3600))
    security: SecurityConfig = _part("Security", SecurityConfig)
    connections: ConnectionConfig = _part("Connections", ConnectionConfig)
    traces_endpoint: str = setting(
        "",
        "OpenTelemetry collector, such as http://host:4318, that receives a span for every call. Needs the extra otel.",
        section="Traces and access log",
        unset="none",
    )
    access_log_share: float = setting(
        0.0, "Share of the calls to log with method, code, duration, peer and model, from 0 to 1.", limits=(0, 1)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.host:
            raise InvalidConfig("host must not be empty; 0.0.0.0 listens on all addresses", fields=("host",))
        if self.socket_path is not None:
            self._check_socket(self.socket_path)
        elif self.http_port and self.http_port == self.port:
            message = f"http_port and port must differ, not both be {self.port}"
            raise InvalidConfig(message, fields=("http_port", "port"))
        if self.security.cors_origins and self.http_port is None:
            raise InvalidConfig("cors_origins needs http_port", fields=("cors_origins", "http_port"))
        if self.model_version is not None and len(self.models) > 1:
            raise InvalidConfig("model_version: of which model? Name one", fields=("model_version",))
        if self.traces_endpoint and not self.traces_endpoint.startswith(("http://", "https://")):
            message = f"traces_endpoint must be like http://host:4318, not {self.traces_endpoint!r}"
            raise InvalidConfig(message, fields=("traces_endpoint",))

        if self.front == "native" and self.needs_grpcio:
            message = f"front: native can't do {', '.join(self.needs_grpcio)}; use grpcio"
            raise InvalidConfig(message, fields=("front", *self.needs_grpcio))

    @property
    def needs_grpcio(self) -> tuple[str, ...]:
        """Names of the settings that are in use and that only grpcio can do."""
        asked = {
            "tls_certificate": self.security.tls_certificate is not None,
            "max_connections": bool(self.connections.max_connections),
            "max_connection_age_s": bool(self.connections.max_connection_age_s),
            "handshake_timeout_s": self.connections.handshake_timeout_s != ConnectionConfig().handshake_timeout_s,
            "traces_endpoint": bool(self.traces_endpoint),
        }
        return tuple(name for name, is_used in asked.items() if is_used)

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket that gRPC listens on; None if it listens on a port."""
        path = self.host.removeprefix("unix:")
        # gRPC takes unix:///path as well
        return None if path == self.host else Path(path.removeprefix("//"))

    @property
    def tcp_host(self) -> str:
        """Address for the ports of HTTP and of the metrics."""
        return "127.0.0.1" if self.socket_path is not None else self.host

    def _check_socket(self, path: Path) -> None:
        length = len(os.fsencode(path))
        if not path.name or length > _LONGEST_SOCKET_PATH:
            message = f"host: unix: needs a path of 1 to {_LONGEST_SOCKET_PATH} bytes, not {length}"
            raise InvalidConfig(message, fields=("host",))
        if self.workers > 1:
            message = "host: workers can't share a Unix socket; use one worker, or an address with a port"
            raise InvalidConfig(message, fields=("host",))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, reached without a network.

    Args:
        host: A name or an address, without a port, or a Unix socket.
    """
    if host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
