"""The model repository: `<root>/<model name>/<integer version>/` with `model.onnx` and `manifest.json`.

A version may hold the same model in other precisions too, such as `model.int8.onnx`, which the manifest then names.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from serving.errors import ModelNotFound, ModelRejected, RepositoryError
from serving.repository.labels import LABELS_FILE, Labels
from serving.repository.manifest import Manifest
from serving.repository.model_directory import ModelDirectory, directories, replace_file
from serving.repository.precision import INT8, precision_file

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"

# Times, size and inode of each file of a version, to see whether it changed; None for a missing file.
FileStats = tuple[tuple[int, ...] | None, ...]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """One version as it was read, with exactly the bytes whose digest was checked.

    Attributes:
        name: Name of the model.
        version: Its version, 1 or more.
        manifest: Its manifest.
        content: The bytes of `model.onnx`.
        precisions: The bytes of its files in other precisions, by the precision's name.
    """

    name: str
    version: int
    manifest: Manifest
    content: bytes
    precisions: Mapping[str, bytes] = field(default_factory=dict)


class Repository:
    """A directory of models. Reads, publishes and removes whole versions. Keeps no file open.

    Args:
        root: The directory. It need not exist before the first version is published.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Returns the names of all models, sorted. A directory without a version is not a model.

        One that can't be read may have versions, so it is a model too; only what asks for its versions gets the error.

        Raises:
            RepositoryError: The repository does not exist or can't be read.
        """
        return sorted(
            entry.name
            for entry in directories(self.root)
            if _NAME.fullmatch(entry.name) and self._may_have_versions(entry.name)
        )

    def versions(self, name: str) -> list[int]:
        """Returns all versions of a model, ascending; empty if it has none yet.

        Raises:
            RepositoryError: Its directory can't be read.
            ModelNotFound: The name is not a valid model name.
        """
        return self._directory(name).versions()

    def choose(self, name: str | None = None, version: int | None = None) -> tuple[str, int]:
        """Returns a model and a version, by default the only model and its newest version.

        Raises:
            RepositoryError: There are no models, or several and no name was given.
            ModelNotFound: There is no model or version of that name or number.
        """
        names = self.names()
        if not names:
            raise RepositoryError(f"{self.root}: no models here; a model is a directory with versions named 1, 2, …")
        if name is None and len(names) > 1:
            raise RepositoryError(f"{self.root}: several models ({', '.join(names)}); name one with --model")
        name = names[0] if name is None else name
        if name not in names:
            raise ModelNotFound(f"{self.root}: no model {name[:128]!r}; available: {', '.join(names)}")
        versions = self.versions(name)
        if version is not None and version not in versions:
            raise ModelNotFound(f"{self.root / name}: no version {version}; available: {', '.join(map(str, versions))}")
        return name, versions[-1] if version is None else version

    def read_manifest(self, name: str, version: int) -> Manifest:
        """Reads only the manifest of a version.

        Raises:
            ModelRejected: It is missing or damaged, or describes another model.
        """
        path = self._version_directory(name, version) / MANIFEST_FILE
        content = _read(path, missing="; digits-export and digits-import write it beside model.onnx")
        manifest = _parse(path, content, Manifest.from_json)
        if manifest.model_name != name:
            raise ModelRejected(f"{path}: describes the model {manifest.model_name!r}, not {name!r}")
        return manifest

    def read_labels(self, name: str) -> Labels:
        """Reads the labels of a model. Without a file, no label is set.

        Raises:
            ModelRejected: The file can't be read or is damaged.
            ModelNotFound: The name is not a valid model name.
        """
        path = self._directory(name).path / LABELS_FILE
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return Labels()
        except OSError as error:
            raise ModelRejected(f"{path}: {error.strerror}") from error
        return _parse(path, content, Labels.from_json)

    def write_labels(self, name: str, labels: Labels) -> None:
        """Replaces the labels of a model. A reader sees the old ones or the new ones.

        Raises:
            RepositoryError: The directory can't be written.
            ModelNotFound: The name is not a valid model name.
        """
        replace_file(self._directory(name).path / LABELS_FILE, labels.to_json())

    def file_stats(self, name: str, version: int) -> FileStats:
        """Returns what differs once a file of the version has changed. Does not read the files."""
        directory = self._version_directory(name, version)
        return tuple(_file_stat(directory / file) for file in (MODEL_FILE, precision_file(INT8), MANIFEST_FILE))

    def load(self, name: str, version: int) -> StoredModel:
        """Reads a version and checks that it can be served.

        Raises:
            ModelRejected: A file is missing, a digest is wrong, or parity was not proven.
        """
        manifest = self.read_manifest(name, version)
        directory = self._version_directory(name, version)
        path = directory / MODEL_FILE
        content = _read_checked(path, manifest.sha256)
        if not manifest.proven:
            raise ModelRejected(f"{path}: its manifest has no passed parity check; export it with digits-export")
        precisions = {
            precision: _read_checked(directory / precision_file(precision), described.sha256)
            for precision, described in manifest.precisions.items()
        }
        return StoredModel(name=name, version=version, manifest=manifest, content=content, precisions=precisions)

    def publish(self, content: bytes, manifest: Manifest, precisions: Mapping[str, bytes] | None = None) -> int:
        """Adds the next version of a model. A reader sees all of it or nothing.

        Args:
            content: The bytes of `model.onnx`.
            manifest: Its manifest, which names the model. Precisions without a file are left out of it.
            precisions: The bytes of its files in other precisions, by the precision's name.

        Returns:
            The number of the new version.

        Raises:
            RepositoryError: The directory can't be written.
            ModelRejected: The manifest could not be read back.
        """
        given = precisions or {}
        manifest = replace(manifest, precisions={name: manifest.precisions[name] for name in given})
        text = manifest.to_json()
        Manifest.from_json(text)  # a manifest that servers refuse must not become the newest version
        others = {precision_file(name): file for name, file in given.items()}
        return self._directory(manifest.model_name).add({MODEL_FILE: content, **others, MANIFEST_FILE: text.encode()})

    def add_precision(self, version: int, manifest: Manifest, precision: str, content: bytes) -> None:
        """Adds a precision to a published version. A reader sees it with its proof or not at all.

        Args:
            version: The version.
            manifest: Its manifest, with the precision.
            precision: The precision's name; the version does not have it yet.
            content: The bytes of its file.

        Raises:
            RepositoryError: The directory can't be written.
        """
        replace_file(self._version_directory(manifest.model_name, version) / precision_file(precision), content)
        self.replace_manifest(version, manifest)

    def remove(self, name: str, versions: Collection[int]) -> None:
        """Removes versions, whatever the labels say. Their numbers are never used again.

        Raises:
            RepositoryError: The directory can't be written.
            ModelNotFound: The name is not a valid model name.
        """
        self._directory(name).remove(versions)

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Keeps other processes from changing labels or removing versions. Readers and `publish` do not wait for it.

        Raises:
            RepositoryError: The directory can't be written.
            ModelNotFound: The name is not a valid model name.
        """
        return self._directory(name).lock()

    def replace_manifest(self, version: int, manifest: Manifest) -> None:
        """Replaces the manifest of a published version, to add proof of parity on another provider."""
        replace_file(self._version_directory(manifest.model_name, version) / MANIFEST_FILE, manifest.to_json())

    def _may_have_versions(self, name: str) -> bool:
        try:
            return bool(self.versions(name))
        except RepositoryError:
            return True

    def _directory(self, name: str) -> ModelDirectory:
        if not _NAME.fullmatch(name):
            raise ModelNotFound(f"{name[:128]!r} is not a valid model name: use letters, digits, '_', '-' and '.'")
        return ModelDirectory(self.root / name)

    def _version_directory(self, name: str, version: int) -> Path:
        return self._directory(name).path / str(version)


def _read_checked(path: Path, sha256: str) -> bytes:
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ModelRejected(
            f"{path}: sha256 is {digest[:12]}…, but the manifest says {sha256[:12]}…: "
            "the file was changed or damaged after the export"
        )
    return content


def _read(path: Path, *, missing: str = "") -> bytes:
    """Reads a regular file: a pipe would block for ever, and a device may have no end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelRejected(f"{path}: not a file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelRejected(f"{path}: {error.strerror}{missing}") from error
    except OSError as error:
        raise ModelRejected(f"{path}: {error.strerror}") from error


def _parse(path: Path, content: bytes, parse: Callable[[str], T]) -> T:
    try:
        return parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelRejected(f"{path}: not UTF-8") from error
    except ModelRejected as error:
        raise error.within(path) from error


def _file_stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
