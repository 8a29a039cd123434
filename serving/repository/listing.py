"""The listing of a repository: every version, whether it can be served, and its labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.errors import ModelRejected, RepositoryError
from serving.repository.labels import CANARY, PREVIOUS, STABLE, Labels
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository


@dataclass(frozen=True, kw_only=True)
class VersionListing:
    """One version.

    Attributes:
        version: Its number, 1 or more.
        manifest: Its manifest; None if it can't be read.
        size_bytes: Size of `model.onnx`; None if the version can't be served.
        problem: Why the version can't be served; None if it can.
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
        versions: All its versions, ascending.
        labels: Its labels; None if they can't be read.
        problems: What is wrong with its labels.
    """

    name: str
    versions: tuple[VersionListing, ...]
    labels: Labels | None
    problems: tuple[str, ...]

    @property
    def servable(self) -> list[int]:
        """The versions that can be served, ascending."""
        return [listed.version for listed in self.versions if listed.problem is None]

    @property
    def current(self) -> int | None:
        """The version that answers calls which name none, apart from the canary's share; None if there is none."""
        return self.labels.current(self.servable) if self.labels else None

    def labels_of(self, version: int) -> list[str]:
        """Returns the labels of a version, for display: `stable`, `stable (latest)`, `canary 10 %`, `previous`."""
        if self.labels is None:
            return []
        found = []
        if version == self.labels.stable:
            found.append(STABLE)
        elif version == self.current:
            found.append(f"{STABLE} (latest)")
        if self.labels.canary and version == self.labels.canary.version:
            found.append(f"{CANARY} {self.labels.canary.share * 100:g} %")
        if version == self.labels.previous:
            found.append(PREVIOUS)
        return found


def model_listings(repository: Repository, name: str | None = None) -> Iterator[ModelListing]:
    """Reads every version of one model, or of all models. A damaged version is listed with the reason.

    Raises:
        RepositoryError: The directory can't be read.
        ModelNotFound: There is no model of that name.
    """
    for model in repository.names() if name is None else [repository.choose(name)[0]]:
        try:
            numbers = repository.versions(model)
        except RepositoryError as error:
            yield ModelListing(name=model, versions=(), labels=None, problems=(str(error),))
            continue
        read = (_version(repository, model, version) for version in numbers)
        versions = tuple(listed for listed in read if listed)
        labels, problems = _labels(repository, model, versions)
        yield ModelListing(name=model, versions=versions, labels=labels, problems=tuple(problems))


def _version(repository: Repository, name: str, version: int) -> VersionListing | None:
    try:
        stored = repository.load(name, version)
    except ModelRejected as error:
        if version not in repository.versions(name):  # removed in the meantime, so nothing is wrong
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
    problem_of = {listed.version: listed.problem for listed in versions}
    labelled = {STABLE: labels.stable, CANARY: labels.canary.version if labels.canary else None}
    problems = []
    for label, version in labelled.items():
        if version is None:
            continue
        if version not in problem_of:
            problems.append(f"{label} is version {version}, which does not exist")
        elif problem_of[version]:
            problems.append(f"{label} is version {version}, which can't be served")
    return labels, problems
