"""The model repository: `<root>/<model name>/<integer version>/` with `model.onnx` and `manifest.json`.

A version may hold the same model in other precisions too, such as `model.int8.onnx`, which the manifest then names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from serving.errors import ModelNotFound, ModelRejected, RepositoryError
from serving.repository.files import checked_content, file_stat, parse_file, read_file
from serving.repository.labels import LABELS_FILE, Labels
from serving.repository.manifest import Manifest
from serving.repository.model_directory import ModelDirectory, directories, replace_file
from serving.repository.precision import INT8, precision_file
from serving.repository.signature import SIGNATURE_FILE, SigningKey, TrustedKeys, digest_of, file_digests

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"

# Name, times, size and inode of each file of a version, to see whether one was changed, added or removed.
FileStats = frozenset[tuple[str | int, ...]]

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
        trusted_keys: Files of public keys: versions that none of them has signed are refused. Empty to accept all.
        signing_key: Signs what is published or changed here; None to sign nothing.
    """

    def __init__(self, root: Path, *, trusted_keys: Sequence[Path] = (), signing_key: SigningKey | None = None) -> None:
        self.root = root
        self._trusted_keys = TrustedKeys(trusted_keys) if trusted_keys else None
        self._signing_key = signing_key

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
        return _parse_manifest(path, _read_manifest(path), name)

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
        return parse_file(path, content, Labels.from_json)

    def write_labels(self, name: str, labels: Labels) -> None:
        """Replaces the labels of a model. A reader sees the old ones or the new ones.

        Raises:
            RepositoryError: The directory can't be written.
            ModelNotFound: The name is not a valid model name.
        """
        replace_file(self._directory(name).path / LABELS_FILE, labels.to_json())

    def file_stats(self, name: str, version: int) -> FileStats:
        """Returns what differs once a file of the version has changed. Does not read the files."""
        try:
            files = list(self._version_directory(name, version).iterdir())
        except OSError:
            return frozenset()
        return frozenset((file.name, *file_stat(file)) for file in files)

    def load(self, name: str, version: int) -> StoredModel:
        """Reads a version and checks that it can be served.

        Raises:
            ModelRejected: A file is missing, a digest is wrong, parity was not proven, or no trusted key signed it.
            UnusableFile: A file of the trusted keys can't be used.
        """
        directory = self._version_directory(name, version)
        files = {
            MANIFEST_FILE: _read_manifest(directory / MANIFEST_FILE),
            MODEL_FILE: read_file(directory / MODEL_FILE),
        }
        if (directory / precision_file(INT8)).exists():
            files[precision_file(INT8)] = read_file(directory / precision_file(INT8))
        if self._trusted_keys:  # before anything is made of these bytes
            self._trusted_keys.check(directory, files)
        manifest = _parse_manifest(directory / MANIFEST_FILE, files[MANIFEST_FILE], name)
        path = directory / MODEL_FILE
        content = checked_content(path, files, manifest.sha256)
        if not manifest.proven:
            raise ModelRejected(f"{path}: its manifest has no passed parity check; export it with digits-export")
        precisions = {
            precision: checked_content(directory / precision_file(precision), files, described.sha256)
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
        files = {MODEL_FILE: content, MANIFEST_FILE: text.encode()}
        files |= {precision_file(name): file for name, file in given.items()}
        if self._signing_key:
            digests = {name: digest_of(file) for name, file in files.items()}
            files[SIGNATURE_FILE] = self._signing_key.sign(manifest.model_name, digests).encode()
        return self._directory(manifest.model_name).add(files)

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

    def sign(self, name: str, version: int, key: SigningKey) -> None:
        """Signs all files of a version that can be served, in place of an earlier signature.

        Raises:
            ModelRejected: It can't be served, or contains something else than files.
            RepositoryError: The directory can't be written.
        """
        directory = self._version_directory(name, version)
        digests = file_digests(directory)
        self.load(name, version)
        replace_file(directory / SIGNATURE_FILE, key.sign(name, digests))

    def is_signed(self, name: str, version: int) -> bool:
        """Whether a version has a signature, right or wrong."""
        return (self._version_directory(name, version) / SIGNATURE_FILE).exists()

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
        """Replaces the manifest of a published version, to add proof of parity on another provider.

        An earlier signature no longer holds then; the signing key makes a new one, if there is one.
        """
        replace_file(self._version_directory(manifest.model_name, version) / MANIFEST_FILE, manifest.to_json())
        if self._signing_key:
            self.sign(manifest.model_name, version, self._signing_key)

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


def _read_manifest(path: Path) -> bytes:
    return read_file(path, missing="; digits-export and digits-import write it beside model.onnx")


def _parse_manifest(path: Path, content: bytes, name: str) -> Manifest:
    manifest = parse_file(path, content, Manifest.from_json)
    if manifest.model_name != name:
        raise ModelRejected(f"{path}: describes the model {manifest.model_name!r}, not {name!r}")
    return manifest
