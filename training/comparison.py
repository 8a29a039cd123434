"""Runs side by side: those that differ in nothing but the seed together, with mean and spread."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from training.record import RunRecord

_SAME = ("architecture", "recipe", "normalisation", "data", "stopped")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Some figures of one kind.

    Attributes:
        mean: Their mean.
        minimum: The lowest.
        deviation: Their sample standard deviation; None for a single one.
    """

    mean: float
    minimum: float
    deviation: float | None

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of at least one figure."""
        deviation = statistics.stdev(figures) if len(figures) > 1 else None
        return cls(mean=statistics.fmean(figures), minimum=min(figures), deviation=deviation)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one network by one recipe on the same data, over several seeds.

    Attributes:
        runs: The records, one or more.
    """

    runs: tuple[RunRecord, ...]

    @property
    def title(self) -> str:
        """Network, recipe and normalisation."""
        metrics = self.runs[0].metrics
        return f"{metrics['architecture']}, {metrics['recipe']['name']}, {metrics['normalisation']}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the runs."""
        return tuple(run.metrics["seed"] for run in self.runs)

    @property
    def test(self) -> Spread:
        """Accuracy on the test part."""
        return Spread.of([run.metrics["test"]["accuracy"] for run in self.runs])

    @property
    def validation(self) -> Spread:
        """Accuracy on the validation part."""
        return Spread.of([run.metrics["validation"]["accuracy"] for run in self.runs])

    @property
    def seconds(self) -> Spread:
        """Time of training."""
        return Spread.of([run.metrics["seconds"] for run in self.runs])


def group(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    """Puts those together that differ in nothing but the seed, in the order in which they first appear."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.metrics[key] for key in _SAME], sort_keys=True), []).append(run)
    return tuple(Group(runs=tuple(members)) for members in groups.values())


def same_test(runs: Sequence[RunRecord]) -> bool:
    """Whether all were tested on the same images, so that their accuracies may be compared."""
    return len({run.metrics["data"]["sha256"] for run in runs}) == 1
