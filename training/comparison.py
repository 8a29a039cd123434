"""Comparing runs: those that differ only in their seed form a group with mean and spread."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from training.run_record import RunRecord

_SAME = ("architecture", "recipe", "normalisation", "data", "stopped")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and spread of some values.

    Attributes:
        mean: Their mean.
        minimum: The lowest.
        deviation: Their sample standard deviation; None for a single value.
    """

    mean: float
    minimum: float
    deviation: float | None

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Computes it for at least one value."""
        deviation = statistics.stdev(figures) if len(figures) > 1 else None
        return cls(mean=statistics.fmean(figures), minimum=min(figures), deviation=deviation)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        runs: The records, one or more.
    """

    runs: tuple[RunRecord, ...]

    @property
    def title(self) -> str:
        """Names of network, recipe and normalisation."""
        metrics = self.runs[0].metrics
        return f"{metrics['architecture']}, {metrics['recipe']['name']}, {metrics['normalisation']}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the runs."""
        return tuple(run.metrics["seed"] for run in self.runs)

    @property
    def test(self) -> Spread:
        """Accuracy on the test set."""
        return Spread.of([run.metrics["test"]["accuracy"] for run in self.runs])

    @property
    def validation(self) -> Spread:
        """Accuracy on the validation set."""
        return Spread.of([run.metrics["validation"]["accuracy"] for run in self.runs])

    @property
    def seconds(self) -> Spread:
        """Duration of training."""
        return Spread.of([run.metrics["seconds"] for run in self.runs])


def group(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    """Groups runs that differ only in their seed, in the order in which they first appear."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.metrics[key] for key in _SAME], sort_keys=True), []).append(run)
    return tuple(Group(runs=tuple(members)) for members in groups.values())


def same_test(runs: Sequence[RunRecord]) -> bool:
    """Tells whether all runs used the same data, so that their accuracies can be compared."""
    return len({run.metrics["data"]["sha256"] for run in runs}) == 1
