"""`digits-import` of what people made with Keras: each answers as Keras does, or is refused with its sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from keras import layers

from serving.client import Client
from serving.repository.repository import Repository

pytestmark = pytest.mark.slow

SIDE = 12
IMAGES = np.random.default_rng(3).integers(0, 256, (20, SIDE, SIDE, 1), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model as somebody made it.

    Attributes:
        make: Builds it.
        options: What its user says.
        prepare: From uint8 images to what Keras's predict takes.
        finish: From what predict returns to probabilities.
        save: Saves it below a directory; returns the path to import.
        printed: What the command must say about it.
    """

    make: Callable[[], keras.Model]
    options: tuple[str, ...] = ()
    prepare: Callable[[np.ndarray], np.ndarray] = lambda images: images
    finish: Callable[[np.ndarray], np.ndarray] = lambda output: output
    save: Callable[[keras.Model, Path], Path] = lambda network, folder: _saved(network, folder / "m.keras")
    printed: str = ""


def _saved(network: keras.Model, path: Path) -> Path:
    network.save(path)
    return path


def _exported(network: keras.Model, folder: Path) -> Path:
    network.export(folder / "saved_model", verbose=False)
    return folder / "saved_model"


def _images(dtype: str = "uint8", shape: tuple[int | None, ...] = (SIDE, SIDE, 1)) -> keras.KerasTensor:
    return layers.Input(shape, dtype=dtype)


def _body() -> list[keras.Layer]:
    return [layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten()]


def _head(classes: int = 4, activation: str | None = "softmax", **options: object) -> keras.Layer:
    return layers.Dense(classes, activation=activation, **options)


def _chain(*between: keras.Layer, head: keras.Layer | None = None, images: object = None) -> keras.Sequential:
    images = _images() if images is None else images
    network = keras.Sequential([images, layers.Rescaling(1 / 255), *(between or _body()), head or _head()])
    for layer in network.layers:  # moving averages that matter
        if isinstance(layer, layers.BatchNormalization):
            generator = np.random.default_rng(0)
            layer.set_weights([generator.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return network


def _residual() -> keras.Model:
    images = _images()
    scaled = layers.Rescaling(1 / 127.5, offset=-1)(images)
    values = layers.Conv2D(4, 3, padding="same", activation="relu")(scaled)
    branch = layers.BatchNormalization()(layers.SeparableConv2D(4, 3, padding="same")(values))
    pooled = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([values, branch])))
    return keras.Model(images, _head()(pooled))


def _adapted(**options: object) -> keras.Sequential:
    normalization = layers.Normalization(**options)
    normalization.adapt(IMAGES)
    return keras.Sequential([_images("float32"), normalization, *_body(), _head()])


def _with_policy(policy: str) -> keras.Sequential:
    keras.config.set_dtype_policy(policy)
    try:
        return _chain(*_body(), head=_head(dtype="float32"))
    finally:
        keras.config.set_dtype_policy("float32")


def _quantised() -> keras.Sequential:
    network = _chain(*_body(), layers.Dense(8, activation="relu"))
    network.quantize("int8")
    return network


def _dictionaries() -> keras.Model:
    images = layers.Input((SIDE, SIDE, 1), dtype="uint8", name="image")
    features = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    return keras.Model({"image": images}, {"kind": _head(name="a_layer")(features), "all": features})


def _two_outputs() -> keras.Model:
    images = _images()
    features = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    return keras.Model(images, [_head(name="kind")(features), layers.Dense(2, name="place")(features)])


def _as_float(images: np.ndarray) -> np.ndarray:
    return (images / 255).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _two_classes(chance: np.ndarray) -> np.ndarray:
    return np.concatenate([1 - chance, chance], axis=1)


def _weights_alone(network: keras.Model, folder: Path) -> Path:
    network.save_weights(folder / "m.weights.h5")
    return folder / "m.weights.h5"


def _catalogue() -> keras.Sequential:
    from training.architectures import ARCHITECTURES

    return ARCHITECTURES["mnist_convnet"].build((SIDE, SIDE, 1), 4)


