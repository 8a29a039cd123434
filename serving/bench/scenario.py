"""Scenarios: which layer to measure, under which load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.config import FRONTS
from serving.errors import InvalidConfig

LAYERS = ("engine", "batcher", "echo", "wire")
MODES = ("unary", "stream")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One layer under one load.

    Attributes:
        layer: `engine` or `batcher`, in a process without network, or `echo` or `wire`, servers reached over gRPC.
        batch_rows: Images per request.
        front: The front end of the server, of `FRONTS`, where several are compared; else empty.
        mode: `unary` or `stream`; empty without network.
        callers: Maximum number of requests in flight.
        rate_per_s: Requests due per second; None if each caller sends as soon as it has its last answer.
    """

    layer: str
    batch_rows: int
    front: str = ""
    mode: str = ""
    callers: int = 1
    rate_per_s: float | None = None

    @property
    def target(self) -> str:
        """What is measured: the layer, with its front end where several are compared."""
        return f"{self.layer} {self.front}".strip()

    @property
    def name(self) -> str:
        """A name for people."""
        load = "" if self.layer == "engine" else f"{self.callers} callers, "
        rate = "" if self.rate_per_s is None else f", {self.rate_per_s:g} requests/s"
        return f"{self.target} {self.mode}{' ' if self.mode else ''}{load}{self.batch_rows} rows{rate}"


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Which scenarios to measure, and for how long.

    Attributes:
        layers: The layers, of `LAYERS`.
        fronts: Front ends of the server to compare, of `FRONTS`; empty for one server as it is.
        modes: The modes, of `MODES`.
        callers: Numbers of requests in flight.
        batch_rows: Numbers of images per request.
        rates_per_s: Requests due per second; empty for a closed loop.
        seconds: Length of one round of one scenario.
        rounds: Rounds of each scenario; medians are reported.
    """

    layers: tuple[str, ...] = LAYERS
    fronts: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    callers: tuple[int, ...] = (1, 16, 64)
    batch_rows: tuple[int, ...] = (1, 64, 256, 1024)
    rates_per_s: tuple[float, ...] = ()
    seconds: float = 2.0
    rounds: int = 3

    def __post_init__(self) -> None:
        for name, known in (("layers", LAYERS), ("fronts", FRONTS), ("modes", MODES)):
            for value in getattr(self, name):
                if value not in known:
                    raise InvalidConfig(
                        f"{name} must be one or more of {', '.join(known)}, not {value!r}", fields=(name,)
                    )
        for name in ("layers", "modes", "callers", "batch_rows"):
            if not getattr(self, name):
                raise InvalidConfig(f"{name} must not be empty", fields=(name,))
        if self.fronts and "wire" not in self.layers:
            raise InvalidConfig("fronts needs the layer wire, which is not measured", fields=("fronts",))
        for name, most in (("callers", 10_000), ("batch_rows", 1_000_000), ("rates_per_s", 1_000_000)):
            for value in getattr(self, name):
                if not 0 < value <= most:
                    raise InvalidConfig(f"{name} must be above 0 and at most {most:,}, not {value:g}", fields=(name,))
        if not 0 < self.seconds <= 3600:
            raise InvalidConfig(f"seconds must be above 0 and at most 3600, not {self.seconds:g}")
        if not 1 <= self.rounds <= 1000:
            raise InvalidConfig(f"rounds must be between 1 and 1000, not {self.rounds}")

    def scenarios(self) -> list[Scenario]:
        """Returns all scenarios. Those to compare are neighbours, so that a disturbance affects them alike."""
        return list(dict.fromkeys(self._scenarios()))

    def _scenarios(self) -> Iterator[Scenario]:
        for rows in self.batch_rows:
            if "engine" in self.layers:
                yield Scenario(layer="engine", batch_rows=rows)
            for callers in self.callers:
                for rate in self.rates_per_s or (None,):
                    if "batcher" in self.layers:
                        yield Scenario(layer="batcher", batch_rows=rows, callers=callers, rate_per_s=rate)
                    for mode in self.modes:
                        for layer, fronts in (("echo", ()), ("wire", self.fronts)):
                            for front in (fronts or ("",)) if layer in self.layers else ():
                                yield Scenario(
                                    layer=layer,
                                    batch_rows=rows,
                                    front=front,
                                    mode=mode,
                                    callers=callers,
                                    rate_per_s=rate,
                                )
