"""The versions of a repository as a table for people, and as a document for programs.

The table is our own, since click has none and ten lines don't justify a dependency of every client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.repository.listing import ModelListing, VersionListing

_TITLES = ("MODEL", "VERSION", "LABELS", "CREATED", "ARCHITECTURE", "ACCURACY", "PARITY", "SIZE", "DIGEST", "STATE")


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
    recorded: tuple[object, ...] = ("", "", "", "", "")
    if manifest:
        recorded = (
            manifest.created[:16].replace("T", " "),
            manifest.training.get("architecture", ""),
            f"{manifest.accuracy.onnx:.2%}" if manifest.accuracy else "",
            ", ".join(provider.removesuffix("ExecutionProvider") for provider in manifest.parity),
            manifest.sha256[:12],
        )
    created, architecture, accuracy, parity, digest = recorded
    cells = (
        model.name,
        listed.version,
        ", ".join(model.labels_of(listed.version)),
        created,
        architecture,
        accuracy,
        parity,
        "" if listed.size_bytes is None else f"{listed.size_bytes / 1000:,.0f} kB",
        digest,
        "ok" if listed.problem is None else f"rejected: {listed.problem}",
    )
    return tuple(_plain(str(cell)) or "-" for cell in cells)


def _version(listed: VersionListing) -> dict[str, Any]:
    manifest = listed.manifest
    return {
        "version": listed.version,
        "created": manifest.created if manifest else None,
        "architecture": manifest.training.get("architecture") if manifest else None,
        "accuracy": manifest.accuracy.onnx if manifest and manifest.accuracy else None,
        "parity": list(manifest.parity) if manifest else [],
        "size_bytes": listed.size_bytes,
        "sha256": manifest.sha256 if manifest else None,
        "state": "ok" if listed.problem is None else "rejected",
        "reason": listed.problem,
    }


def _plain(text: str) -> str:
    """Text of a manifest, which is not trusted, without characters that could control a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
