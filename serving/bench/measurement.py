"""A measurement: what one round of one scenario gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serving.errors import DigitsError


class BenchFailed(DigitsError):
    """Nothing can be measured: a server does not start or can't be reached, or a process ended."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What one round of one scenario gave.

    Attributes:
        latencies_s: float64 `[answers]`, latency of each answered request in seconds, from the time it was due.
        began_s: When the load started, on the monotonic clock of the machine, in seconds.
        ended_s: When the last request ended.
        errors: Number of requests without an answer by gRPC status code; NOT_SENT counts requests of a fixed rate that
            no caller was free to send in time.
        wrong: Answers with unexpected labels.
        cpu_s: User and system time of the measured process, in seconds; None if unknown.
        memory_bytes: Resident memory of the measured process after the load; None if unknown.
        load_cpu_s: User and system time of the busiest load generator, in seconds.
    """

    latencies_s: npt.NDArray[np.float64]
    began_s: float
    ended_s: float
    errors: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    cpu_s: float | None = None
    memory_bytes: float | None = None
    load_cpu_s: float = 0.0

    @property
    def answers(self) -> int:
        """Number of answered requests."""
        return len(self.latencies_s)

    @property
    def duration_s(self) -> float:
        """Length of the load, in seconds."""
        return self.ended_s - self.began_s


def merge(parts: Sequence[Measurement]) -> Measurement:
    """Combines what several load generators measured at the same time."""
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part.errors)
    return Measurement(
        latencies_s=np.concatenate([part.latencies_s for part in parts]),
        began_s=min(part.began_s for part in parts),
        ended_s=max(part.ended_s for part in parts),
        errors=dict(errors),
        wrong=sum(part.wrong for part in parts),
        load_cpu_s=max(part.load_cpu_s for part in parts),
    )
