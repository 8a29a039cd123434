"""The journal of a run: what it is bound to, and which parts are whole. Survives being killed at any moment."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from serving.errors import DigitsError

FORMAT = 1
_FILE, _LOCK = "journal.jsonl", "lock"

# How each part of the binding is called when it differs.
_MEANINGS = {
    "inputs": "other inputs, or inputs that changed since",
    "count": "other inputs, or inputs that changed since",
    "options": "other options",
    "model": "another model",
}


class OutputConflict(DigitsError):
    """An output that is there already, or belongs to another run."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part that is whole: on disk with its name, and in the journal.

    Attributes:
        file: Its name.
        start: Number of its first image.
        rows: Images in it.
        sha256: Digest of the file.
        tally: Its sums.
    """

    file: str
    start: int
    rows: int
    sha256: str
    tally: dict[str, Any]


class Journal:
    """A directory with parts and the list of those that are whole.

    The first line binds the run to inputs, options and model; each further one is a part, and is written after the
    part has its name. A line that was cut off by a crash does not count, nor does a part without a line.

    Args:
        directory: Where parts are.
        binding: What must be the same when the run goes on: `inputs`, `count`, `options`, `model`.
        mix_models: Whether another model may go on.

    Raises:
        OutputConflict: The directory belongs to another run, or a run is writing there now.
        OSError: It can't be written.
    """

    def __init__(self, directory: Path, binding: Mapping[str, Any], *, mix_models: bool = False) -> None:
        self.directory = directory
        self.parts: list[Part] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(directory)
        try:
            if (directory / _FILE).exists():
                self._read(binding, mix_models)
            else:
                self._begin(binding)
        except BaseException:
            self._lock.close()
            raise

    @property
    def rows(self) -> int:
        """Images in parts that are whole."""
        return sum(part.rows for part in self.parts)

    def path(self, part: Part) -> Path:
        """Where a part is."""
        return self.directory / part.file

    def append(self, part: Part) -> None:
        """Records a part that is on disk with its name."""
        sync_directory(self.directory)
        with (self.directory / _FILE).open("ab") as file:
            file.write(_line(asdict(part)))
            file.flush()
            os.fsync(file.fileno())
        self.parts.append(part)

    def remove(self) -> None:
        """Removes the directory; the journal first, since parts without one are nothing."""
        _remove(self.directory)
        self._lock.close()

    def close(self) -> None:
        """Lets others write here."""
        self._lock.close()

    def _begin(self, binding: Mapping[str, Any]) -> None:
        for leftover in self.directory.glob("part-*"):
            leftover.unlink()
        scratch = self.directory / f".{_FILE}"
        with scratch.open("wb") as file:
            file.write(_line({"format": FORMAT, "binding": binding}))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.directory / _FILE)
        sync_directory(self.directory)

    def _read(self, binding: Mapping[str, Any], mix_models: bool) -> None:
        path = self.directory / _FILE
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            first, *others = [json.loads(line) for line in whole.splitlines()]
            if first["format"] != FORMAT:
                raise OutputConflict(f"{path}: of another release of digits-score; --overwrite begins anew")
            check_binding(self.directory, first["binding"], binding, mix_models=mix_models)
            self.parts = [Part(**part) for part in others]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputConflict(f"{path}: no journal of digits-score; --overwrite begins anew") from error
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        names = {part.file for part in self.parts}
        for leftover in self.directory.glob("part-*"):
            if leftover.name not in names:
                leftover.unlink()


def begun_model(directory: Path) -> tuple[str, int] | None:
    """Name and version of the model that a run which can go on was begun with; None where there is no such run."""
    try:
        with (directory / _FILE).open(encoding="utf-8") as file:
            model = json.loads(file.readline())["binding"]["model"]
        return str(model["name"]), int(model["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is wrong with a journal is told by who goes on with it


def check_binding(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], *, mix_models: bool = False) -> None:
    """Raises OutputConflict where a run that is to go on was begun with something else; the message says with what."""
    for name, meaning in _MEANINGS.items():
        if found[name] == wanted[name] or (name == "model" and mix_models):
            continue
        details = ""
        if name == "options":
            differing = [key for key in wanted[name] if found[name].get(key) != wanted[name][key]]
            details = f" ({', '.join(f'{key} {found[name].get(key)}, now {wanted[name][key]}' for key in differing)})"
        elif name == "model":
            names = [
                f"{each['name']} version {each['version']}, {each['sha256'][:12]}…"
                for each in (found[name], wanted[name])
            ]
            details = f" ({names[0]}; now {names[1]}); --mix-models goes on all the same"
        raise OutputConflict(f"{path}: begun with {meaning}{details}; --overwrite begins anew")


def discard(directory: Path) -> None:
    """Removes parts and journal of a run that is none any more.

    Raises:
        OutputConflict: A run is writing there now.
    """
    if directory.is_dir():
        with _lock(directory):
            _remove(directory)


def _lock(directory: Path) -> IO[str]:
    """Keeps other runs out until it is closed, or this process ends in any way."""
    lock = (directory / _LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise OutputConflict(f"{directory}: another run is writing here") from None
    return lock


def _remove(directory: Path) -> None:
    """The journal goes first."""
    (directory / _FILE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def sync_directory(directory: Path) -> None:
    """Makes names in a directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
