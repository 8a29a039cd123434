"""What the name of a file says: whether it may be an image, or is what a system left in a folder."""

from __future__ import annotations

from pathlib import PurePath, PurePosixPath

# Formats that are decoded, and others that are images too: a row then says that this format is not supported.
_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".ico", ".pbm", ".pgm", ".ppm", ".pnm", ".pcx", ".tga"),
    *(".svg", ".psd", ".dcm", ".cr2", ".nef", ".dng", ".arw", ".raw", ".exr", ".xbm", ".xpm"),
}


def is_image_name(name: str | PurePath) -> bool:
    """Whether a file may be an image: it has the suffix of a format for images, or none at all."""
    return PurePath(name).suffix.lower() in ("", *_SUFFIXES)


def is_hidden(name: str | PurePath) -> bool:
    """Whether a relative path is hidden, or in `__MACOSX`, where a Mac keeps what other systems can't."""
    parts = PurePosixPath(name).parts
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in parts)