TAKEN = {
    "sequential": Case(make=_chain, printed="layout         nhwc"),
    "functional with branches": Case(make=_residual),
    "float pixels divided inside": Case(
        make=lambda: _chain(images=_images("float32")), printed="since the network itself first multiplies by 0.00392"
    ),
    "float pixels divided outside": Case(
        make=lambda: keras.Sequential([_images("float32"), *_body(), _head()]),
        options=("--scale", "1/255"),
        prepare=_as_float,
    ),
    "standardised outside": Case(
        make=lambda: keras.Sequential([_images("float32"), *_body(), _head()]),
        options=("--mean", "0.1307", "--std", "0.3081"),
        prepare=lambda images: (_as_float(images) - np.float32(0.1307)) / np.float32(0.3081),
        printed="divided by 255 before --mean and --std",
    ),
    "no channel axis, flattened first": Case(
        make=lambda: keras.Sequential([_images("float32", (SIDE, SIDE)), layers.Flatten(), layers.Dense(5), _head()]),
        options=("--scale", "1/255"),
        prepare=lambda images: _as_float(images)[..., 0],
    ),
    "flattened by its user": Case(
        make=lambda: keras.Sequential([_images("float32", (SIDE * SIDE,)), layers.Dense(5, "relu"), _head()]),
        options=("--scale", "1/255"),
        prepare=lambda images: _as_float(images).reshape(len(images), -1),
        printed="12 x 12, gray",
    ),
    "channels first": Case(
        make=lambda: keras.Sequential(
            [
                _images(shape=(1, SIDE, SIDE)),
                layers.Rescaling(1 / 255),
                layers.Permute((2, 3, 1)),
                layers.Conv2D(3, 3),
                layers.Permute((3, 1, 2)),
                layers.Flatten(data_format="channels_first"),
                _head(),
            ]
        ),
        prepare=lambda images: images.transpose(0, 3, 1, 2),
        printed="layout         nchw",
    ),
    "channels first within": Case(
        make=lambda: _chain(
            layers.Conv2D(3, 3), layers.Permute((3, 1, 2)), layers.GlobalAveragePooling2D(data_format="channels_first")
        )
    ),
    "open size": Case(
        make=lambda: _chain(
            layers.Conv2D(3, 3, activation="relu"), layers.GlobalMaxPooling2D(), images=_images(shape=(None, None, 1))
        ),
        options=("--image-size", f"{SIDE}x{SIDE}x1"),
    ),
    "adapted normalization": Case(make=_adapted, prepare=lambda images: images.astype(np.float32)),
    "normalization of 0 to 1": Case(
        make=lambda: keras.Sequential(
            [_images("float32"), layers.Normalization(mean=0.13, variance=0.09), *_body(), _head()]
        ),
        prepare=_as_float,
        printed="divided by 255, since the network itself first multiplies by 3.33",
    ),
    "augmentation": Case(make=lambda: _chain(layers.RandomTranslation(0.3, 0.3), layers.RandomRotation(0.5), *_body())),
    "nested augmentation": Case(
        make=lambda: _chain(
            keras.Sequential([layers.RandomFlip(), layers.RandomZoom(0.4), layers.RandomContrast(0.5)]), *_body()
        )
    ),
    "noise, dropout and batch normalisation nested": Case(
        make=lambda: _chain(
            layers.GaussianNoise(1.0),
            keras.Sequential([layers.Conv2D(3, 3), layers.BatchNormalization(), layers.SpatialDropout2D(0.5)]),
            layers.Flatten(),
            layers.AlphaDropout(0.5),
        )
    ),
    "gelu": Case(make=lambda: _chain(*_body(), layers.Dense(8, activation="gelu"))),
    "layer normalisation and PReLU after a Flatten": Case(
        make=lambda: _chain(*_body(), layers.LayerNormalization(), layers.PReLU("random_normal"))
    ),
    "logits": Case(make=lambda: _chain(head=_head(activation=None)), finish=_softmax, printed="output         logits;"),
    "softmax layer": Case(make=lambda: _chain(*_body(), layers.Dense(4), head=layers.Softmax()), printed="a softmax;"),
    "activation layer, no bias": Case(
        make=lambda: _chain(*_body(), layers.Dense(4, use_bias=False), head=layers.Activation("softmax"))
    ),
    "convolutional head": Case(
        make=lambda: _chain(layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), head=layers.Softmax())
    ),
    "log softmax": Case(make=lambda: _chain(head=_head(activation="log_softmax")), finish=np.exp),
    "one sigmoid": Case(
        make=lambda: _chain(head=_head(1, "sigmoid")),
        options=("--labels", "round,square"),
        finish=_two_classes,
        printed="one sigmoid unit",
    ),
    "one logit": Case(
        make=lambda: _chain(head=_head(1, None)),
        options=("--logits",),
        finish=lambda x: _two_classes(1 / (1 + np.exp(-x))),
        printed="one logit",
    ),
    "several sigmoids": Case(
        make=lambda: _chain(head=_head(activation="sigmoid")),
        finish=lambda output: output / output.sum(axis=1, keepdims=True),
        printed="independent of each other",
    ),
    "float64 head": Case(make=lambda: _chain(head=_head(dtype="float64"))),
    "mixed float16": Case(make=lambda: _with_policy("mixed_float16"), printed="float32 instead of the float16"),
    "mixed bfloat16": Case(make=lambda: _with_policy("mixed_bfloat16"), printed="float32 instead of the bfloat16"),
    "quantised": Case(make=_quantised),
    "one of two outputs": Case(make=_two_outputs, options=("--output", "kind"), finish=lambda outputs: outputs[0]),
    "dictionaries": Case(make=_dictionaries, options=("--output", "kind"), finish=lambda outputs: outputs["kind"]),
    "h5": Case(make=_chain, save=lambda network, folder: _saved(network, folder / "m.h5")),
    "SavedModel": Case(make=_residual, save=_exported),
    "weights of the catalogue": Case(
        make=_catalogue,
        options=("--architecture", "mnist_convnet", "--image-size", f"{SIDE}x{SIDE}x1", "--labels", "a,b,c,d"),
        save=_weights_alone,
        printed="network        mnist_convnet of the catalogue",
    ),
}
# float16 and bfloat16 round to 11 and 8 bits, which is why we do not serve them.
TOLERANCE = {"mixed float16": 2e-2, "mixed bfloat16": 0.1}


