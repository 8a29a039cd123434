"""The editor of a repository: moves labels, publishes labelled versions and removes versions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from serving.errors import ChangeRefused, DigitsError, ModelRejected, RepositoryError
from serving.repository.labels import CANARY, CANARY_SHARE, Canary, LabelChange, Labels
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository

# From the current labels, and the versions that can be served, to the new labels.
_Change = Callable[[Labels, Collection[int]], Labels]


class RepositoryEditor:
    """Changes a repository while servers read it. Editors in several processes wait for each other.

    Only a version that can be served gets a label: it exists, its digest is right and its parity is proven.

    Args:
        repository: The repository to change.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def set_stable(self, name: str, version: int | None) -> LabelChange:
        """Makes a version stable, so that it answers calls which name none. With None, `stable` follows the newest one.

        Raises:
            ModelNotFound: There is no such model or version.
            ModelRejected: The version can't be served, or the labels are damaged.
            ChangeRefused: The version is the canary.
            RepositoryError: The directory can't be written.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            if version is not None:
                self._require(name, version)
            return _stable_at(name, before, version, was=before.current(servable))

        return self._apply(name, change)

    def set_canary(self, name: str, version: int, share: float = CANARY_SHARE) -> LabelChange:
        """Makes a version the canary, in place of another one if there is one.

        If `stable` followed the newest version, this pins it to the current one. Otherwise a version published later
        would become current by itself.

        Raises:
            ChangeRefused: The version is stable, or no other version can be served.
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            self._require(name, version)
            if version == before.stable:
                raise ChangeRefused(f"{name}: version {version} is stable; choose another version as the canary")
            others = [other for other in servable if other != version]
            return replace(_pinned(name, before, others), canary=Canary(version=version, share=share))

        return self._apply(name, change)

    def end_canary(self, name: str) -> LabelChange:
        """Removes the canary label. Its version does not become current, unless no other version can be served.

        Raises:
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            if before.canary is None:
                return before
            return replace(before, stable=before.stable or before.current(servable), canary=None)

        return self._apply(name, change)

    def promote(self, name: str) -> LabelChange:
        """Makes the canary stable and removes the canary label.

        Raises:
            ChangeRefused: There is no canary.
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            if before.canary is None:
                raise ChangeRefused(f"{name}: there is no canary")
            version = before.canary.version
            self._require(name, version)
            return _stable_at(name, replace(before, canary=None), version, was=before.current(servable))

        return self._apply(name, change)

    def roll_back(self, name: str) -> LabelChange:
        """Undoes the last change of `stable`. This works once, because only one earlier version is recorded.

        Raises:
            ChangeRefused: No earlier version is recorded, or it is the canary.
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            if before.previous is None:
                raise ChangeRefused(f"{name}: no earlier stable version is recorded; set stable to a version instead")
            self._require(name, before.previous)
            return replace(_stable_at(name, before, before.previous, was=None), previous=None)

        return self._apply(name, change)

    def check_publish(self, name: str, label: str, share: float = CANARY_SHARE) -> None:
        """Checks, before there is anything to publish, that `publish` would accept the label.

        Raises:
            ChangeRefused: It would be a canary, but no other version can be served.
            ModelRejected: The labels are damaged, or the share is not between 0 and 1.
        """
        labels = self._repository.read_labels(name)
        if label == CANARY:
            _pinned(name, labels, self._servable(name))
            Canary(version=1, share=share)

    def publish(
        self,
        content: bytes,
        manifest: Manifest,
        *,
        label: str,
        share: float = CANARY_SHARE,
        precisions: Mapping[str, bytes] | None = None,
    ) -> tuple[int, LabelChange]:
        """Publishes the next version and labels it. A canary never gets more than its share of the calls.

        Args:
            content: The bytes of `model.onnx`.
            manifest: Its manifest, which names the model.
            label: `stable` or `canary`.
            share: The canary's share of the calls that name no version.
            precisions: See `Repository.publish`.

        Returns:
            The number of the new version, and the change of the labels.

        Raises:
            DigitsError: As for `check_publish`; nothing was published.
            RepositoryError: The directory can't be written; the message says if the version was published.
        """
        name = manifest.model_name
        self.check_publish(name, label, share)
        with self._repository.lock(name):
            before, servable = self._repository.read_labels(name), self._servable(name)
            # Pins `stable` first, or a server that reads in between would make the new version current.
            pinned = _pinned(name, before, servable) if label == CANARY else before
            self._write(name, before, pinned)
            version = self._repository.publish(content, manifest, precisions)
            try:
                if label == CANARY:
                    after = replace(pinned, canary=Canary(version=version, share=share))
                else:
                    after = _stable_at(name, before, version, was=before.current(servable))
                self._write(name, pinned, after)
            except DigitsError as error:
                raise RepositoryError(f"{name}: version {version} is published, but not {label}: {error}") from error
            return version, self._label_change(name, before, after)

    def remove(self, name: str, versions: Collection[int], *, force: bool = False) -> LabelChange:
        """Removes all of these versions, or none if one of them can't be removed.

        Args:
            name: Name of the model.
            versions: The versions to remove, at least one.
            force: Also removes versions that are stable, current or the canary. Their labels are removed first, and
                `stable` then follows the newest version that is left.

        Raises:
            ChangeRefused: One of them is stable, current or the canary.
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            for version in sorted(versions):
                self._repository.choose(name, version)
                use = _use(before, version, servable)
                if use and not force:
                    raise ChangeRefused(f"{name}: version {version} is {use}; use --force to remove it anyway")
            return Labels(
                stable=None if before.stable in versions else before.stable,
                canary=None if before.canary and before.canary.version in versions else before.canary,
                previous=None if before.previous in versions else before.previous,
            )

        return self._apply(name, change, then=lambda: self._repository.remove(name, sorted(set(versions))))

    def _apply(self, name: str, change: _Change, *, then: Callable[[], None] = lambda: None) -> LabelChange:
        self._repository.choose(name)  # fails for an unknown model before anything is written
        with self._repository.lock(name):
            before = self._repository.read_labels(name)
            after = change(before, self._servable(name))
            self._write(name, before, after)
            then()
            return self._label_change(name, before, after)

    def _label_change(self, name: str, before: Labels, after: Labels) -> LabelChange:
        return LabelChange(name=name, before=before, after=after, current=after.current(self._servable(name)))

    def _write(self, name: str, before: Labels, after: Labels) -> None:
        if after != before:
            self._repository.write_labels(name, after)

    def _servable(self, name: str) -> list[int]:
        servable = []
        for version in self._repository.versions(name):
            with contextlib.suppress(ModelRejected):
                servable.append(self._repository.load(name, version).version)
        return servable

    def _require(self, name: str, version: int) -> None:
        self._repository.choose(name, version)
        try:
            self._repository.load(name, version)
        except ModelRejected as error:
            raise ModelRejected(f"{name}: version {version} can't be served: {error}") from error


def _stable_at(name: str, labels: Labels, version: int | None, *, was: int | None) -> Labels:
    """Returns the labels with a new `stable`. `was`, the current version so far, becomes `previous` if it differs."""
    if version == labels.stable:
        return labels
    if labels.canary and version == labels.canary.version:
        raise ChangeRefused(f"{name}: version {version} is the canary; promote it instead")
    previous = labels.previous if was in (None, version) else was
    return replace(labels, stable=version, previous=None if previous == version else previous)


def _pinned(name: str, labels: Labels, servable: Collection[int]) -> Labels:
    """Returns the labels with `stable` pinned to the current version."""
    if labels.stable is not None:
        return labels
    current = labels.current(servable)
    if current is None:
        raise ChangeRefused(f"{name}: there can be no canary, because no other version can be served")
    return replace(labels, stable=current, previous=None if labels.previous == current else labels.previous)


def _use(labels: Labels, version: int, servable: Collection[int]) -> str | None:
    """Returns why servers use a version, or None if they do not."""
    if version == labels.stable:
        return "stable"
    if labels.canary and version == labels.canary.version:
        return "the canary"
    if version == labels.current(servable):
        return "current, as the newest that can be served"
    return None
