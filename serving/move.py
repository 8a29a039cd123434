"""A move of labels: what they were, what they are, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass

from serving.labels import Labels


@dataclass(frozen=True, kw_only=True)
class Move:
    """What became of a model's labels.

    Attributes:
        name: Name of the model.
        before: Its labels until then.
        after: Its labels from then on.
        current: The version that answers calls which name none from then on, the canary's share aside; None where none
            may be served.
    """

    name: str
    before: Labels
    after: Labels
    current: int | None

    def __str__(self) -> str:
        unchanged = "unchanged: " if self.after == self.before else ""
        told = f"{self.name}: {unchanged}{self.after.describe(self.current)}"
        if self.pinned:
            told += (
                "\nstable meant the newest version until now; what is published from now on does not become current "
                "by itself"
            )
        return told

    @property
    def pinned(self) -> bool:
        """Whether `stable` meant the newest version, and means a certain one because a trial began or ended."""
        promoted = self.before.canary is not None and self.before.canary.version == self.after.stable
        followed = self.before.stable is None and self.after.stable is not None
        return followed and self.before.canary != self.after.canary and not promoted
