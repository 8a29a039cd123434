"""Opens whatever was brought, with what the user says about it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from export.errors import UnusableModel
from export.foreign.origin import Origin
from export.foreign.pixels import PixelOptions
from export.publishing import name_from


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the user says about a network and its data.

    Attributes:
        pixels: What she says about its input.
        labels: Names of its classes; None if she names none.
        logits: Whether its output is logits.
        output: The output to serve, if it has several.
        architecture: Name of the network of the catalogue, if the file holds only weights.
        preparation: How a server prepares images: `mnist` or `resize`; None to judge by the images.
        data: Test images: `mnist`, `folder:PATH`, or a file; None for drawn ones.
        data_dir: Directory with MNIST's files.
    """

    pixels: PixelOptions = field(default_factory=PixelOptions)
    labels: tuple[str, ...] | None = None
    logits: bool = False
    output: str | None = None
    architecture: str | None = None
    preparation: str | None = None
    data: str | None = None
    data_dir: Path | None = None


def open_origin(path: Path, options: ImportOptions) -> Origin:
    """Opens whatever was brought, by its content. Only what is not ONNX imports TensorFlow.

    Raises:
        UnusableModel: It is none of the kinds that are known, or can't be opened.
    """
    if options.architecture is not None and (path.is_dir() or path.suffix not in (".h5", ".hdf5")):
        raise UnusableModel("--architecture is for a file that holds only weights (.weights.h5); leave it out")
    if path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise UnusableModel("a directory without saved_model.pb; name a file of Keras or ONNX, or a SavedModel")
        from export.foreign.keras_origin import open_saved_model

        return open_saved_model(path, output=options.output)
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith((b"PK\x03\x04", b"\x89HDF\r\n\x1a\n")):
        if path.suffix in (".keras", ".h5", ".hdf5"):
            raise UnusableModel("not a file of Keras, or a truncated one")
        if path.suffix in (".pt", ".pth", ".ckpt", ".safetensors"):
            raise UnusableModel(
                "weights of PyTorch hold no network; export it with torch.onnx.export, then import that"
            )
        from export.foreign.onnx_origin import open_onnx

        return open_onnx(path, output=options.output)
    if path.suffix in (".pt", ".pth", ".ckpt"):
        raise UnusableModel("a file of PyTorch holds no graph; export it with torch.onnx.export, then import that")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise UnusableModel("not a file of Keras, or a truncated one")
    from export.foreign.keras_origin import open_keras, open_weights

    if options.architecture is None:
        return open_keras(path, output=options.output)
    classes = len(options.labels) if options.labels else None
    return open_weights(path, options.architecture, image_shape=options.pixels.image_size, classes=classes)


def default_name(path: Path) -> str:
    """The name of the model if none is given: that of its file or directory."""
    stem = path.name.removesuffix(".weights.h5")
    return name_from(Path(stem).stem if path.is_file() else path.absolute().name) or "imported"
