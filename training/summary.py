"""A network explained: for each layer, where its shape, parameters and work come from, with the numbers filled in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from training.architectures import Layer

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One layer.

    Attributes:
        name: The layer's name.
        kind: Its Keras class.
        shape: Shape of its output without the batch: height, width, channels, or units.
        shape_reason: How the shape is computed; empty if it is the input's.
        trainable: Parameters that training changes by gradient.
        non_trainable: Parameters that it does not.
        formula: How both together are counted; empty if there are none.
        note: Why it has no parameters, or why some are not trainable; empty if nothing needs saying.
        macs: Multiply-accumulates for one image.
    """

    name: str
    kind: str
    shape: Shape
    shape_reason: str = ""
    trainable: int = 0
    non_trainable: int = 0
    formula: str = ""
    note: str = ""
    macs: int = 0

    @property
    def parameters(self) -> int:
        """All parameters, trainable or not."""
        return self.trainable + self.non_trainable


def summarise(layers: Iterable[Layer], image_shape: Shape) -> tuple[LayerSummary, ...]:
    """Explains every layer of a network. Does not import Keras.

    Args:
        layers: The layers, from first to last.
        image_shape: Height, width and channels of the images.

    Raises:
        ValueError: A layer of a kind, or with an option, that has no explanation here.
    """
    rows, shape = [], image_shape
    for layer in layers:
        name = layer.config["name"]
        if layer.kind not in _EXPLAINERS:
            raise ValueError(f"{name}: no explanation is known for a {layer.kind}")
        explain, required = _EXPLAINERS[layer.kind]
        for option, value in required.items():
            found = layer.config.get(option, value)
            if (list(found) if isinstance(found, tuple) else found) != value:
                raise ValueError(f"{name}: no explanation is known for a {layer.kind} with {option} = {found}")
        rows.append(LayerSummary(name=name, kind=layer.kind, **{"shape": shape, **explain(layer.config, shape)}))
        shape = rows[-1].shape
    return tuple(rows)


def summarise_config(config: Mapping[str, Any]) -> tuple[LayerSummary, ...]:
    """Explains a Keras model by its configuration.

    Args:
        config: `get_config()` of a `keras.Sequential`.

    Raises:
        ValueError: As for `summarise`.
    """
    images, *layers = config["layers"]
    _, *image_shape = images["config"].get("batch_shape") or [None, None]
    if None in image_shape:
        raise ValueError("the network does not state the size of its images")
    return summarise((Layer(layer["class_name"], layer["config"]) for layer in layers), tuple(image_shape))


