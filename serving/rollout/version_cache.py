"""The version cache: the versions that were read from the repository, and why others were refused."""

from __future__ import annotations

from collections.abc import Callable, Collection

from serving.errors import ModelRejected
from serving.repository.repository import FileStats, Repository, StoredModel
from serving.rollout.rollout import Refusal

_Key = tuple[str, int]

# The longest reason that is kept: it may quote from a file, and clients get it with the model's metadata.
_MAX_REASON_CHARS = 500


class VersionCache:
    """Keeps versions as they were read. A refused version is read again only when its files change.

    Args:
        repository: The repository of the versions.
        check: Raises `ModelRejected` for a version whose files are right but which can't be served.
    """

    def __init__(self, repository: Repository, *, check: Callable[[StoredModel], None]) -> None:
        self._repository = repository
        self._check = check
        self._stored: dict[_Key, tuple[FileStats, StoredModel]] = {}
        self._refused: dict[_Key, tuple[FileStats, Refusal]] = {}
        self._changed: dict[_Key, tuple[FileStats, Refusal | None]] = {}

    def __getitem__(self, key: _Key) -> StoredModel:
        return self._stored[key][1]

    def try_load(self, name: str, version: int) -> Refusal | None:
        """Reads a version unless it is in the cache; returns why it can't be served, or None if it can."""
        key = name, version
        stats = self._repository.file_stats(name, version)
        if key in self._stored:
            self._note_change(key, stats)
            return None
        if key in self._refused and self._refused[key][0] == stats:
            return self._refused[key][1]
        try:
            stored = self._repository.load(name, version)
            self._check(stored)
        except ModelRejected as error:
            self._refused[key] = stats, self.make_refusal(name, version, error)
            return self._refused[key][1]
        self._refused.pop(key, None)
        self._stored[key] = stats, stored
        return None

    def refuse(self, refusal: Refusal) -> None:
        """Records that a version of the cache could not be loaded by an engine."""
        key = refusal.name, refusal.version
        stats, _ = self._stored.pop(key)
        self._refused[key] = stats, refusal

    def keep_only(self, models: Collection[StoredModel]) -> None:
        """Forgets all other versions that were read."""
        kept = {(stored.name, stored.version) for stored in models}
        self._stored = {key: stored for key, stored in self._stored.items() if key in kept}
        self._changed = {key: change for key, change in self._changed.items() if key in kept}

    def forget_removed(self, name: str, existing: Collection[int]) -> None:
        """Forgets the refusals of a model's versions that no longer exist."""
        self._refused = {key: why for key, why in self._refused.items() if key[0] != name or key[1] in existing}

    def refusals(self) -> list[Refusal]:
        """Returns everything that can't be served as it is in the repository."""
        found = {**self._refused, **self._changed}
        return [refusal for _, (_, refusal) in sorted(found.items()) if refusal is not None]

    def make_refusal(self, name: str, version: int, error: ModelRejected) -> Refusal:
        """Makes a refusal that clients may read: it is short and does not contain the repository's path."""
        reason = error.message.replace(f"{self._repository.root}/", "")
        if len(reason) > _MAX_REASON_CHARS:
            reason = f"{reason[:_MAX_REASON_CHARS]}…"
        return Refusal(name=name, version=version, reason=reason, detail=error.detail)

    def _note_change(self, key: _Key, stats: FileStats) -> None:
        """Records a refusal if a version's files were changed. The version stays as it was read."""
        read, stored = self._stored[key]
        if stats == self._changed.get(key, (read, None))[0]:
            return
        try:
            changed = self._repository.load(*key).manifest.sha256 != stored.manifest.sha256
            reason = "its files were replaced; publish changes as a new version"
        except ModelRejected as error:
            changed, reason = True, self.make_refusal(*key, error).reason
        refusal = Refusal(name=key[0], version=key[1], reason=f"{reason}. What was read before is still served")
        self._changed[key] = stats, refusal if changed else None
