"""The inventory of a repository: every version, whether it may be served, and what the labels say about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.errors import ModelRejected
from serving.repository.labels import CANARY, PREVIOUS, STABLE, Labels
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository


@dataclass(frozen=True, kw_only=True)
class VersionListing:
    """One version.

    Attributes:
        version: Its number, 1 or more.
        manifest: What is recorded about it; None where that can't be read.
        size_bytes: Of `model.onnx`; None where it may not be served.
        problem: Why it may not be served; None where it may.
    """

    version: int
    manifest: Manifest | None
    size_bytes: int | None
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class ModelListing:
    """One model.

    Attributes:
        name: Its name.
        versions: All of them, ascending.
        labels: Its labels; None where they can't be read.
        problems: What is wrong with its labels.
    """

    name: str
    versions: tuple[VersionListing, ...]
    labels: Labels | None
    problems: tuple[str, ...]

    @property
    def servable(self) -> list[int]:
        """The versions that may be served, ascending."""
        return [listed.version for listed in self.versions if listed.problem is None]

    @property
    def current(self) -> int | None:
        """The version that answers calls which name none, the canary's share aside; None where none is known."""
        return self.labels.current(self.servable) if self.labels else None

    def answers(self, version: int) -> bool:
        """Whether calls that name no version go to this one: the current one, or a canary that may be served."""
        trial = self.labels.canary.version if self.labels and self.labels.canary else None
        return version in self.servable and version in (self.current, trial)

    def labels_of(self, version: int) -> list[str]:
        """What a version is called, for people: `stable`, `stable (latest)` where it is the newest, `canary 10 %`."""
        if self.labels is None:
            return []
        called = []
        if version == self.labels.stable:
            called.append(STABLE)
        elif version == self.current:
            called.append(f"{STABLE} (latest)")
        if self.labels.canary and version == self.labels.canary.version:
            called.append(f"{CANARY} {self.labels.canary.share * 100:g} %")
        if version == self.labels.previous:
            called.append(PREVIOUS)
        return called


def model_listings(repository: Repository, name: str | None = None) -> Iterator[ModelListing]:
    """Reads every version of one model, or of all; what is damaged is in it with the reason.

    Raises:
        RepositoryError: The directory can't be read.
        ModelNotFound: The named model is not there.
    """
    for model in repository.names() if name is None else [repository.choose(name)[0]]:
        read = (_version(repository, model, version) for version in repository.versions(model))
        versions = tuple(listed for listed in read if listed)
        labels, problems = _labels(repository, model, versions)
        yield ModelListing(name=model, versions=versions, labels=labels, problems=tuple(problems))


def _version(repository: Repository, name: str, version: int) -> VersionListing | None:
    try:
        stored = repository.load(name, version)
    except ModelRejected as error:
        if version not in repository.versions(name):  # removed meanwhile, which is nothing wrong
            return None
        return VersionListing(
            version=version, manifest=_manifest(repository, name, version), size_bytes=None, problem=str(error)
        )
    return VersionListing(version=version, manifest=stored.manifest, size_bytes=len(stored.content), problem=None)


def _manifest(repository: Repository, name: str, version: int) -> Manifest | None:
    try:
        return repository.read_manifest(name, version)
    except ModelRejected:
        return None


def _labels(repository: Repository, name: str, versions: tuple[VersionListing, ...]) -> tuple[Labels | None, list[str]]:
    try:
        labels = repository.read_labels(name)
    except ModelRejected as error:
        return None, [str(error)]
    states = {listed.version: listed.problem for listed in versions}
    pointed = {STABLE: labels.stable, CANARY: labels.canary.version if labels.canary else None}
    problems = []
    for label, version in pointed.items():
        if version is None:
            continue
        if version not in states:
            problems.append(f"{label} is version {version}, which is not there")
        elif states[version]:
            problems.append(f"{label} is version {version}, which may not be served")
    return labels, problems
