"""A network explained: for each layer where its shape, its parameters and its work come from, numbers in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
from keras import layers


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One layer.

    Attributes:
        name: The layer's name.
        kind: Its Keras class.
        shape: Its output's shape without the batch: height, width, channels, or units.
        shape_reason: How the shape comes about; empty where it is the input's.
        trainable: Parameters that training changes by gradient.
        non_trainable: Parameters that it does not.
        formula: How both together are computed; empty where there are none.
        note: Why it has no parameters, or why some are not trainable; empty where nothing needs saying.
        macs: Multiply-accumulates for one image.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    shape_reason: str = ""
    trainable: int = 0
    non_trainable: int = 0
    formula: str = ""
    note: str = ""
    macs: int = 0

    @property
    def parameters(self) -> int:
        """Trainable and not."""
        return self.trainable + self.non_trainable


def summarise(model: keras.Model) -> tuple[LayerSummary, ...]:
    """Explains every layer of a network of the catalogue's kinds.

    Raises:
        TypeError: A layer of a kind that is not known here.
    """
    return tuple(_explain(layer) for layer in model.layers)


def render(summaries: tuple[LayerSummary, ...]) -> str:
    """Lays the explanation out as a table with totals."""
    total = sum(row.parameters for row in summaries)
    cells = [("layer", "output", "parameters", "share", "multiply-adds", "why")]
    for row in summaries:
        share = f"{row.parameters / total:.1%}" if row.parameters else ""
        why = "; ".join(part for part in (row.formula, row.shape_reason, row.note) if part)
        macs = f"{row.macs:,}" if row.macs else ""
        cells.append((f"{row.name} ({row.kind})", _times(row.shape), f"{row.parameters:,}", share, macs, why))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = [
        "  ".join(
            [
                f"{line[0]:<{widths[0]}}",
                f"{line[1]:<{widths[1]}}",
                *(f"{line[column]:>{widths[column]}}" for column in (2, 3, 4)),
                line[5],
            ]
        ).rstrip()
        for line in cells
    ]
    trainable = sum(row.trainable for row in summaries)
    largest = max(summaries, key=lambda row: row.parameters)
    return "\n".join(
        [
            *lines,
            "",
            f"parameters: {total:,}, trainable {trainable:,}, not trainable {total - trainable:,}",
            f"most of them: {largest.name} with {largest.parameters:,}, {largest.parameters / total:.1%}",
            f"multiply-adds for one image: {sum(row.macs for row in summaries):,}",
        ]
    )


def _explain(layer: Any) -> LayerSummary:
    for kind, explain in _EXPLAINERS.items():
        if isinstance(layer, kind):
            shape = tuple(layer.output.shape[1:])
            return LayerSummary(name=layer.name, kind=type(layer).__name__, shape=shape, **explain(layer))
    raise TypeError(f"{layer.name}: no explanation is known for a {type(layer).__name__}")


def _conv(layer: Any) -> dict[str, Any]:
    height, width = layer.kernel_size
    channels, filters = layer.input.shape[-1], layer.filters
    bias = " + 1" if layer.use_bias else ""
    inputs = height * width * channels
    count = (inputs + layer.use_bias) * filters
    return {
        "formula": f"({height}·{width}·{channels}{bias})·{filters} = {count:,}",
        "shape_reason": _window(layer.input.shape[1:3], layer.kernel_size, layer.strides, layer.padding),
        "trainable": count,
        "macs": inputs * filters * prod(layer.output.shape[1:3]),
    }


def _dense(layer: Any) -> dict[str, Any]:
    inputs, units = layer.input.shape[-1], layer.units
    bias = " + 1" if layer.use_bias else ""
    count = (inputs + layer.use_bias) * units
    return {"formula": f"({inputs}{bias})·{units} = {count:,}", "trainable": count, "macs": inputs * units}


def _batch_norm(layer: Any) -> dict[str, Any]:
    channels = layer.input.shape[layer.axis]
    return {
        "formula": f"4·{channels} = {4 * channels:,}",
        "note": f"{2 * channels:,} trained (scale and offset), {2 * channels:,} not (moving mean and variance follow "
        "the batches, no gradient reaches them)",
        "trainable": 2 * channels,
        "non_trainable": 2 * channels,
        "macs": prod(layer.output.shape[1:]),
    }


def _pool(layer: Any) -> dict[str, Any]:
    reason = _window(layer.input.shape[1:3], layer.pool_size, layer.strides, layer.padding)
    return {"shape_reason": reason, "note": "takes the largest, learns nothing"}


def _flatten(layer: Any) -> dict[str, Any]:
    shape = layer.input.shape[1:]
    return {"shape_reason": f"{'·'.join(map(str, shape))} = {prod(shape):,}", "note": "only arranges values"}


def _average(layer: Any) -> dict[str, Any]:
    height, width, channels = layer.input.shape[1:]
    return {"shape_reason": f"the mean of {height}·{width} values for each of {channels} channels"}


def _rescaling(_: Any) -> dict[str, Any]:
    return {"note": "constants, not parameters"}


def _dropout(layer: Any) -> dict[str, Any]:
    return {"note": f"drops {layer.rate:.0%} of the values while training, has nothing to learn"}


def _activation(_: Any) -> dict[str, Any]:
    return {"note": "a fixed function"}


def _window(size: Any, window: Any, strides: Any, padding: str) -> str:
    """How a convolution or pooling changes height and width; one text where both change alike."""
    texts = []
    for side, length, stride in zip(size, window, strides, strict=True):
        if padding == "same":
            result = -(-side // stride)
            texts.append(f"same: {side}" if stride == 1 else f"same: ⌈{side} / {stride}⌉ = {result}")
        elif stride == 1:
            texts.append(f"valid: {side} − {length} + 1 = {side - length + 1}")
        else:
            texts.append(f"valid: ⌊({side} − {length}) / {stride}⌋ + 1 = {(side - length) // stride + 1}")
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} high, {texts[1]} wide"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


_EXPLAINERS: dict[Any, Callable[[Any], dict[str, Any]]] = {
    layers.Conv2D: _conv,
    layers.Dense: _dense,
    layers.BatchNormalization: _batch_norm,
    layers.MaxPooling2D: _pool,
    layers.Flatten: _flatten,
    layers.GlobalAveragePooling2D: _average,
    layers.Rescaling: _rescaling,
    layers.Dropout: _dropout,
    layers.Activation: _activation,
}