def digits_import(path: Path, repository: Path, *options: str) -> Result:
    """Runs the command in this process: to start TensorFlow anew for each would take most of the time."""
    from export.import_command import main

    return CliRunner().invoke(main, [str(path), "--repository", str(repository), *options])


def _name(case: str) -> str:
    return case.replace(" ", "_").replace(",", "")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Result], dict[str, np.ndarray]]:
    """All models in one repository, what the command printed, and the probabilities that Keras gives."""
    root, results, expected = tmp_path_factory.mktemp("imported"), {}, {}
    for name, case in TAKEN.items():
        keras.utils.set_random_seed(7)
        network = case.make()
        folder = root / "brought" / _name(name)
        folder.mkdir(parents=True)
        path = case.save(network, folder)
        results[name] = digits_import(path, root / "models", "--name", _name(name), *case.options)
        expected[name] = case.finish(network.predict(case.prepare(IMAGES), verbose=0))
    return root / "models", results, expected


@pytest.fixture(scope="module")
def address(imported: tuple, start_server: Callable) -> Iterator[str]:
    with start_server("--repository", str(imported[0])) as server:
        yield server.address


@pytest.mark.parametrize("name", TAKEN)
def test_a_model_of_keras_is_served_and_answers_as_keras_does(name: str, imported: tuple, address: str) -> None:
    _, results, expected = imported
    result = results[name]
    assert result.exit_code == 0, result.output
    assert TAKEN[name].printed in result.stdout
    assert "260 of 260" in result.stdout
    with Client(address, model_name=_name(name)) as client:
        answer = client.classify(IMAGES, probabilities=True)
        model = client.get_model()
    np.testing.assert_allclose(answer.probabilities, expected[name], atol=TOLERANCE.get(name, 1e-5))
    assert (model.height, model.width, model.channels) == (SIDE, SIDE, 1)
    assert model.preparation == "resize"


@pytest.mark.parametrize("name", TAKEN)
def test_no_shape_is_computed_in_the_served_graph(name: str, imported: tuple) -> None:
    """CUDA has no such operators, and a server that is told to use CUDA runs nothing on the CPU."""
    graph = onnx.load(imported[0] / _name(name) / "1" / "model.onnx").graph
    assert not {"Shape", "Gather", "Slice"} & {node.op_type for node in graph.node}


@keras.saving.register_keras_serializable(package="theirs")
class Halved(layers.Layer):
    """A class of the user's own, which is unknown where the model is imported."""

    def call(self, values: object) -> object:
        return values * 0.5


@keras.saving.register_keras_serializable(package="theirs")
class WithoutOperator(layers.Layer):
    """Computes what ONNX has no operator for; known where the model is imported."""

    def call(self, values: object) -> object:
        return keras.ops.erfinv(values)


def _unregistered(folder: Path) -> Path:
    path = _saved(_chain(Halved(name="mine"), *_body()), folder / "m.keras")
    del keras.saving.get_custom_objects()["theirs>Halved"]
    return path


def _two_inputs(folder: Path) -> Path:
    first, second = layers.Input((4, 4, 1), name="left"), layers.Input((4, 4, 1), name="right")
    features = layers.Flatten()(layers.Concatenate()([first, second]))
    return _saved(keras.Model([first, second], _head()(features)), folder / "m.keras")


def _keras_file(*arguments: object, **options: object) -> Callable[[Path], Path]:
    return lambda folder: _saved(_chain(*arguments, **options), folder / "m.keras")


def _written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


