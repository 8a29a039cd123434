"""An outcome: what one round of one rung gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from serving.errors import DigitsError


class BenchFailed(DigitsError):
    """Nothing can be measured: a server that does not start or can't be reached, a process that ended."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What one round of one rung gave.

    Attributes:
        latencies_s: float64 `[answers]`, in seconds, of the requests that were answered; from the moment at which each
            should have been sent.
        began_s: When the load began, on the machine's monotonic clock, in seconds.
        ended_s: When the last request had ended.
        errors: Requests that were not answered, by gRPC's status code; NOT_SENT for those of a fixed rate that callers
            were too late for.
        wrong: Answers with other labels than expected.
        cpu_s: User and system time of what was measured, in seconds; None where it can't be read.
        load_cpu_s: The same of the busiest process that made the load, in seconds.
    """

    latencies_s: npt.NDArray[np.float64]
    began_s: float
    ended_s: float
    errors: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    cpu_s: float | None = None
    load_cpu_s: float = 0.0

    def with_cpu(self, cpu_s: float | None) -> Outcome:
        """The same with the time that the server took, in seconds."""
        return replace(self, cpu_s=cpu_s)


def merge(parts: Sequence[Outcome]) -> Outcome:
    """What several generators saw at the same time, as one."""
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part.errors)
    return Outcome(
        latencies_s=np.concatenate([part.latencies_s for part in parts]),
        began_s=min(part.began_s for part in parts),
        ended_s=max(part.ended_s for part in parts),
        errors=dict(errors),
        wrong=sum(part.wrong for part in parts),
        load_cpu_s=max(part.load_cpu_s for part in parts),
    )
