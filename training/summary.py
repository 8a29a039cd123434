"""A network explained: for each layer, where its shape, parameters and work come from, with the numbers filled in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.architectures import Layer
from training.explanations import Shape, explain

_MODELS = ("Sequential", "Functional")


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
    """Explains every layer of a chain of layers. Does not import Keras.

    Args:
        layers: The layers, from first to last.
        image_shape: Height, width and channels of the images.

    Raises:
        ValueError: A layer of a kind, or with an option, that has no explanation here.
    """
    rows, shape = [], image_shape
    for layer in layers:
        rows.append(_summarise_layer(layer, shape))
        shape = rows[-1].shape
    return tuple(rows)


def summarise_config(config: Mapping[str, Any]) -> tuple[LayerSummary, ...]:
    """Explains a Keras model by its configuration. Models inside it are explained layer by layer.

    Args:
        config: `get_config()` of a `keras.Sequential` or of a functional model.

    Raises:
        ValueError: As for `summarise`; or the model does not state the size of its images.
    """
    rows, _ = _summarise_model(config, None)
    return tuple(rows)


def summarise_file(path: Path) -> tuple[LayerSummary, ...]:
    """Explains a `.keras` file by the configuration in it.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not a `.keras` file with a `keras.Sequential` or a functional model; or as for
            `summarise_config`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read("config.json"))
        if document["class_name"] not in _MODELS:
            raise ValueError(f"{document['class_name']}: only Sequential and functional models can be explained")
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


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _summarise_model(config: Mapping[str, Any], shape: Shape | None) -> tuple[list[LayerSummary], Shape]:
    """Explains a model whose images have this shape, or the one that it states; also returns its output's shape."""
    functional = "output_layers" in config
    shapes = {} if shape is None else {"": shape}  # by the layer that they come from
    rows: list[LayerSummary] = []
    previous = ""
    for layer in config["layers"]:
        name, kind = layer["config"]["name"], layer["class_name"]
        if kind == "InputLayer":
            shapes[name] = shape or _stated(layer["config"]["batch_shape"])
        else:
            sources = _sources(name, layer["inbound_nodes"]) if functional else [previous]
            if not sources or not shapes.keys() >= set(sources):
                raise ValueError("the network does not state the size of its images")
            inputs = [shapes[source] for source in sources]
            if kind in _MODELS and len(inputs) == 1:
                inner, shapes[name] = _summarise_model(layer["config"], inputs[0])
                rows += inner
            else:
                rows.append(_summarise_layer(Layer(_kind(layer), layer["config"]), *inputs))
                shapes[name] = rows[-1].shape
        previous = name
    if functional:
        previous, *_ = _flat(config["output_layers"])
    return rows, shapes[previous]


def _summarise_layer(layer: Layer, *shapes: Shape) -> LayerSummary:
    try:
        explained = explain(layer.kind, layer.config, *shapes)
    except ValueError as error:
        raise ValueError(f"{layer.config['name']}: {error}") from error
    summary = LayerSummary(name=layer.config["name"], kind=layer.kind, **{"shape": shapes[0], **explained})
    if layer.config.get("trainable") is False:
        return replace(summary, trainable=0, non_trainable=summary.parameters)
    return summary


def _kind(layer: Mapping[str, Any]) -> str:
    """The class of a layer of Keras.

    Raises:
        ValueError: It is somebody's own class.
    """
    kind = str(layer["class_name"])
    if not str(layer.get("module")).startswith("keras"):
        raise ValueError(f"custom layer {kind} is not known here")
    return kind


def _stated(batch_shape: Sequence[int | None] | None) -> Shape:
    _, *sides = batch_shape or (None, None)
    shape = tuple(side for side in sides if side is not None)
    if len(shape) < len(sides):
        raise ValueError("the network does not state the size of its images")
    return shape


def _sources(name: str, nodes: Sequence[Any]) -> list[str]:
    """The layers whose outputs a layer of a functional model takes, in order."""
    if len(nodes) > 1:
        raise ValueError(f"{name}: no explanation is known for a layer that is used {len(nodes)} times")
    return [
        str(tensor["config"]["keras_history"][0])
        for tensor in _flat([list(node["args"]) + list(node["kwargs"].values()) for node in nodes])
        if isinstance(tensor, dict) and tensor.get("class_name") == "__keras_tensor__"
    ]


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, list | tuple):
        for value in values:
            yield from _flat(value)
    else:
        yield values
