"""A rung of the ladder: one thing to measure under one load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.errors import InvalidConfig

KINDS = ("engine", "batcher", "echo", "wire")
MODES = ("unary", "stream")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One thing to measure under one load.

    Attributes:
        kind: `engine` and `batcher` run in a process without network, `echo` and `wire` are servers over gRPC.
        batch_rows: Images of one request.
        mode: `unary` or `stream`; empty without network.
        callers: Requests in flight at most.
        rate_per_s: Requests that are due each second; None where each caller sends when its last answer is there.
    """

    kind: str
    batch_rows: int
    mode: str = ""
    callers: int = 1
    rate_per_s: float | None = None

    @property
    def name(self) -> str:
        """For people."""
        load = "" if self.kind == "engine" else f"{self.callers} callers, "
        rate = "" if self.rate_per_s is None else f", {self.rate_per_s:g} requests/s"
        return f"{self.kind} {self.mode}{' ' if self.mode else ''}{load}{self.batch_rows} rows{rate}"


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """Which rungs there are, and how long each is measured.

    Attributes:
        kinds: What is measured; some of `KINDS`.
        modes: How requests travel; some of `MODES`.
        callers: Numbers of requests in flight.
        batch_rows: Numbers of images of a request.
        rates_per_s: Requests that are due each second; empty for a closed loop.
        seconds: Of one rung in one round.
        rounds: How often each rung is measured; medians are reported.
    """

    kinds: tuple[str, ...] = KINDS
    modes: tuple[str, ...] = MODES
    callers: tuple[int, ...] = (1, 16, 64)
    batch_rows: tuple[int, ...] = (1, 64, 256, 1024)
    rates_per_s: tuple[float, ...] = ()
    seconds: float = 2.0
    rounds: int = 3

    def __post_init__(self) -> None:
        for name, known in (("kinds", KINDS), ("modes", MODES)):
            for value in getattr(self, name):
                if value not in known:
                    raise InvalidConfig(f"{name} must be of {', '.join(known)}, not {value!r}")
        for name in ("kinds", "modes", "callers", "batch_rows"):
            if not getattr(self, name):
                raise InvalidConfig(f"{name} must not be empty")
        for name, most in (("callers", 10_000), ("batch_rows", 1_000_000), ("rates_per_s", 1_000_000)):
            for value in getattr(self, name):
                if not 0 < value <= most:
                    raise InvalidConfig(f"{name} must lie between 1 and {most:,}, not {value:g}")
        if not 0 < self.seconds <= 3600:
            raise InvalidConfig(f"seconds must be above 0 and at most 3600, not {self.seconds:g}")
        if not 1 <= self.rounds <= 1000:
            raise InvalidConfig(f"rounds must lie between 1 and 1000, not {self.rounds}")

    def rungs(self) -> list[Rung]:
        """All rungs; those to be compared with each other are neighbours, so that noise hits them alike."""
        return list(dict.fromkeys(self._rungs()))

    def _rungs(self) -> Iterator[Rung]:
        for rows in self.batch_rows:
            if "engine" in self.kinds:
                yield Rung(kind="engine", batch_rows=rows)
            for callers in self.callers:
                for rate in self.rates_per_s or (None,):
                    if "batcher" in self.kinds:
                        yield Rung(kind="batcher", batch_rows=rows, callers=callers, rate_per_s=rate)
                    for mode in self.modes:
                        for kind in ("echo", "wire"):
                            if kind in self.kinds:
                                yield Rung(kind=kind, batch_rows=rows, mode=mode, callers=callers, rate_per_s=rate)
