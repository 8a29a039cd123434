"""The shelf: what was read of a repository's versions, and why some of them are not served."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from serving.errors import ModelRejected
from serving.repository.repository import Marks, Repository, StoredModel
from serving.rollout.rollout import Refusal

_Key = tuple[str, int]

# Of a reason: it may quote what somebody wrote into a file, and clients get it in each description.
_LONGEST_REASON = 500


class VersionCache:
    """Keeps versions as they were read. One that was refused is read again when its files change, and not before.

    Args:
        repository: Where they lie.
        check: Raises `ModelRejected` for one that may not be served for other reasons than its files.
    """

    def __init__(self, repository: Repository, *, check: Callable[[StoredModel], None]) -> None:
        self._repository = repository
        self._check = check
        self._stored: dict[_Key, tuple[Marks, StoredModel]] = {}
        self._refused: dict[_Key, tuple[Marks, Refusal]] = {}
        self._changed: dict[_Key, tuple[Marks, Refusal | None]] = {}

    def __getitem__(self, key: _Key) -> StoredModel:
        return self._stored[key][1]

    def examine(self, name: str, version: int) -> Refusal | None:
        """Reads a version unless it was read as it is; returns why it may not be served, or None."""
        key = name, version
        marks = self._repository.marks(name, version)
        if key in self._stored:
            self._note_changes(key, marks)
            return None
        if key in self._refused and self._refused[key][0] == marks:
            return self._refused[key][1]
        try:
            stored = self._repository.load(name, version)
            self._check(stored)
        except ModelRejected as error:
            self._refused[key] = marks, self.refusal(name, version, error)
            return self._refused[key][1]
        self._refused.pop(key, None)
        self._stored[key] = marks, stored
        return None

    def refuse(self, refusal: Refusal) -> None:
        """A version turned out not to be one that can be served, when it was loaded."""
        key = refusal.name, refusal.version
        marks, _ = self._stored.pop(key)
        self._refused[key] = marks, refusal

    def keep_only(self, models: Collection[StoredModel]) -> None:
        """Forgets what was read of all others."""
        kept = {(stored.name, stored.version) for stored in models}
        self._stored = {key: stored for key, stored in self._stored.items() if key in kept}
        self._changed = {key: change for key, change in self._changed.items() if key in kept}

    def forget_all_but(self, name: str, versions: Sequence[int]) -> None:
        """Forgets why versions of a model were refused that are not there any more."""
        there = set(versions)
        self._refused = {key: why for key, why in self._refused.items() if key[0] != name or key[1] in there}

    def refusals(self) -> list[Refusal]:
        """Everything that is not served as it lies in the repository."""
        found = {**self._refused, **self._changed}
        return [refusal for _, (_, refusal) in sorted(found.items()) if refusal is not None]

    def refusal(self, name: str, version: int, error: ModelRejected) -> Refusal:
        """An error in words that clients may read: where the repository lies is not their business."""
        reason = error.message.replace(f"{self._repository.root}/", "")
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[:_LONGEST_REASON]}…"
        return Refusal(name=name, version=version, reason=reason, detail=error.detail)

    def _note_changes(self, key: _Key, marks: Marks) -> None:
        """Versions never change: one whose files do is served on as it was read, and that is told."""
        read, stored = self._stored[key]
        if marks == self._changed.get(key, (read, None))[0]:
            return
        try:
            changed = self._repository.load(*key).manifest.sha256 != stored.manifest.sha256
            reason = "its files were replaced; publish changes as a new version"
        except ModelRejected as error:
            changed, reason = True, self.refusal(*key, error).reason
        refusal = Refusal(name=key[0], version=key[1], reason=f"{reason}. What was read before is still served")
        self._changed[key] = marks, refusal if changed else None
