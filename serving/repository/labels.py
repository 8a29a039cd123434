"""Labels: which version of a model answers for it, and which one gets a share of its calls on trial.

They lie beside a model's versions as `labels.json`. Moving a label is one atomic replacement of that file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from serving.errors import ModelRejected

FORMAT = 1
LABELS_FILE = "labels.json"
STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
# A canary's share of the calls where none is named.
CANARY_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A version on trial.

    Attributes:
        version: The version, 1 or more.
        share: Of the calls that name no version, from 0 to 1. With 0 it answers only those that ask for it.
    """

    version: int
    share: float = CANARY_SHARE

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ModelRejected(f"canary: version must be at least 1, not {self.version}")
        if not 0 <= self.share <= 1:
            raise ModelRejected(f"canary: share must lie between 0 and 1, not {self.share}")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of one model.

    Attributes:
        stable: The version that answers calls which name none; None for the newest that may be served and is not the
            canary.
        canary: The version on trial, if there is one.
        previous: The version that answered such calls before `stable` was last moved, for going back; None where none
            is known. Nothing is served because of it.
    """

    stable: int | None = None
    canary: Canary | None = None
    previous: int | None = None

    def __post_init__(self) -> None:
        for label in (STABLE, PREVIOUS):
            version = getattr(self, label)
            if version is not None and version < 1:
                raise ModelRejected(f"{label}: must be at least 1, not {version}")
        if self.canary is not None and self.canary.version == self.stable:
            raise ModelRejected(f"stable and canary are the same version, {self.stable}")

    def current(self, servable: Collection[int]) -> int | None:
        """The version that answers calls which name none, the canary's share aside.

        Args:
            servable: The versions that may be served.

        Returns:
            One of them; None where `stable` is none of them, or none is left.
        """
        if self.stable is not None:
            return self.stable if self.stable in servable else None
        trial = self.canary.version if self.canary else None
        return max((version for version in servable if version != trial), default=None)

    def describe(self, current: int | None) -> str:
        """What they say, in a line for people.

        Args:
            current: The version that they make current.
        """
        stable = f"stable is version {self.stable}"
        if self.stable is None:
            newest = "none" if current is None else f"version {current}"
            stable = f"stable is the newest that may be served, now {newest}"
        if self.canary is None:
            return f"{stable}; no canary"
        share = f"{self.canary.share * 100:g} %"
        return f"{stable}; canary is version {self.canary.version} with {share} of the calls that name no version"

    def to_json(self) -> str:
        """The text of `labels.json`."""
        document: dict[str, Any] = {"format": FORMAT, STABLE: self.stable}
        if self.canary is not None:
            document[CANARY] = asdict(self.canary)
        if self.previous is not None:
            document[PREVIOUS] = self.previous
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Labels:
        """Reads `labels.json`.

        Raises:
            ModelRejected: It is no JSON, or a field is unknown or of the wrong type or value; the message names it.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelRejected("not JSON", detail=str(error)) from error
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ModelRejected("holds half of a surrogate pair, which is no text") from error
        fields = _fields(document, "labels", {"format", STABLE, CANARY, PREVIOUS})
        if fields.get("format") != FORMAT:
            raise ModelRejected(f"format must be {FORMAT}")
        stable, canary, previous = fields.get(STABLE), fields.get(CANARY), fields.get(PREVIOUS)
        if stable is not None and type(stable) is not int:
            raise ModelRejected("stable: must be the number of a version, or null for the newest")
        if previous is not None and type(previous) is not int:
            raise ModelRejected("previous: must be the number of a version")
        if canary is None:
            return cls(stable=stable, previous=previous)
        canary = _fields(canary, CANARY, {"version", "share"})
        version, share = canary.get("version"), canary.get("share", CANARY_SHARE)
        if type(version) is not int:
            raise ModelRejected("canary: version must be the number of a version")
        if type(share) is not int and not (type(share) is float and math.isfinite(share)):  # an int may be too large
            raise ModelRejected("canary: share must be a number from 0 to 1")
        return cls(stable=stable, canary=Canary(version=version, share=share), previous=previous)


@dataclass(frozen=True, kw_only=True)
class LabelChange:
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


def _fields(document: Any, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ModelRejected(f"{where}: must be an object")
    for name in document.keys() - known:
        raise ModelRejected(f"{where}: {name} is not known here")
    return document