def summarise_file(path: Path) -> tuple[LayerSummary, ...]:
    """Explains a `.keras` file by the configuration in it.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not a `.keras` file of a `keras.Sequential`; or as for `summarise`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read("config.json"))
        if document["class_name"] != "Sequential":
            raise ValueError("not a chain of layers (keras.Sequential)")
        return summarise_config(document["config"])
    except (zipfile.BadZipFile, json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        raise ValueError("not a .keras file, or a damaged one") from error


def render(summaries: tuple[LayerSummary, ...]) -> str:
    """Renders the explanation as a table with totals."""
    total = sum(row.parameters for row in summaries)
    cells = [("layer", "output", "parameters", "share", "multiply-adds", "why")]
    for row in summaries:
        share = f"{row.parameters / total:.1%}" if row.parameters else ""
        why = "; ".join(part for part in (row.formula, row.shape_reason, row.note) if part)
        macs = f"{row.macs:,}" if row.macs else ""
        cells.append((f"{row.name} ({row.kind})", _times(row.shape), f"{row.parameters:,}", share, macs, why))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    form = "  ".join(f"{{:{align}{width}}}" for align, width in zip("<<>>>", widths, strict=True)) + "  {}"
    lines = [form.format(*line).rstrip() for line in cells]
    trainable = sum(row.trainable for row in summaries)
    largest = max(summaries, key=lambda row: row.parameters)
    return "\n".join(
        [
            *lines,
            "",
            f"parameters: {total:,}, trainable {trainable:,}, not trainable {total - trainable:,}",
            f"most of them: {largest.name} with {largest.parameters:,}, {largest.parameters / (total or 1):.1%}",
            f"multiply-adds for one image: {sum(row.macs for row in summaries):,}",
        ]
    )


def _conv(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    (height, width), channels, filters = config["kernel_size"], shape[-1], config["filters"]
    size, reason = _window(shape, config["kernel_size"], config["strides"], config["padding"])
    bias = " + 1" if config["use_bias"] else ""
    inputs = height * width * channels
    count = (inputs + config["use_bias"]) * filters
    return {
        "shape": (*size, filters),
        "formula": f"({height}·{width}·{channels}{bias})·{filters} = {count:,}",
        "shape_reason": reason,
        "trainable": count,
        "macs": inputs * filters * prod(size),
    }


def _dense(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    inputs, units = shape[-1], config["units"]
    bias = " + 1" if config["use_bias"] else ""
    count = (inputs + config["use_bias"]) * units
    return {
        "shape": (*shape[:-1], units),
        "formula": f"({inputs}{bias})·{units} = {count:,}",
        "trainable": count,
        "macs": inputs * units,
    }


def _batch_norm(_: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    channels = shape[-1]
    return {
        "formula": f"4·{channels} = {4 * channels:,}",
        "note": f"{2 * channels:,} trained (scale and offset), {2 * channels:,} not (moving mean and variance follow "
        "the batches, no gradient reaches them)",
        "trainable": 2 * channels,
        "non_trainable": 2 * channels,
        "macs": prod(shape),
    }


def _pool(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    size, reason = _window(shape, config["pool_size"], config["strides"], config["padding"])
    return {"shape": (*size, shape[-1]), "shape_reason": reason, "note": "takes the largest, learns nothing"}


def _flatten(_: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    reason = f"{'·'.join(map(str, shape))} = {prod(shape):,}"
    return {"shape": (prod(shape),), "shape_reason": reason, "note": "only arranges values"}


def _average(_: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    height, width, channels = shape
    reason = f"the mean of {height}·{width} values for each of {channels} channels"
    return {"shape": (channels,), "shape_reason": reason}


def _rescaling(_: Mapping[str, Any], __: Shape) -> dict[str, Any]:
    return {"note": "constants, not parameters"}


def _dropout(config: Mapping[str, Any], _: Shape) -> dict[str, Any]:
    return {"note": f"drops {config['rate']:.0%} of the values while training, has nothing to learn"}


def _activation(_: Mapping[str, Any], __: Shape) -> dict[str, Any]:
    return {"note": "a fixed function"}


def _window(shape: Shape, window: Any, strides: Any, padding: str) -> tuple[Shape, str]:
    """How a convolution or pooling changes height and width, and why; one reason if it is the same for both."""
    results, reasons = [], []
    for side, length, stride in zip(shape[:2], window, strides, strict=True):
        if padding == "same":
            result = -(-side // stride)
            reasons.append(f"same: {side}" if stride == 1 else f"same: ⌈{side} / {stride}⌉ = {result}")
        else:
            result = (side - length) // stride + 1
            quotient = f"{side} − {length}" if stride == 1 else f"⌊({side} − {length}) / {stride}⌋"
            reasons.append(f"valid: {quotient} + 1 = {result}")
        results.append(result)
    return tuple(results), reasons[0] if reasons[0] == reasons[1] else f"{reasons[0]} high, {reasons[1]} wide"


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))


# By kind of layer: what explains it, and the only values of options for which that explanation is true.
_NHWC = {"data_format": "channels_last"}
_EXPLAINERS: dict[str, tuple[Callable[[Mapping[str, Any], Shape], dict[str, Any]], dict[str, Any]]] = {
    "Conv2D": (_conv, {**_NHWC, "dilation_rate": [1, 1], "groups": 1}),
    "Dense": (_dense, {}),
    "BatchNormalization": (_batch_norm, {"axis": -1, "center": True, "scale": True}),
    "MaxPooling2D": (_pool, _NHWC),
    "Flatten": (_flatten, _NHWC),
    "GlobalAveragePooling2D": (_average, {**_NHWC, "keepdims": False}),
    "Rescaling": (_rescaling, {}),
    "Dropout": (_dropout, {}),
    "Activation": (_activation, {}),
}
