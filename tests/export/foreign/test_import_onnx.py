"""`digits-import` of ONNX files made elsewhere: each answers as the untouched file does, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from serving.client import Client

H, W = 8, 10
GRAY = np.random.default_rng(1).integers(0, 256, (20, H, W, 1), dtype=np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (20, H, W, 3), dtype=np.uint8)
SIZE = H * W


def _weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def _graph(
    nodes: list[onnx.NodeProto],
    shape: list[object],
    outputs: dict[str, list[object]],
    tensors: dict[str, np.ndarray],
    *,
    name: str = "input.1",
    dtype: int = TensorProto.FLOAT,
    out: int = TensorProto.FLOAT,
    opset: int = 17,
    **options: object,
) -> onnx.ModelProto:
    given = options.pop("inputs", [helper.make_tensor_value_info(name, dtype, shape)])
    returned = [helper.make_tensor_value_info(each, out, dims) for each, dims in outputs.items()]
    returned = options.pop("returned", returned)
    constants = [numpy_helper.from_array(values, each) for each, values in tensors.items()]
    graph = helper.make_graph(nodes, "torch-jit-export", given, returned, constants)
    imports = [helper.make_opsetid("", opset), *options.pop("imports", [])]
    return helper.make_model(graph, opset_imports=imports, producer_name="pytorch", ir_version=8, **options)


def _dense(
    *last: str,
    shape: list[object] | None = None,
    classes: int = 3,
    first: list[onnx.NodeProto] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    **options: object,
) -> onnx.ModelProto:
    """One dense layer over all pixels, in the order of the file's own layout, then the operators `last`."""
    shape = shape or ["N", 1, H, W]
    size = int(np.prod([each for each in shape[1:] if isinstance(each, int)]))
    start = first[-1].output[0] if first else options.get("name", "input.1")
    nodes = [
        *(first or []),
        helper.make_node("Flatten", [start], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["dense"]),
    ]
    for number, operator in enumerate(last):
        axis = {"axis": 1} if operator in ("Softmax", "LogSoftmax") else {}
        nodes.append(helper.make_node(operator, [nodes[-1].output[0]], [f"last{number}"], **axis))
    given = {"w": _weights(size, classes), "b": _weights(classes, seed=1), **(tensors or {})}
    return _graph(nodes, shape, {nodes[-1].output[0]: ["N", classes]}, given, **options)


def _nchw(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2)


def _unit(images: np.ndarray) -> np.ndarray:
    return (images * np.float32(1 / 255)).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _convolution() -> onnx.ModelProto:
    """As PyTorch exports a small network for colour: conv, relu, average, 1 x 1 conv to [batch, classes, 1, 1]."""
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["c1"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["g"]),
        helper.make_node("Conv", ["g", "k2", "b2"], ["scores"], kernel_shape=[1, 1]),
    ]
    tensors = {"k1": _weights(4, 3, 3, 3), "b1": _weights(4), "k2": _weights(5, 4, 1, 1), "b2": _weights(5)}
    return _graph(nodes, ["batch", 3, H, W], {"scores": ["batch", 5, 1, 1]}, tensors, name="x")


def _for_one_image(**options: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Reshape", ["input.1", "sizes"], ["flat"], **options),
        helper.make_node("MatMul", ["flat", "w"], ["19"]),
    ]
    tensors = {"sizes": np.array([1, -1]), "w": _weights(SIZE, 3)}
    return _graph(nodes, [1, 1, H, W], {"19": [1, 3]}, tensors)


def _squeezed() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Squeeze", ["input.1", "axis"], ["image"]),
        helper.make_node("Flatten", ["image"], ["flat"], axis=0),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    tensors = {"axis": np.array([0]), "w": _weights(SIZE, 3)}
    return _graph(nodes, [1, 1, H, W], {"scores": [1, 3]}, tensors)


def _divided_inside() -> onnx.ModelProto:
    first = [helper.make_node("Div", ["input.1", "v255"], ["unit"])]
    return _dense("Softmax", first=first, tensors={"v255": np.array(255, np.float32)})


