"""Labels: which version of a model answers its calls, and which one is the canary.

They are the file `labels.json` next to a model's versions. A label changes by one atomic replacement of that file.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from serving.errors import ModelRejected
from serving.repository.json_document import OPTIONAL, parse_json

FORMAT = 1
LABELS_FILE = "labels.json"
STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
# The canary's share of the calls, unless another is given.
CANARY_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A version on trial.

    Attributes:
        version: The version, 1 or more.
        share: Its share of the calls that name no version, from 0 to 1. With 0 it answers only calls that ask for it.
    """

    version: int
    share: float = field(default=CANARY_SHARE, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ModelRejected(f"canary: version must be at least 1, not {self.version}")
        if not 0 <= self.share <= 1:
            raise ModelRejected(f"canary: share must be between 0 and 1, not {self.share}")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of one model.

    Attributes:
        stable: The version that answers calls which name none; None for the newest one that can be served and is not
            the canary.
        canary: The version on trial, if there is one.
        previous: The version that answered such calls before `stable` last changed, if it is known. Only a rollback
            uses it.
        format: Version of this file format.
    """

    stable: int | None = field(default=None, metadata=OPTIONAL)
    canary: Canary | None = field(default=None, metadata=OPTIONAL)
    previous: int | None = field(default=None, metadata=OPTIONAL)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ModelRejected(f"labels: format {self.format} is not supported, only {FORMAT}")
        for label in (STABLE, PREVIOUS):
            version = getattr(self, label)
            if version is not None and version < 1:
                raise ModelRejected(f"labels: {label} must be at least 1, not {version}")
        if self.canary is not None and self.canary.version == self.stable:
            raise ModelRejected(f"labels: stable and canary are the same version, {self.stable}")

    def current(self, servable: Collection[int]) -> int | None:
        """Returns the version that answers calls which name none, apart from the canary's share.

        Args:
            servable: The versions that can be served.

        Returns:
            One of them; None if `stable` is not one of them, or none is left.
        """
        if self.stable is not None:
            return self.stable if self.stable in servable else None
        canary = self.canary.version if self.canary else None
        return max((version for version in servable if version != canary), default=None)

    def describe(self, current: int | None) -> str:
        """Describes the labels in one line.

        Args:
            current: The version that is current with these labels.
        """
        stable = f"stable is version {self.stable}"
        if self.stable is None:
            newest = "none" if current is None else f"version {current}"
            stable = f"stable is the newest version that can be served, now {newest}"
        if self.canary is None:
            return f"{stable}; no canary"
        share = f"{self.canary.share * 100:g} %"
        return f"{stable}; canary is version {self.canary.version} with {share} of the calls that name no version"

    def to_json(self) -> str:
        """Returns the text of `labels.json`."""
        document = {"format": self.format, **asdict(self)}
        for label in (CANARY, PREVIOUS):
            if document[label] is None:
                del document[label]
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Labels:
        """Parses the text of `labels.json`.

        Raises:
            ModelRejected: The text is not JSON, or a field is unknown or wrong; the message names it.
        """
        return parse_json(cls, text, "labels")


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """A change of one model's labels.

    Attributes:
        name: Name of the model.
        before: Its labels before the change.
        after: Its labels after the change.
        current: The version that answers calls which name none after the change, apart from the canary's share; None
            if there is none that can be served.
    """

    name: str
    before: Labels
    after: Labels
    current: int | None

    def __str__(self) -> str:
        unchanged = "unchanged: " if self.after == self.before else ""
        text = f"{self.name}: {unchanged}{self.after.describe(self.current)}"
        if self.pinned:
            text += (
                "\nstable followed the newest version until now; from now on, a newly published version does not "
                "become current by itself"
            )
        return text

    @property
    def pinned(self) -> bool:
        """Whether `stable` followed the newest version, and a canary that began or ended pinned it to one version."""
        promoted = self.before.canary is not None and self.before.canary.version == self.after.stable
        followed = self.before.stable is None and self.after.stable is not None
        return followed and self.before.canary != self.after.canary and not promoted
