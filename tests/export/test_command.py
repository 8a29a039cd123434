"""`digits-export`: publishes what is proven, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from keys import KeyPair, make_key_pair

from serving.errors import ModelRejected
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import Canary, Labels
from serving.repository.repository import Repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key_pair(tmp_path_factory.mktemp("keys"), "key")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, digits_export: Callable, key: KeyPair) -> Path:
    """A repository with two versions: one published and signed by the command, and the same again unsigned."""
    root = tmp_path_factory.mktemp("models")
    done = digits_export("--repository", root, "--sign", key.private)
    assert done.exit_code == 0, done.output
    assert f"published {root / 'mnist_convnet' / '1'}" in done.output
    assert "1,000 of 1,000" in done.output
    stored = Repository(root, trusted_keys=[key.public]).load("mnist_convnet", 1)
    assert Repository(root).publish(stored.content, stored.manifest) == 2
    return root


def test_the_same_network_is_not_published_twice(repository: Path, digits_export: Callable, key: KeyPair) -> None:
    done = digits_export("--repository", repository)
    assert (done.exit_code, done.stdout) == (0, f"already published as {repository / 'mnist_convnet' / '2'}\n")
    done = digits_export("--repository", repository, "--sign", key.private)
    assert f"; not signed now: digits-models sign mnist_convnet 2 --key KEY --repository {repository}" in done.stdout
    assert not (repository / "mnist_convnet" / "2" / "model.sig").exists()
    assert Repository(repository).versions("mnist_convnet") == [1, 2]


def test_a_plain_export_says_that_a_pinned_version_stays_stable(
    repository: Path, digits_export: Callable, tmp_path: Path
) -> None:
    models = Repository(tmp_path / "models")
    shutil.copytree(repository / "mnist_convnet" / "1", models.root / "mnist_convnet" / "1")
    RepositoryEditor(models).set_stable("mnist_convnet", 1)
    manifest = models.root / "mnist_convnet" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model_sha256": "', '"model_sha256": "other'))
    done = digits_export("--repository", models.root)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(
        "mnist_convnet: stable stays at version 1; to answer with version 2: "
        f"digits-models label mnist_convnet stable 2 --repository {models.root}\n"
    )


def test_the_published_version_can_be_loaded_and_tells_its_origin(repository: Path, synthetic_run: Path) -> None:
    stored = Repository(repository).load("mnist_convnet", 2)
    record = json.loads((synthetic_run / "metrics.json").read_text())
    assert stored.manifest.training["model_sha256"] == record["model_sha256"]
    assert stored.manifest.training["recipe"]["epochs"] == 2
    assert stored.manifest.input.shape == (28, 28, 1)
    assert stored.manifest.accuracy.keras == pytest.approx(record["test"]["accuracy"], abs=1e-6)
    assert stored.manifest.versions["tf2onnx"]
    answered = stored.manifest.validation
    assert (answered.images, len(answered.labels), answered.no_digit) == (600, 10, None)
    assert sum(answered.labels) == pytest.approx(1)
    assert 0.9 < answered.confidence < 1
    assert [path.name for path in (repository / "mnist_convnet").iterdir() if path.name.startswith(".")] == []


def test_a_failed_gate_publishes_nothing_and_shows_the_worst(digits_export: Callable, tmp_path: Path) -> None:
    done = digits_export("--repository", tmp_path / "m", "--limit", "1e-12")
    assert done.exit_code == 1
    assert "nothing published: a probability differs by" in done.stderr
    assert done.stdout.count("image ") == 10
    assert not (tmp_path / "m").exists()


def test_a_network_at_chance_level_is_not_published(
    repository: Path, synthetic_run: Path, digits_export: Callable, tmp_path: Path
) -> None:
    run, root = tmp_path / "run", tmp_path / "models"
    shutil.copytree(synthetic_run, run)
    shutil.copytree(repository, root)
    _replace_network(run, (28, 28, 1), 10, keras.layers.Rescaling(0.0))
    asked, model = ("--repository", root), run / "model.keras"
    refused = digits_export(*asked, model=model)
    assert refused.exit_code == 1
    assert "100 of 1,000 test images are right, which is not clearly better than chance" in refused.stderr
    refused = digits_export(*asked, "--min-accuracy", 0, model=model)
    assert refused.exit_code == 1
    assert "worse than version 2, which it would replace: 10.00% against 9" in refused.stderr
    assert Repository(root).versions("mnist_convnet") == [1, 2]


def test_verify_renews_the_proof_of_a_published_version(
    repository: Path, digits_export: Callable, key: KeyPair
) -> None:
    manifest = repository / "mnist_convnet" / "1" / "manifest.json"
    document = json.loads(manifest.read_text())
    figures = document["parity"].pop("CPUExecutionProvider")
    document["parity"]["CUDAExecutionProvider"] = figures
    manifest.write_text(json.dumps(document))
    done = digits_export("--repository", repository, "--verify", 1)
    assert done.exit_code == 0, done.output
    parity = json.loads(manifest.read_text())["parity"]
    assert set(parity) == {"CPUExecutionProvider", "CUDAExecutionProvider"}
    assert "its signature no longer holds, since its manifest was changed; sign it again: digits-models" in done.stdout
    signed = Repository(repository, trusted_keys=[key.public])
    with pytest.raises(ModelRejected, match=r"manifest\.json: was changed after the version was signed"):
        signed.load("mnist_convnet", 1)
    done = digits_export("--repository", repository, "--verify", 1, "--sign", key.private)
    assert "signature" not in done.stdout
    assert signed.load("mnist_convnet", 1)
    assert Repository(repository).versions("mnist_convnet") == [1, 2]


def test_cuda_can_not_be_proven_where_it_does_not_run(digits_export: Callable, tmp_path: Path) -> None:
    done = digits_export("--repository", tmp_path / "m", "--provider", "cuda")
    if done.exit_code == 0:
        pytest.skip("CUDA runs here")
    assert ".[gpu]" in done.stderr or "driver" in done.stderr
    assert not (tmp_path / "m").exists()


def test_the_new_version_gets_the_label_that_was_asked_for(
    repository: Path, digits_export: Callable, tmp_path: Path
) -> None:
    models = Repository(tmp_path / "models")
    shutil.copytree(repository, models.root)

    def export(*options: str, code: int = 0) -> str:
        result = digits_export("--repository", models.root, *options)
        assert result.exit_code == code, result.output
        return result.output

    printed = export("--label", "canary", "--share", "0.25")
    assert "mnist_convnet: stable is version 2; canary is version 3 with 25 % of the calls" in printed
    assert models.read_labels("mnist_convnet") == Labels(stable=2, canary=Canary(version=3, share=0.25))
    assert "stable is version 4; canary is version 3" in export("--label", "stable")
    labels = Labels(stable=4, canary=Canary(version=3, share=0.25), previous=2)
    assert models.read_labels("mnist_convnet") == labels
    assert "nothing published" in export("--label", "stable", "--limit", "1e-12", code=1)
    assert models.read_labels("mnist_convnet") == labels
    assert models.versions("mnist_convnet") == [1, 2, 3, 4]


def test_a_canary_is_never_the_newest_version_without_a_label(repository: Path, tmp_path: Path) -> None:
    """A server may look at any moment: at none may it take the canary for current."""
    for turn in range(10):
        models = Repository(tmp_path / str(turn))
        shutil.copytree(repository, models.root)
        stored = models.load("mnist_convnet", 2)
        looking, stop, current = threading.Event(), threading.Event(), set()

        def look(models: Repository, looking: threading.Event, stop: threading.Event, current: set) -> None:
            while not stop.is_set():
                versions = models.versions("mnist_convnet")
                current.add(models.read_labels("mnist_convnet").current(versions))
                looking.set()

        reader = threading.Thread(target=look, args=(models, looking, stop, current))
        reader.start()
        try:
            assert looking.wait(30)
            assert RepositoryEditor(models).publish(stored.content, stored.manifest, label="canary")[0] == 3
        finally:
            stop.set()
            reader.join()
        assert current == {2}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--label", "canary"), 1, "there can be no canary, because no other version can be served"),
        (("--label", "beta"), 2, "'beta' is not one of"),
        (("--label", "stable", "--share", "0.1"), 2, "--share needs --label canary"),
        (("--share", "0.1"), 2, "--share needs --label canary"),
        (("--label", "stable", "--verify", "1"), 2, "--verify publishes nothing"),
        (("--min-accuracy", "0", "--verify", "1"), 2, "--verify publishes nothing"),
        (("--allow-worse", "--verify", "1"), 2, "--verify publishes nothing"),
        (("--label", "canary", "--share", "2"), 2, "is not in the range"),
    ],
)
def test_a_label_that_can_not_be_given_is_refused_before_the_work(
    digits_export: Callable, tmp_path: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    result = digits_export("--repository", tmp_path / "models", *options)
    assert result.exit_code == code
    assert said in result.output
    assert "Keras" not in result.output
    assert not (tmp_path / "models").exists()


def test_damaged_labels_are_refused_before_the_work(repository: Path, digits_export: Callable, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "models")
    (tmp_path / "models" / "mnist_convnet" / "labels.json").write_text("{")
    result = digits_export("--repository", tmp_path / "models", "--label", "stable")
    assert result.exit_code == 1
    assert "labels.json: not JSON" in result.output
    assert Repository(tmp_path / "models").versions("mnist_convnet") == [1, 2]


@keras.saving.register_keras_serializable(package="tests")
class WithoutOperator(keras.layers.Layer):
    """Computes what ONNX has no operator for."""

    def call(self, values: object) -> object:
        return keras.ops.erfinv(values)


def _no_record(run: Path) -> str:
    (run / "metrics.json").unlink()
    return "metrics.json: No such file or directory; digits-train writes it beside the model; digits-import takes"


def _broken_record(run: Path) -> str:
    (run / "metrics.json").write_text("{")
    return "not JSON"


def _record_without_labels(run: Path) -> str:
    _edit_record(run, labels=None)
    return "labels is missing"


def _no_keras_file(run: Path) -> str:
    (run / "model.keras").write_bytes(b"nonsense")
    (run / "metrics.json").unlink()
    return "model.keras: not a .keras file, or a truncated one; digits-import takes models"


def _truncated(run: Path) -> str:
    model = run / "model.keras"
    model.write_bytes(model.read_bytes()[:5000])
    return "not a .keras file, or a truncated one"


def _another_model(run: Path) -> str:
    with zipfile.ZipFile(run / "model.keras", "a") as archive:
        archive.writestr("more", "bytes")
    return "not the model that"


def _foreign_model(run: Path) -> str:
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(10)]).save(run / "model.keras")
    _edit_record(run, model_sha256=hashlib.sha256((run / "model.keras").read_bytes()).hexdigest())
    return "takes float32 [None, 4], not uint8 images [batch, height, width, channels]; digits-import takes models"


def _other_data(run: Path) -> str:
    record = json.loads((run / "metrics.json").read_text())
    _edit_record(run, data=record["data"] | {"sha256": "0" * 64})
    return "was trained on other synthetic data"


def _other_size(run: Path) -> str:
    _replace_network(run, (14, 14, 1), 10)
    return "takes (14, 14, 1) and has 10 labels, but its data are (28, 28, 1)"


def _fewer_classes(run: Path) -> str:
    _replace_network(run, (28, 28, 1), 4)
    _edit_record(run, labels=[*"0123"])
    return "has 4 labels"


def _strange_layer(run: Path) -> str:
    _replace_network(run, (28, 28, 1), 10, WithoutOperator())
    return "the operation Erfinv ("


def _labels_of_numbers(run: Path) -> str:
    _edit_record(run, labels=list(range(10)))
    return "labels must be text"


def _deep_record(run: Path) -> str:
    (run / "metrics.json").write_text("[" * 100_000)
    return "not JSON"


def _replace_network(run: Path, shape: tuple[int, int, int], classes: int, *layers: keras.layers.Layer) -> None:
    """Puts another network of the right kind in the place of the trained one, with its digest in the record."""
    image = [keras.Input(shape, dtype="uint8"), keras.layers.Rescaling(1 / 255), *layers, keras.layers.Flatten()]
    keras.Sequential([*image, keras.layers.Dense(classes, activation="softmax")]).save(run / "model.keras")
    _edit_record(run, model_sha256=hashlib.sha256((run / "model.keras").read_bytes()).hexdigest())


def _edit_record(run: Path, **changes: object) -> None:
    record = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(record | changes))


@pytest.mark.parametrize(
    "damage",
    [
        _no_record,
        _broken_record,
        _record_without_labels,
        _no_keras_file,
        _truncated,
        _another_model,
        _foreign_model,
        _other_data,
        _other_size,
        _fewer_classes,
        _strange_layer,
        _labels_of_numbers,
        _deep_record,
    ],
)
def test_a_model_that_can_not_be_exported_is_named_with_the_reason(
    synthetic_run: Path, tmp_path: Path, digits_export: Callable, damage: Callable[[Path], str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(synthetic_run, run)
    said = damage(run)
    result = digits_export("--repository", tmp_path / "models", model=run / "model.keras")
    assert result.exit_code == 1
    assert said in result.output
    assert str(run) in result.output
    assert not (tmp_path / "models").exists()


def test_an_impossible_name_is_refused(digits_export: Callable, tmp_path: Path) -> None:
    result = digits_export("--repository", tmp_path / "models", "--name", "../up")
    assert result.exit_code == 1
    assert "is not a valid model name" in result.output
