"""ONNX files made elsewhere: which input and output count, and the untouched file as it runs. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner

from export.errors import UnusableModel, reason_of
from export.foreign.constants import Constants
from export.foreign.origin import Array, Finding, Origin, dimensions, inputs_of, refuse_recurrent, shape_text
from serving.inference.external_data import uses_external_data
from serving.inference.interface import PROBABILITIES
from serving.inference.sessions import RUNTIME_VERSION, open_untouched

_BATCH = 256
# Domains whose operators ONNX Runtime has.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})


def open_onnx(path: Path, *, output: str | None = None) -> Origin:
    """Opens an ONNX file.

    Args:
        path: The file.
        output: The output to serve, if it has several.

    Raises:
        UnusableModel: It is not ONNX, ONNX Runtime can't run it, or it has no single input and output.
    """
    content = path.read_bytes()
    model = _parse(content)
    model = onnx.inliner.inline_local_functions(model)  # such as PyTorch writes for each module
    refuse_recurrent(model)
    _refuse_unknown_operators(model)
    inputs = inputs_of(model.graph)
    if len(inputs) != 1:
        raise UnusableModel(f"it has {len(inputs)} inputs ({_names(inputs)}), but only one of images can be served")
    batch = dimensions(inputs[0])[:1]
    if batch and batch[0] not in (None, 1):
        raise UnusableModel(
            f"its batch is fixed at {batch[0]} (the input {inputs[0].name}); export it again with a batch of any size, "
            "in PyTorch with dynamic_axes or dynamic_shapes"
        )
    chosen, findings = _choose_output(model.graph, output)
    session = _open_session(content)
    rows = 1 if batch == (1,) else _BATCH
    labels, served = _labels_of_export(model) or _labels_of_classifier(model.graph), chosen
    node = next((node for node in model.graph.node if chosen in node.output), None)
    if node is not None and node.op_type == "ZipMap":
        served = node.input[0]
    named = next((value.name for value in model.graph.output if _may_be_names(model.graph, value)), None)

    def run(values: Array) -> Array:
        parts: list[Array] = []
        for start in range(0, len(values), rows):
            (part,) = session.run([chosen], {inputs[0].name: values[start : start + rows]})
            # A ZipMap gives a dictionary for each image.
            parts.append(np.array([[*row.values()] for row in part]) if isinstance(part, list) else part)
        return np.concatenate(parts)

    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=served))
    return Origin(
        path=path,
        kind="ONNX",
        sha256=hashlib.sha256(content).hexdigest(),
        model=model,
        run=run,
        parameters=sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
        versions={
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "opset": str(max((entry.version for entry in model.opset_import if entry.domain == ""), default=1)),
            "onnx": onnx.__version__,
            "onnxruntime": RUNTIME_VERSION,
        },
        labels=labels,
        label_output=named,
        findings=findings,
    )


def _parse(content: bytes) -> onnx.ModelProto:
    try:
        external = uses_external_data(content)
        model = onnx.load_from_string(content)
    except Exception as error:
        raise UnusableModel("neither a file of ONNX nor of Keras, or a damaged one") from error
    if not model.graph.node:
        raise UnusableModel("neither a file of ONNX nor of Keras, or one without a single node")
    if external:
        raise UnusableModel(
            "its weights are in another file (external data); save it as one file: "
            "onnx.save_model(onnx.load(path), path, save_as_external_data=False)"
        )
    return model


def _refuse_unknown_operators(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        known = node.domain in _DOMAINS and (node.domain not in ("", "ai.onnx") or onnx.defs.has(node.op_type))
        if not known:
            domain = f" of the domain {node.domain}" if node.domain else ""
            raise UnusableModel(
                f"the operator {node.op_type}{domain} ({node.name or node.output[0]}) is unknown to ONNX Runtime"
            )


def _choose_output(graph: onnx.GraphProto, wanted: str | None) -> tuple[str, tuple[Finding, ...]]:
    outputs = [*graph.output]
    names = [value.name for value in outputs]
    if wanted is not None:
        if wanted not in names:
            raise UnusableModel(f"it has no output {wanted!r}; it has {_names(outputs)}")
        return wanted, ()
    # Labels are integers or text, beside the numbers that they come from.
    scores = [value for value in outputs if _may_be_scores(value)]
    if len(scores) == 1:
        text = f"{scores[0].name}, the only one of {_names(outputs)} with numbers for each class"
        return scores[0].name, () if len(outputs) == 1 else (Finding(subject="output", text=text, option="--output"),)
    if PROBABILITIES in names:
        text = f"{PROBABILITIES}, by its name, of {_names(outputs)}"
        return PROBABILITIES, (Finding(subject="output", text=text, option="--output"),)
    raise UnusableModel(f"it has {len(outputs)} outputs ({_names(outputs)}); name the one to serve with --output")


def _may_be_scores(value: onnx.ValueInfoProto) -> bool:
    if value.type.HasField("sequence_type"):
        return True
    kind = value.type.tensor_type.elem_type
    return kind in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.UNDEFINED,
    )


def _may_be_names(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> bool:
    """Whether an output is classes by their names. The number of the largest score is no name."""
    if _may_be_scores(value):
        return False
    made_by = {output: node for node in graph.node for output in node.output}
    node = made_by.get(value.name)
    while node is not None and node.op_type in ("Cast", "Identity", "Reshape", "Squeeze"):
        node = made_by.get(node.input[0])
    return node is None or node.op_type != "ArgMax"


def _labels_of_export(model: onnx.ModelProto) -> tuple[str, ...] | None:
    """The classes that `digits-export` wrote into the file."""
    for entry in model.metadata_props:
        if entry.key == "labels":
            with contextlib.suppress(ValueError):
                names = json.loads(entry.value)
                if isinstance(names, list) and all(isinstance(name, str) for name in names):
                    return tuple(names)
    return None


def _labels_of_classifier(graph: onnx.GraphProto) -> tuple[str, ...] | None:
    """The classes that a classifier of the domain ai.onnx.ml lists, or that its label is picked from."""
    constants = Constants(graph)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("classlabels_ints", "classlabels_int64s") and attribute.ints:
                return tuple(map(str, attribute.ints))
            if attribute.name == "classlabels_strings" and attribute.strings:
                return tuple(text.decode("utf-8", "replace") for text in attribute.strings)
        if node.op_type == "ArrayFeatureExtractor" and (picked := constants.value(node.input[0])) is not None:
            return tuple(each.decode() if isinstance(each, bytes) else str(each) for each in picked.ravel().tolist())
    return None


def _open_session(content: bytes) -> Any:
    try:
        return open_untouched(content)
    except Exception as error:
        raise UnusableModel(f"ONNX Runtime can't run it: {reason_of(error)}") from error


def _names(values: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(f"{value.name} {shape_text(dimensions(value))}" for value in values)