def _classifier(*, zipped: bool, post_transform: str = "SOFTMAX") -> onnx.ModelProto:
    """As skl2onnx converts a logistic regression: integer labels beside probabilities, mostly as dictionaries."""
    classifier = helper.make_node(
        "LinearClassifier",
        ["input.1"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=_weights(3 * SIZE).tolist(),
        intercepts=[0.1, 0.0, -0.1],
        classlabels_ints=[4, 7, 9],
        post_transform=post_transform,
    )
    zipmap = helper.make_node(
        "ZipMap", ["scores"], ["output_probability"], domain="ai.onnx.ml", classlabels_int64s=[4, 7, 9]
    )
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    if zipped:
        entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        scores = helper.make_value_info("output_probability", helper.make_sequence_type_proto(entry))
    else:
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    imports = [helper.make_opsetid("ai.onnx.ml", 1)]
    nodes = [classifier, *([zipmap] if zipped else [])]
    return _graph(nodes, ["N", SIZE], {}, {}, returned=[label, scores], imports=imports)


def _named_by_text() -> onnx.ModelProto:
    """The label is computed, here by a mapping of numbers to texts."""
    mapping = helper.make_node(
        "LabelEncoder", ["best"], ["name"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=["x", "y", "z"]
    )
    model = _dense("Softmax")
    scores = model.graph.output[0].name
    model.graph.node.extend([helper.make_node("ArgMax", [scores], ["best"], axis=1, keepdims=0), mapping])
    model.graph.output.append(helper.make_tensor_value_info("name", TensorProto.STRING, ["N"]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    return model


def _of_digits_export() -> onnx.ModelProto:
    model = _dense("Softmax")
    helper.set_model_props(model, {"labels": '["a", "b", "c"]'})
    return model


def _with_function() -> onnx.ModelProto:
    """As PyTorch's newer exporter writes modules: a function of the file's own."""
    body = [helper.make_node("MatMul", ["x", "y"], ["z"])]
    function = helper.make_function("their.modules", "Linear", ["x", "y"], ["z"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("Flatten", ["images"], ["logits"]),
        helper.make_node("Linear", ["logits", "w"], ["probabilities"], domain="their.modules"),
    ]
    return _graph(
        nodes,
        ["N", H, W, 1],
        {"probabilities": ["N", 3]},
        {"w": _weights(SIZE, 3)},
        name="images",
        functions=[function],
        imports=[helper.make_opsetid("their.modules", 1)],
    )


def _weights_among_inputs() -> onnx.ModelProto:
    model = _dense()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def _half() -> onnx.ModelProto:
    first = [helper.make_node("Cast", ["input.1"], ["single"], to=TensorProto.FLOAT)]
    return _dense(first=first, dtype=TensorProto.FLOAT16)


def _double() -> onnx.ModelProto:
    model = _dense(dtype=TensorProto.DOUBLE, out=TensorProto.DOUBLE)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    return model


@dataclass(frozen=True, kw_only=True)
class Case:
    """An ONNX file.

    Attributes:
        make: Makes it.
        options: What its user says.
        colour: Whether it takes colour images.
        prepare: From uint8 images to the file's own input.
        finish: From the file's own output to probabilities.
        printed: What the command must say about it.
    """

    make: Callable[[], onnx.ModelProto]
    options: tuple[str, ...] = ("--scale", "1/255")
    colour: bool = False
    prepare: Callable[[np.ndarray], np.ndarray] = lambda images: _nchw(_unit(images))
    finish: Callable[[np.ndarray], np.ndarray] = lambda output: output
    printed: str = ""


TAKEN = {
    "logits, nchw": Case(make=_dense, finish=_softmax, printed="layout         nchw"),
    "softmax, nhwc": Case(make=lambda: _dense("Softmax", shape=[None, H, W, 1]), prepare=_unit, printed="nhwc"),
    "colour, nchw, mean and std a channel": Case(
        make=lambda: _dense("Softmax", shape=["N", 3, H, W]),
        options=("--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
        colour=True,
        prepare=lambda images: _nchw(
            ((_unit(images) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])).astype(np.float32)
        ),
    ),
    "convolution to [batch, classes, 1, 1]": Case(
        make=_convolution,
        colour=True,
        finish=lambda output: _softmax(output[:, :, 0, 0]),
    ),
    "bytes, nchw, colour": Case(
        make=lambda: _dense(
            shape=["N", 3, H, W],
            dtype=TensorProto.UINT8,
            first=[
                helper.make_node("Cast", ["input.1"], ["single"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["single", "scale"], ["unit"]),
            ],
            tensors={"scale": np.array(1 / 255, np.float32)},
        ),
        options=(),
        colour=True,
        prepare=_nchw,
        finish=_softmax,
        printed="since it takes uint8",
    ),
    "divided inside": Case(
        make=_divided_inside,
        options=(),
        prepare=lambda images: _nchw(images).astype(np.float32),
        printed="since the network itself first multiplies by 0.00392",
    ),
    "flattened": Case(
        make=lambda: _dense(shape=["N", SIZE]),
        options=("--scale", "1/255", "--image-size", f"{H}x{W}x1"),
        prepare=lambda images: _unit(images).reshape(len(images), -1),
        finish=_softmax,
    ),
    "flattened channels first": Case(
        make=lambda: _dense(shape=["N", 3 * SIZE]),
        options=("--scale", "1/255", "--image-size", f"{H}x{W}x3", "--layout", "nchw"),
        colour=True,
        prepare=lambda images: _nchw(_unit(images)).reshape(len(images), -1),
        finish=_softmax,
    ),
    "for one image": Case(make=_for_one_image, finish=_softmax),
    "for one image, from PyTorch's newer exporter": Case(make=lambda: _for_one_image(allowzero=1), finish=_softmax),
    "names like ours, and a function": Case(make=_with_function, prepare=_unit, finish=_softmax),
    "labels in its metadata": Case(
        make=_of_digits_export, printed="labels         a, b, c, from the file; --labels overrides"
    ),
    "weights among inputs": Case(make=_weights_among_inputs, finish=_softmax),
    "opset 8": Case(make=lambda: _dense("Softmax", opset=8)),
    "half precision": Case(make=_half, prepare=lambda images: _nchw(_unit(images)).astype(np.float16), finish=_softmax),
    "double precision": Case(
        make=_double, prepare=lambda images: _nchw(_unit(images)).astype(np.float64), finish=_softmax
    ),
    "log softmax": Case(make=lambda: _dense("LogSoftmax"), finish=np.exp),
    "softmax written out": Case(make=lambda: _dense("Softmax", "Relu"), printed="since they add up to 1"),
    "sigmoids": Case(make=lambda: _dense("Sigmoid"), finish=lambda output: output / output.sum(axis=1, keepdims=True)),
    "one logit": Case(
        make=lambda: _dense(classes=1),
        options=("--scale", "1/255", "--logits"),
        finish=lambda output: np.concatenate([1 / (1 + np.exp(output)), 1 / (1 + np.exp(-output))], axis=1),
    ),
    "bounded logits": Case(
        make=lambda: _dense("Sigmoid", "Relu"), options=("--scale", "1/255", "--logits"), finish=_softmax
    ),
    "classifier of skl2onnx": Case(
        make=lambda: _classifier(zipped=False),
        options=("--scale", "1/255", "--image-size", f"{H}x{W}x1"),
        prepare=lambda images: _unit(images).reshape(len(images), -1),
        printed="labels         4, 7, 9, from the file",
    ),
    "margins of a classifier": Case(
        make=lambda: _classifier(zipped=False, post_transform="NONE"),
        options=("--scale", "1/255", "--image-size", f"{H}x{W}x1", "--logits"),
        prepare=lambda images: _unit(images).reshape(len(images), -1),
        finish=_softmax,
        printed="scores, the only one of label [batch], scores [batch, 3] with numbers for each class",
    ),
    "classifier with dictionaries": Case(
        make=lambda: _classifier(zipped=True),
        options=("--scale", "1/255", "--image-size", f"{H}x{W}x1"),
        prepare=lambda images: _unit(images).reshape(len(images), -1),
        finish=lambda rows: np.array([[row[4], row[7], row[9]] for row in rows]),
        printed="labels         4, 7, 9, from the file",
    ),
}


def digits_import(path: Path, repository: Path, *options: object) -> Result:
    from export.import_command import main

    return CliRunner().invoke(main, [str(path), "--repository", str(repository), *map(str, options)])


def _name(case: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in case).strip("_")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Result], dict[str, Path]]:
    """All files, imported into one repository, and what the command printed."""
    root, results, paths = tmp_path_factory.mktemp("imported"), {}, {}
    for name, case in TAKEN.items():
        paths[name] = root / f"{_name(name)}.onnx"
        onnx.save(case.make(), paths[name])
        results[name] = digits_import(paths[name], root / "models", *case.options)
    return root / "models", results, paths


@pytest.fixture(scope="module")
def address(imported: tuple, start_server: Callable) -> Iterator[str]:
    with start_server("--repository", str(imported[0])) as server:
        yield server.address


def _untouched(path: Path, values: np.ndarray, output: str | None = None) -> object:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = output or session.get_outputs()[-1].name
    rows = [session.run([wanted], {session.get_inputs()[0].name: values[i : i + 1]})[0] for i in range(len(values))]
    return [row[0] for row in rows] if isinstance(rows[0], list) else np.concatenate(rows)


@pytest.mark.parametrize("name", TAKEN)
def test_a_file_is_served_and_answers_as_the_untouched_file_does(name: str, imported: tuple, address: str) -> None:
    case, (_, results, paths) = TAKEN[name], imported
    assert results[name].exit_code == 0, results[name].output
    assert case.printed in results[name].stdout
    images = COLOUR if case.colour else GRAY
    expected = case.finish(_untouched(paths[name], case.prepare(images)))
    with Client(address, model_name=_name(name)) as client:
        answer = client.classify(images, probabilities=True)
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
    assert np.array_equal(answer.labels, np.argmax(expected, axis=1))


def _external(folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save_model(_dense(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def _two_inputs() -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("left", "right")]
    return _graph([helper.make_node("Add", ["left", "right"], ["sum"])], [], {"sum": ["N", 3]}, {}, inputs=inputs)


def _two_outputs() -> onnx.ModelProto:
    model = _dense("Softmax")
    model.graph.output.append(helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["N", 3]))
    return model


def _recurrent() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Transpose", ["input.1"], ["rows"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["rows", "w", "r"], ["", "last"], hidden_size=3, name="lstm_7"),
        helper.make_node("Squeeze", ["last", "axis"], ["out"]),
    ]
    tensors = {"w": _weights(1, 12, W), "r": _weights(1, 12, 3), "axis": np.array([0])}
    return _graph(nodes, ["N", H, W], {"out": ["N", 3]}, tensors)


def _custom_operator() -> onnx.ModelProto:
    node = helper.make_node("Deform", ["input.1"], ["warped"], domain="their.kernels", name="warp")
    return _dense(first=[node], imports=[helper.make_opsetid("their.kernels", 1)])


def _mixes_images() -> onnx.ModelProto:
    """Subtracts the mean over the batch: right for one image, wrong for several."""
    first = [
        helper.make_node("ReduceMean", ["input.1"], ["mean"], axes=[0]),
        helper.make_node("Mul", ["mean", "half"], ["half_mean"]),
        helper.make_node("Sub", ["input.1", "half_mean"], ["centred"]),
    ]
    tensors = {"half": np.array(0.5, np.float32)}
    return _dense("Softmax", first=first, tensors=tensors, shape=[1, 1, H, W])


def _bounded() -> onnx.ModelProto:
    nodes = [helper.make_node("Clip", ["dense", "zero", "one"], ["clipped"])]
    model = _dense(tensors={"zero": np.array(0, np.float32), "one": np.array(1, np.float32)})
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "clipped"
    return model


SCALED = ("--scale", "1/255")
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], str]] = {
    "two inputs": (_two_inputs, (), "it has 2 inputs (left [batch, 3], right [batch, 3])"),
    "two outputs": (_two_outputs, SCALED, "name the one to serve with --output"),
    "unknown output": (_two_outputs, ("--output", "x"), "it has no output 'x'; it has last0 [batch, 3], dense"),
    "margins that need not be logits": (
        lambda: _classifier(zipped=False, post_transform="NONE"),
        (*SCALED, "--image-size", f"{H}x{W}x1"),
        "its last layer is a LinearClassifier: its values do not add up to 1",
    ),
    "names from nowhere": (_named_by_text, SCALED, "its output name names the class of an image, but where the names"),
    "one number": (lambda: _dense(classes=1), SCALED, "its output is one number, which may measure anything"),
    "recurrent": (_recurrent, SCALED, "the operator LSTM (lstm_7) is recurrent over time"),
    "custom operator": (_custom_operator, SCALED, "the operator Deform of the domain their.kernels (warp) is unknown"),
    "unknown operator": (
        lambda: _dense(first=[helper.make_node("Erfc", ["input.1"], ["e"], name="gelu")]),
        SCALED,
        "the operator Erfc (gelu) is unknown",
    ),
    "batch fixed at 8": (lambda: _dense(shape=[8, 1, H, W]), SCALED, "its batch is fixed at 8 (the input input.1)"),
    "unknown range": (_dense, (), "it takes float32 values, and nothing in it says which"),
    "either layout": (lambda: _dense(shape=["N", 3, H, 3]), SCALED, "name it with --layout nhwc or --layout nchw"),
    "another layout": (_dense, (*SCALED, "--layout", "nhwc"), "no batch of images with one or three channels in the"),
    "five dimensions": (lambda: _dense(shape=["N", 1, 1, H, W]), SCALED, "which is no batch of images"),
    "signed bytes": (
        lambda: _dense(first=[helper.make_node("Cast", ["input.1"], ["c"], to=1)], dtype=TensorProto.INT8),
        (),
        "it takes int8 values, which are no pixels",
    ),
    "means of three channels": (_dense, ("--mean", "1,2,3"), "--mean has 3 numbers, but images have 1 channels"),
    "logits that add up to one": (lambda: _dense("Softmax", "Relu"), (*SCALED, "--logits"), "so it is no logits"),
    "bounded values": (_bounded, SCALED, "its last layer is a Clip: its values do not add up to 1"),
    "not finite": (lambda: _dense("Log"), SCALED, "its own outputs are not all finite numbers"),
    "data of another size": (_dense, (*SCALED, "--data", "synthetic"), "but the data's images are 28x28x1"),
    "for one image only": (
        _squeezed,
        SCALED,
        "its batch is fixed at 1, and it can't be made to take any",
    ),
    "a graph that can't run": (
        lambda: _dense(first=[helper.make_node("Reshape", ["input.1", "b"], ["r"])]),
        SCALED,
        "ONNX Runtime can't run it: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_can_not_be_served_is_refused_with_its_sentence(name: str, tmp_path: Path) -> None:
    make, options, sentence = REFUSED[name]
    path = tmp_path / "m.onnx"
    onnx.save(make(), path)
    _assert_refused(path, digits_import(path, tmp_path / "models", *options), sentence)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_external, "its weights are in another file (external data)"),
        (lambda folder: Path(__file__), "neither a file of ONNX nor of Keras"),
        (lambda folder: folder, "a directory without saved_model.pb"),
    ],
)
def test_what_is_no_single_onnx_file_is_refused(make: Callable, sentence: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    _assert_refused(path, digits_import(path, tmp_path / "models", *SCALED), sentence)


def _assert_refused(path: Path, result: Result, sentence: str) -> None:
    assert result.exit_code == 1, result.output
    assert sentence in result.stderr
    assert result.stderr.startswith(f"Error: {path}: ")
    assert result.stderr.count("\n") == 1


def test_a_graph_that_mixes_the_images_of_a_batch_does_not_pass_the_gate(tmp_path: Path) -> None:
    onnx.save(_mixes_images(), tmp_path / "m.onnx")
    result = digits_import(tmp_path / "m.onnx", tmp_path / "models", *SCALED)
    assert result.exit_code == 1
    assert "parity not proven, nothing published: " in result.stderr
    assert not (tmp_path / "models").exists()
