"""The versions of a repository as a table for people, and as a document for programs.

The table is our own, since click has none and ten lines don't justify a dependency of every client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from serving.repository.listing import ModelListing, VersionListing
from serving.repository.manifest import Manifest

_TITLES = ("MODEL", "VERSION", "LABELS", "CREATED", "DATA", "RECIPE", "ACCURACY", "STATE")


def table(models: Sequence[ModelListing]) -> list[str]:
    """Lines of a table with a row for each version, then one for each problem with labels."""
    rows = [_TITLES, *(_row(model, listed) for model in models for listed in model.versions)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES) - 1)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1])) for row in rows
    ]
    return lines + [f"{model.name}: labels: {_plain(text)}" for model in models for text in model.problems]


def document(models: Sequence[ModelListing]) -> list[dict[str, Any]]:
    """The same content for `--json`, with nothing shortened."""
    return [
        {
            "model": model.name,
            "current": model.current,
            "stable": model.labels.stable if model.labels else None,
            "canary": (
                {"version": model.labels.canary.version, "share": model.labels.canary.share}
                if model.labels and model.labels.canary
                else None
            ),
            "previous": model.labels.previous if model.labels else None,
            "label_problems": list(model.problems),
            "versions": [_version(listed) for listed in model.versions],
        }
        for model in models
    ]


def _row(model: ModelListing, listed: VersionListing) -> tuple[str, ...]:
    manifest = listed.manifest
    created = data = recipe = accuracy = proven = ""
    if manifest:
        created = manifest.created[:10]
        source = _source(manifest)
        kind, colon, path = source.rpartition(":") if source else ("", "", "")
        data = kind + colon + PurePath(path).name  # where a folder is does not fit into a table
        recipe = _recipe(manifest) or ""
        accuracy = _accuracy(manifest)
        proven = ", ".join(provider.removesuffix("ExecutionProvider") for provider in manifest.parity)
        for precision, described in manifest.precisions.items():
            proven += f"; {precision} on {', '.join(described.proven)}"
    cells = (
        model.name,
        listed.version,
        ", ".join(model.labels_of(listed.version)),
        created,
        data,
        recipe,
        accuracy,
        f"ok on {proven}" if listed.problem is None else f"rejected: {listed.problem}",
    )
    return tuple(_plain(str(cell)) or "-" for cell in cells)


def _accuracy(manifest: Manifest) -> str:
    """The accuracy and how many images it was measured on: 99 % of ten images is worth little."""
    if not manifest.accuracy:
        return ""
    images = _test_images(manifest)
    return f"{manifest.accuracy.onnx:.2%}" + ("" if images is None else f" of {images:,}")


def _data(manifest: Manifest) -> Mapping[str, Any]:
    recorded = manifest.training.get("data")
    return recorded if isinstance(recorded, Mapping) else {}


def _source(manifest: Manifest) -> str | None:
    source = _data(manifest).get("source")
    return source if isinstance(source, str) else None


def _test_images(manifest: Manifest) -> int | None:
    images = _data(manifest).get("test_images")
    return images if isinstance(images, int) else None


def _recipe(manifest: Manifest) -> str | None:
    recipe = manifest.training.get("recipe")
    name = recipe.get("name") if isinstance(recipe, Mapping) else recipe
    return name if isinstance(name, str) else None


def _version(listed: VersionListing) -> dict[str, Any]:
    manifest = listed.manifest
    return {
        "version": listed.version,
        "created": manifest.created if manifest else None,
        "architecture": manifest.training.get("architecture") if manifest else None,
        "data": _source(manifest) if manifest else None,
        "recipe": _recipe(manifest) if manifest else None,
        "accuracy": manifest.accuracy.onnx if manifest and manifest.accuracy else None,
        "test_images": _test_images(manifest) if manifest else None,
        "training": manifest.training if manifest else None,
        "parity": list(manifest.parity) if manifest else [],
        "precisions": {name: list(each.proven) for name, each in manifest.precisions.items()} if manifest else {},
        "size_bytes": listed.size_bytes,
        "sha256": manifest.sha256 if manifest else None,
        "state": "ok" if listed.problem is None else "rejected",
        "reason": listed.problem,
    }


def _plain(text: str) -> str:
    """Text of a manifest, which is not trusted, without characters that could control a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
