"""The model repository: `<root>/<model name>/<integer version>/model.onnx` with `manifest.json` beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ModelNotFound, ModelRejected, RepositoryError
from serving.repository.labels import LABELS_FILE, Labels
from serving.repository.manifest import Manifest
from serving.repository.model_directory import ModelDirectory, directories, replace_file

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"

# Changes whenever the files of a version do; None for those that are not there.
Marks = tuple[tuple[int, ...] | None, ...] | None

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """One version as it was read: the very bytes whose digest was checked.

    Attributes:
        name: Name of the model.
        version: Its version, 1 or more.
        manifest: What is recorded about it.
        content: The bytes of `model.onnx`.
    """

    name: str
    version: int
    manifest: Manifest
    content: bytes


class Repository:
    """A directory of models. Reads, publishes and removes whole versions; holds nothing open.

    Args:
        root: The directory. It need not exist before the first version is published.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names of all models, sorted. A directory without a version is none.

        Raises:
            RepositoryError: There is no such directory, or it can't be read.
        """
        return sorted(
            entry.name for entry in directories(self.root) if _NAME.fullmatch(entry.name) and self.versions(entry.name)
        )

    def versions(self, name: str) -> list[int]:
        """All versions of a model, ascending; empty where there is none yet.

        Raises:
            ModelNotFound: The name can't be a model's.
        """
        return self._directory(name).versions()

    def choose(self, name: str | None = None, version: int | None = None) -> tuple[str, int]:
        """Completes a choice: the only model where none is named, its newest version where none is.

        Raises:
            RepositoryError: Nothing to choose from, or several models and none named.
            ModelNotFound: The named model or version is not there.
        """
        names = self.names()
        if not names:
            raise RepositoryError(f"{self.root}: no models here, which are directories with versions named 1, 2, …")
        if name is None and len(names) > 1:
            raise RepositoryError(f"{self.root}: several models ({', '.join(names)}), name one with --model")
        name = names[0] if name is None else name
        if name not in names:
            raise ModelNotFound(f"{self.root}: no model {name[:128]!r}; there are {', '.join(names)}")
        versions = self.versions(name)
        if version is not None and version not in versions:
            raise ModelNotFound(f"{self.root / name}: no version {version}; there are {', '.join(map(str, versions))}")
        return name, versions[-1] if version is None else version

    def read_manifest(self, name: str, version: int) -> Manifest:
        """Reads a version's manifest alone.

        Raises:
            ModelRejected: It is missing, damaged, or another model's.
        """
        path = self._version_directory(name, version) / MANIFEST_FILE
        content = _read(path)
        try:
            manifest = Manifest.from_json(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ModelRejected(f"{path}: not UTF-8") from error
        except ModelRejected as error:
            raise error.within(path) from error
        if manifest.model_name != name:
            raise ModelRejected(f"{path}: describes the model {manifest.model_name!r}, not {name!r}")
        return manifest

    def read_labels(self, name: str) -> Labels:
        """Reads a model's labels; none are set where there is no file.

        Raises:
            ModelRejected: The file can't be read or is damaged.
            ModelNotFound: The name can't be a model's.
        """
        path = self._directory(name).path / LABELS_FILE
        try:
            return Labels.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Labels()
        except OSError as error:
            raise ModelRejected(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ModelRejected(f"{path}: not UTF-8") from error
        except ModelRejected as error:
            raise error.within(path) from error

    def write_labels(self, name: str, labels: Labels) -> None:
        """Replaces a model's labels; a reader sees the old ones or the new ones.

        Raises:
            RepositoryError: The directory can't be written.
            ModelNotFound: The name can't be a model's.
        """
        replace_file(self._directory(name).path / LABELS_FILE, labels.to_json())

    def marks(self, name: str, version: int) -> Marks:
        """What tells whether a version's files changed since they were read."""
        directory = self._version_directory(name, version)
        return tuple(_mark(directory / file) for file in (MODEL_FILE, MANIFEST_FILE))

    def load(self, name: str, version: int) -> StoredModel:
        """Reads a version that may be served.

        Raises:
            ModelRejected: A file is missing, the digest differs, or parity was not proven.
        """
        manifest = self.read_manifest(name, version)
        path = self._version_directory(name, version) / MODEL_FILE
        content = _read(path)
        digest = hashlib.sha256(content).hexdigest()
        if digest != manifest.sha256:
            raise ModelRejected(
                f"{path}: sha256 is {digest[:12]}…, but the manifest says {manifest.sha256[:12]}…: "
                "the file was changed or damaged after its export"
            )
        if not manifest.proven:
            raise ModelRejected(f"{path}: its manifest holds no passed parity check; export it with digits-export")
        return StoredModel(name=name, version=version, manifest=manifest, content=content)

    def publish(self, content: bytes, manifest: Manifest) -> int:
        """Adds the next version of a model; a reader sees all of it or none.

        Args:
            content: The bytes of `model.onnx`.
            manifest: Its manifest, with the name of the model.

        Returns:
            The version that it became.

        Raises:
            RepositoryError: The directory can't be written.
            ModelRejected: The manifest is not one that can be read back.
        """
        text = manifest.to_json()
        Manifest.from_json(text)  # what a server would refuse must not become the newest version
        return self._directory(manifest.model_name).add({MODEL_FILE: content, MANIFEST_FILE: text.encode()})

    def remove(self, name: str, versions: Collection[int]) -> None:
        """Takes versions away, whatever labels say; a reader sees all of each or none. No number is given again.

        Raises:
            RepositoryError: The directory can't be written.
            ModelNotFound: The name can't be a model's.
        """
        self._directory(name).remove(versions)

    def alone(self, name: str) -> AbstractContextManager[None]:
        """While it is entered, others that change the model wait. Readers and exporters are not concerned.

        Raises:
            RepositoryError: The directory can't be written.
            ModelNotFound: The name can't be a model's.
        """
        return self._directory(name).alone()

    def replace_manifest(self, version: int, manifest: Manifest) -> None:
        """Replaces the manifest of a published version, as when parity was proven on one more provider."""
        replace_file(self._version_directory(manifest.model_name, version) / MANIFEST_FILE, manifest.to_json())

    def _directory(self, name: str) -> ModelDirectory:
        if not _NAME.fullmatch(name):
            raise ModelNotFound(f"{name[:128]!r} can't be the name of a model: letters, digits, '_', '-' and '.' only")
        return ModelDirectory(self.root / name)

    def _version_directory(self, name: str, version: int) -> Path:
        return self._directory(name).path / str(version)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelRejected(f"{path}: {error.strerror}") from error


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
