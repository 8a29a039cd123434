"""The keeper of a repository: moves labels, publishes under them and removes versions, one change at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import replace

from serving.errors import ChangeRefused, DigitsError, ModelRejected, RepositoryError
from serving.repository.labels import CANARY, CANARY_SHARE, Canary, LabelChange, Labels
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository

# From the labels and the versions that may be served to the labels that are to be.
_Change = Callable[[Labels, Collection[int]], Labels]


class RepositoryEditor:
    """Changes a repository while servers read it. Keepers in several processes wait for each other.

    A label goes only to a version that is there and may be served: its digest holds and its parity is proven.

    Args:
        repository: What is kept.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def set_stable(self, name: str, version: int | None) -> LabelChange:
        """Makes a version the one that answers calls which name none; None for the newest, now and later.

        Raises:
            ModelNotFound: There is no such model or version.
            ModelRejected: The version may not be served, or the labels are damaged.
            ChangeRefused: The version is the canary.
            RepositoryError: The directory can't be written.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            if version is not None:
                self._require(name, version)
            return _stable_at(name, before, version, was=before.current(servable))

        return self._move(name, change)

    def set_canary(self, name: str, version: int, share: float = CANARY_SHARE) -> LabelChange:
        """Puts a version on trial, in the place of the one that may be on trial now.

        Where `stable` is the newest version, it is pinned to the newest that was on no trial: what is published later
        must not become current by itself.

        Raises:
            ChangeRefused: The version is stable, or no other one may be served.
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            self._require(name, version)
            if version == before.stable:
                raise ChangeRefused(f"{name}: version {version} is stable; only another one can be the canary")
            others = [other for other in servable if other != version]
            return replace(_pinned(name, before, others), canary=Canary(version=version, share=share))

        return self._move(name, change)

    def end_canary(self, name: str) -> LabelChange:
        """Ends the trial; what was on trial does not become current by it, unless no other version may be served.

        Raises:
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            if before.canary is None:
                return before
            return replace(before, stable=before.stable or before.current(servable), canary=None)

        return self._move(name, change)

    def promote(self, name: str) -> LabelChange:
        """Ends the trial by making the canary stable.

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

        return self._move(name, change)

    def roll_back(self, name: str) -> LabelChange:
        """Makes the version stable that was before `stable` was last moved; once, for none is known before that.

        Raises:
            ChangeRefused: None is recorded, or it is the canary.
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            if before.previous is None:
                raise ChangeRefused(f"{name}: no earlier stable version is recorded; make one stable by its number")
            self._require(name, before.previous)
            return replace(_stable_at(name, before, before.previous, was=None), previous=None)

        return self._move(name, change)

    def check_publishing(self, name: str, label: str, share: float = CANARY_SHARE) -> None:
        """Raises what `publish` would, before there is anything to publish.

        Raises:
            ChangeRefused: It would be a canary with nothing beside it.
            ModelRejected: The labels are damaged, or the share is none.
        """
        labels = self._repository.read_labels(name)
        if label == CANARY:
            _pinned(name, labels, self._servable(name))
            Canary(version=1, share=share)

    def publish(
        self, content: bytes, manifest: Manifest, *, label: str, share: float = CANARY_SHARE
    ) -> tuple[int, LabelChange]:
        """Publishes the next version and gives it a label. As a canary it never answers more calls than its share.

        Args:
            content: The bytes of `model.onnx`.
            manifest: Its manifest, with the name of the model.
            label: `stable` or `canary`.
            share: The canary's, of the calls that name no version.

        Returns:
            The version that it became, and what became of the labels.

        Raises:
            DigitsError: As for `check_publishing`, and nothing was published.
            RepositoryError: The directory can't be written; the message says so where the version was published.
        """
        name = manifest.model_name
        self.check_publishing(name, label, share)
        with self._repository.alone(name):
            before, servable = self._repository.read_labels(name), self._servable(name)
            # Pinned first: else a server that looks in between takes the newest version, the canary, for current.
            pinned = _pinned(name, before, servable) if label == CANARY else before
            self._write(name, before, pinned)
            version = self._repository.publish(content, manifest)
            try:
                if label == CANARY:
                    after = replace(pinned, canary=Canary(version=version, share=share))
                else:
                    after = _stable_at(name, before, version, was=before.current(servable))
                self._write(name, pinned, after)
            except DigitsError as error:
                raise RepositoryError(f"{name}: version {version} is published, but not {label}: {error}") from error
            return version, self._told(name, before, after)

    def remove(self, name: str, versions: Collection[int], *, force: bool = False) -> LabelChange:
        """Removes versions: all of them, or none where one may not be removed.

        Args:
            name: Name of the model.
            versions: Those to remove, at least one.
            force: Removes also what is stable, current or the canary. Labels of such versions go first: `stable` is
                then the newest that is left, and there is no canary.

        Raises:
            ChangeRefused: Servers that follow the labels answer with one of them.
            DigitsError: As for `set_stable`.
        """

        def change(before: Labels, servable: Collection[int]) -> Labels:
            for version in sorted(versions):
                self._repository.choose(name, version)
                use = _use(before, version, servable)
                if use and not force:
                    raise ChangeRefused(f"{name}: version {version} is {use}; nothing is removed without --force")
            return Labels(
                stable=None if before.stable in versions else before.stable,
                canary=None if before.canary and before.canary.version in versions else before.canary,
                previous=None if before.previous in versions else before.previous,
            )

        return self._move(name, change, afterwards=lambda: self._repository.remove(name, sorted(set(versions))))

    def _move(self, name: str, change: _Change, *, afterwards: Callable[[], None] = lambda: None) -> LabelChange:
        self._repository.choose(name)  # an absent model is refused before anything is written
        with self._repository.alone(name):
            before = self._repository.read_labels(name)
            after = change(before, self._servable(name))
            self._write(name, before, after)
            afterwards()
            return self._told(name, before, after)

    def _told(self, name: str, before: Labels, after: Labels) -> LabelChange:
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
            raise ModelRejected(f"{name}: version {version} may not be served: {error}") from error


def _stable_at(name: str, labels: Labels, version: int | None, *, was: int | None) -> Labels:
    """Labels with `stable` moved, and where it was before, if that is another version, for going back."""
    if version == labels.stable:
        return labels
    if labels.canary and version == labels.canary.version:
        raise ChangeRefused(f"{name}: version {version} is the canary; promote it instead")
    previous = labels.previous if was in (None, version) else was
    return replace(labels, stable=version, previous=None if previous == version else previous)


def _pinned(name: str, labels: Labels, servable: Collection[int]) -> Labels:
    """Labels whose `stable` is a certain version: the one that is current."""
    if labels.stable is not None:
        return labels
    current = labels.current(servable)
    if current is None:
        raise ChangeRefused(f"{name}: there can be no canary, since no other version may be served beside it")
    return replace(labels, stable=current, previous=None if labels.previous == current else labels.previous)


def _use(labels: Labels, version: int, servable: Collection[int]) -> str | None:
    """What servers use a version for."""
    if version == labels.stable:
        return "stable"
    if labels.canary and version == labels.canary.version:
        return "the canary"
    if version == labels.current(servable):
        return "current, as the newest that may be served"
    return None
