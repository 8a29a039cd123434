"""What a supervisor tells its workers, and how it goes over the socket between them."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from serving.inference.statistics import DURATIONS, Counts, DurationStatistic
from serving.rollout.rollout import Rollout

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Load what is new in a rollout; the worker says `prepared`."""

    rollout: Rollout


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Serve what was prepared; the worker says `ready`."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Let go what the rollout of this number does not have."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """Say what was counted; the worker says `counted`."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The end of what a worker asked for: what came of it, or an error that its client may see."""

    request: int
    result: Any
    error: Exception | None


def listed(counts: Mapping[tuple[str, int], Counts]) -> list[list[Any]]:
    """Counts as JSON can have them."""
    return [[name, version, asdict(counted)] for (name, version), counted in counts.items()]


def counts_of(listed: list[list[Any]]) -> dict[tuple[str, int], Counts]:
    """What `listed` was made of."""
    found = {}
    for name, version, document in listed:
        tallies = {key: DurationStatistic(**value) for key, value in document.items() if key in DURATIONS}
        batches = {int(rows): DurationStatistic(**tally) for rows, tally in document["batches"].items()}
        found[name, version] = Counts(**{**document, **tallies, "batches": batches})
    return found


def framed(message: object) -> bytes:
    """A message as it is sent."""
    content = pickle.dumps(message)
    return _LENGTH.pack(len(content)) + content


def receive_first(control: socket.socket) -> Any:
    """Receives the first message; blocks."""
    with control.makefile("rb", buffering=0) as received:
        (length,) = _LENGTH.unpack(_exactly(received, _LENGTH.size))
        # From our own supervisor, over a socket that nobody else holds.
        return pickle.loads(_exactly(received, length))  # noqa: S301


async def receive(reader: asyncio.StreamReader) -> Any:
    """Receives the next message.

    Raises:
        asyncio.IncompleteReadError: The supervisor is gone.
        ConnectionError: The same.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))  # noqa: S301


def _exactly(received: Any, count: int) -> bytes:
    content = b""
    while len(content) < count:
        more = received.read(count - len(content))
        if not more:
            raise EOFError("the supervisor is gone")
        content += more
    return content