REFUSED = {
    "recurrent": (
        lambda folder: _saved(_chain(layers.Reshape((SIDE, SIDE)), layers.LSTM(3, name="rows")), folder / "m.keras"),
        (),
        "the layer rows (LSTM) is recurrent over time",
    ),
    "two inputs": (_two_inputs, (), "it has 2 inputs (left"),
    "two outputs": (
        lambda folder: _saved(_two_outputs(), folder / "m.keras"),
        (),
        "name the one to serve with --output",
    ),
    "unknown output": (
        lambda folder: _saved(_two_outputs(), folder / "m.keras"),
        ("--output", "neither"),
        "it has no output 'neither'; it has kind, place",
    ),
    "class of its author": (_unregistered, (), "its class Halved is code of its author"),
    "lambda": (
        lambda folder: _saved(_chain(layers.Lambda(lambda x: x, name="own"), *_body()), folder / "m.keras"),
        (),
        "the layer own is a Lambda",
    ),
    "operator that ONNX lacks": (
        lambda folder: _saved(_chain(WithoutOperator(name="odd"), *_body()), folder / "m.keras"),
        (),
        "the operation Erfinv (sequential",
    ),
    "fixed batch": (
        lambda folder: _saved(_chain(images=layers.Input(batch_shape=(8, SIDE, SIDE, 1))), folder / "m.keras"),
        (),
        "its batch is fixed at 8",
    ),
    "unknown range": (
        lambda folder: _saved(keras.Sequential([_images("float32"), *_body(), _head()]), folder / "m.keras"),
        (),
        "--scale 1/255",
    ),
    "range of a batch normalisation that saw no images": (
        lambda folder: _saved(
            keras.Sequential([_images("float32"), layers.BatchNormalization(), *_body(), _head()]), folder / "m.keras"
        ),
        (),
        "--scale 1/255",
    ),
    "open size": (
        lambda folder: _saved(
            _chain(layers.GlobalMaxPooling2D(), images=_images(shape=(None, None, 1))), folder / "m.keras"
        ),
        (),
        "which leaves the size open; name it with --image-size",
    ),
    "wrong number of labels": (_keras_file(), ("--labels", "a,b,c"), "--labels names 3 classes, but its output has 4"),
    "label twice": (_keras_file(), ("--labels", "a,b,b,c"), "--labels names a class twice"),
    "another size": (_keras_file(), ("--image-size", "8x8x1"), "but --image-size says 8x8x1"),
    "bytes scaled": (_keras_file(), ("--scale", "1/255"), "takes uint8 pixels as they are; leave out --scale"),
    "softmax as logits": (_keras_file(), ("--logits",), "its last layer is a Softmax, so its output is no logits"),
    "not one number a class": (
        lambda folder: _saved(keras.Sequential([_images(), layers.Rescaling(1 / 255)]), folder / "m.keras"),
        (),
        "its output is [batch, 12, 12, 1], not one number for each class",
    ),
    "no image": (
        lambda folder: _saved(keras.Sequential([keras.Input((5,)), _head()]), folder / "m.keras"),
        (),
        "its input is [batch, 5]; if that is a flattened image",
    ),
    "four channels": (
        lambda folder: _saved(_chain(images=_images(shape=(SIDE, SIDE, 4))), folder / "m.keras"),
        (),
        "no batch of images with one or three channels",
    ),
    "weights alone": (
        lambda folder: _weights_alone(_catalogue(), folder),
        (),
        "name one of the catalogue with --architecture",
    ),
    "weights of another network": (
        lambda folder: _weights_alone(_catalogue(), folder),
        ("--architecture", "convnet_one_layer"),
        "not the weights of convnet_one_layer: A total of",
    ),
    "torn file": (_written("m.keras", b"PK\x03\x04 and nothing else"), (), "not a file of Keras, or a truncated one"),
    "not Keras": (_written("m.keras", b"nonsense"), (), "not a file of Keras, or a truncated one"),
    "PyTorch's": (_written("m.pt", b"PK\x03\x04 and nothing else"), (), "export it with torch.onnx.export"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_can_not_be_served_is_refused_with_its_sentence(name: str, tmp_path: Path) -> None:
    make, options, sentence = REFUSED[name]
    path = make(tmp_path)
    result = digits_import(path, tmp_path / "models", *options)
    assert result.exit_code == 1, result.output
    assert sentence in result.stderr
    assert result.stderr.startswith(f"Error: {path}: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_the_manifest_tells_the_origin(imported: tuple) -> None:
    manifest = Repository(imported[0]).load(_name("float pixels divided outside"), 1).manifest
    assert manifest.accuracy is None
    assert manifest.training["data"]["source"] == "drawn"
    assert manifest.training["data"]["test_images"] == 260
    origin = manifest.training["origin"]
    assert (origin["kind"], origin["file"], origin["scale"], origin["output"]) == (
        "Keras",
        "m.keras",
        1 / 255,
        "softmax",
    )
    assert manifest.versions["tf2onnx"]
    assert str(imported[0].parent) not in manifest.to_json()
