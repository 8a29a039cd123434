"""The protocol between the supervisor and each of its workers, over a socket pair. Both ends use this module.

The supervisor sends commands: `Start` once, then `Prepare`, `Listen`, `Release`, `Count` and `Reply`. The worker sends
reports: `Heartbeat` every second, `Prepared`, `Ready`, `Counted` and `Request` as they occur, `Failed` before it exits.
When the supervisor's end closes, the worker stops.

Commands are pickled, since a rollout contains model files. Reports are lines of JSON: workers handle untrusted input,
so the supervisor unpickles nothing that they send.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serving.config import ServerConfig
from serving.inference.statistics import DURATIONS, Counts, DurationStatistic
from serving.rollout.rollout import Refusal, Rollout
from serving.server.telemetry.logs import LogConfig

HEARTBEAT_S = 1.0
# The longest report has counts for a thousand batch sizes per model version.
MAX_REPORT_BYTES = 1 << 20

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Command: configure yourself, then wait for the other commands."""

    config: ServerConfig
    logs: LogConfig


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Command: load the new versions of a rollout, then report `Prepared`."""

    rollout: Rollout


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Command: bind the port, serve what was prepared, then report `Ready`."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Command: unload every version that the rollout with this number does not contain."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """Command: report `Counted`."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Command: finish a `Request` with its result, or with an error that the client may see."""

    request: int
    result: Any
    error: Exception | None


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Report: the event loop still runs."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Report: the rollout is loaded, except for the refused versions."""

    refusals: list[Refusal]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Report: the worker serves, with models on these execution providers."""

    providers: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Report: what this worker has counted, as model name, version and counts."""

    counts: Sequence[tuple[str, int, Counts]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Report: a client wants something from all workers: `load` or `unload` a model by name, or `count`."""

    number: int
    action: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Report: the worker exits for this reason."""

    reason: str


Command = Start | Prepare | Listen | Release | Count | Reply
Report = Heartbeat | Prepared | Ready | Counted | Request | Failed


def encode_command(command: Command) -> bytes:
    """Encodes a command for a worker: its length, then its pickle."""
    content = pickle.dumps(command)
    return _LENGTH.pack(len(content)) + content


async def receive_command(reader: asyncio.StreamReader) -> Any:
    """Receives the next `Command`.

    Raises:
        asyncio.IncompleteReadError: The supervisor has ended.
        ConnectionError: The supervisor has ended.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))  # noqa: S301 - only the supervisor has the other end


def encode_report(report: Report) -> bytes:
    """Encodes a report for the supervisor as a line of JSON: its type and its fields."""
    return json.dumps([type(report).__name__, asdict(report)]).encode() + b"\n"


def decode_report(line: bytes) -> Report:
    """Decodes what `encode_report` returned."""
    name, fields = json.loads(line)
    if name == "Prepared":
        return Prepared(refusals=[Refusal(**refusal) for refusal in fields["refusals"]])
    if name == "Counted":
        return Counted(counts=[(model, version, _decode_counts(each)) for model, version, each in fields["counts"]])
    simple: dict[str, type[Report]] = {each.__name__: each for each in (Heartbeat, Ready, Request, Failed)}
    return simple[name](**fields)


def _decode_counts(fields: dict[str, Any]) -> Counts:
    durations = {name: DurationStatistic(**fields[name]) for name in DURATIONS}
    batches = {int(rows): DurationStatistic(**tally) for rows, tally in fields["batches"].items()}
    return Counts(**{**fields, **durations, "batches": batches})
