"""What the columns of a table mean: which of them have images, names and labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serving.images.tables.table import Table, UnusableTable, list_names

# Names, in lower case, that need not be asked for.
_IMAGE_NAMES = ("image", "img", "images", "pixels", "image_bytes", "bytes", "png", "jpg", "jpeg")
_PATH_NAMES = (
    *("path", "file", "file_name", "filename", "filepath", "file_path", "image_path", "image_file", "image_name"),
    "img_path",
)
_LABEL_NAMES = ("label", "labels", "class", "target", "y", "digit")
# What numbered columns are called that are pixels even beside a column called image. Others may be features of it.
_PIXEL_NAMES = ("", "pixel", "pixels", "pix", "px", "p", "x")
# As many numbered columns are pixels.
_LEAST_PIXELS = 64

# Names of coordinates: columns x0y0, x1y0 … run across, although x comes first.
_ACROSS, _DOWN = {"x", "col", "column"}, {"y", "row"}

Numbered = list[tuple[tuple[int, ...], str]]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table mean, where their names don't say it.

    Attributes:
        image: Images: encoded (binary, or base64 in text), or lists of pixels; by default `image` and the like, or the
            only column whose type can hold images.
        path: Paths of image files, relative to the table's folder; by default `path`, `file`, `file_name` and the like.
        id: Names of the images in the output; by default the table's name and the row number.
        label: True labels, as names or numbers.
    """

    image: str | None = None
    path: str | None = None
    id: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImageColumns:
    """Where a table has its images.

    Attributes:
        names: The column; or the columns of the pixels, in the order of the pixels.
        are_pixels: Whether each column is one pixel.
        are_paths: Whether the column has paths and nothing else.
    """

    names: tuple[str, ...]
    are_pixels: bool = False
    are_paths: bool = False


def find_images(table: Table, columns: Columns) -> ImageColumns:
    """Finds the columns with the images.

    Numbered columns (`pixel0`, `pixel1` …, also `1x1`, `1x2` …) are the pixels of one image per row, by number and not
    by position.

    Raises:
        UnusableTable: A named column does not exist, or no column, or more than one, could be meant.
    """
    names = table.names
    for wanted in (columns.image, columns.path, columns.id, columns.label):
        if wanted is not None and wanted not in names:
            raise UnusableTable(f"{table.path}: has no column {wanted!r}, only {list_names(names)}")
    if columns.image is not None:
        return ImageColumns(names=(columns.image,))
    if columns.path is not None:
        return ImageColumns(names=(columns.path,), are_paths=True)
    prefix, numbered = _numbered(names)
    are_called_pixels = _named(prefix) in _PIXEL_NAMES
    if numbered and are_called_pixels:
        return ImageColumns(names=_in_order(table, numbered), are_pixels=True)
    lower = {name.lower(): name for name in reversed(names)}
    for known, are_paths in ((_IMAGE_NAMES, False), (_PATH_NAMES, True)):
        if found := next((lower[name] for name in known if name in lower), None):
            return ImageColumns(names=(found,), are_paths=are_paths)
    if numbered:
        return ImageColumns(names=_in_order(table, numbered), are_pixels=True)
    typed = table.image_columns()
    if len(typed) == 1:
        return ImageColumns(names=tuple(typed))
    raise UnusableTable(
        f"{table.path}: which of the columns {list_names(typed or names)} has the images? "
        "Name it with --image-column or --path-column, or call it image or path"
    )


def find_label(table: Table) -> str:
    """Finds the column with the labels.

    Raises:
        UnusableTable: There is none, or which one it is leaves a doubt.
    """
    names = table.names
    lower = {name.lower(): name for name in reversed(names)}
    if found := next((lower[name] for name in _LABEL_NAMES if name in lower), None):
        return found
    typed = [name for name in table.class_names() if name in names]
    if len(typed) == 1:
        return typed[0]
    raise UnusableTable(
        f"{table.path}: which of the columns {list_names(names)} has the labels? Call it label, class, target or y"
    )


def _numbered(names: Sequence[str]) -> tuple[str, Numbered]:
    """Returns what most of the numbered columns are called, and these columns with their numbers; none if too few."""
    groups: dict[tuple[str, str], Numbered] = {("", ""): []}
    for name in names:
        if found := re.fullmatch(r"(\D*)(\d+)(?:(\D+)(\d+))?", name):
            prefix, row, between, column = found.groups()
            number: tuple[int, ...] = (int(row),) if column is None else (int(row), int(column))
            if _named(prefix) in _ACROSS and _named(between or "") in _DOWN:
                number = number[::-1]
            groups.setdefault((prefix, between or ""), []).append((number, name))
    most = max(groups, key=lambda called: len(groups[called]))
    return most[0], sorted(groups[most]) if len(groups[most]) >= _LEAST_PIXELS else []


def _named(text: str) -> str:
    return text.strip("_-. ").lower()


def _in_order(table: Table, numbered: Numbered) -> tuple[str, ...]:
    """Returns numbered columns by their number, if they are complete."""
    numbers, ordered = [number for number, _ in numbered], tuple(name for _, name in numbered)
    for number, after, name in zip(numbers, numbers[1:], ordered[1:], strict=False):
        steps = [(*number[:-1], number[-1] + 1), *([(number[0] + 1, numbers[0][-1])] if len(number) == 2 else [])]
        if number == after:
            raise UnusableTable(f"{table.path}: two columns are pixel {name}")
        if after not in steps:
            raise UnusableTable(
                f"{table.path}: of the pixels {ordered[0]} to {ordered[-1]}, some before {name} are missing"
            )
    if numbers[0][-1] > 1:
        raise UnusableTable(f"{table.path}: the pixels begin with {ordered[0]}, not with 0 or 1")
    return ordered
