"""What `digits-export` and `digits-import` share when they publish: what is there already, and what stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from serving.errors import ModelRejected
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import LabelChange
from serving.repository.manifest import Manifest
from serving.repository.repository import Repository


def name_from(text: str) -> str:
    """Makes a model's name of a file's or a folder's: letters, digits, `_`, `-` and `.`; empty if nothing is left."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-")[:128]


def published_before(
    repository: Repository, name: str, same: Callable[[Manifest], bool], *, provider: str
) -> tuple[int, Manifest] | None:
    """Finds the newest version that was made from the same network in the same way, and is proven on a provider.

    Args:
        repository: The repository.
        name: Name of the model.
        same: Whether a version with this manifest is the one that would be published.
        provider: The execution provider, `cpu` or `cuda`.
    """
    for version in reversed(repository.versions(name)):
        try:
            manifest = repository.load(name, version).manifest
        except ModelRejected:
            continue
        if same(manifest) and f"{provider.upper()}ExecutionProvider" in manifest.parity:
            return version, manifest
    return None


def publish(
    repository: Repository,
    content: bytes,
    manifest: Manifest,
    *,
    label: str | None,
    share: float,
    precisions: Mapping[str, bytes] | None = None,
) -> tuple[int, LabelChange | None]:
    """Publishes a version, in all its precisions, with a label if one is asked for.

    Returns:
        The number of the version, and the change of the labels.

    Raises:
        DigitsError: As for `RepositoryEditor.publish`.
    """
    if label is None:
        return repository.publish(content, manifest, precisions), None
    return RepositoryEditor(repository).publish(content, manifest, label=label, share=share, precisions=precisions)


def how_to_sign(why: str, repository: Repository, name: str, version: int | None) -> str:
    """Returns the end of a line for the user: why a version has no valid signature, and the command that signs it."""
    return f"; {why}: digits-models sign {name} {version} --key KEY --repository {repository.root}"


def stable_that_stays(repository: Repository, name: str, version: int) -> str | None:
    """Says which version goes on answering, where that is not the one just published.

    Returns:
        A line for the user, with the command that changes it; None if the version answers, or is on trial.
    """
    labels = repository.read_labels(name)
    if labels.stable in (None, version) or (labels.canary and labels.canary.version == version):
        return None
    return (
        f"{name}: stable stays at version {labels.stable}; to answer with version {version}: "
        f"digits-models label {name} stable {version} --repository {repository.root}"
    )
