"""An empty page, what is no digit, and digits: what each interface of one server says of them, and what it counts."""

from __future__ import annotations

import csv
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from no_digit import GRAY_BOX, THRESHOLD, VALIDATION, publish_with_no_digit
from PIL import Image

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2, inference_pb2_grpc
from serving.client import AsyncClient, Client, ImageStatus
from serving.client.classification import answer_name
from serving.commands import classify, score
from serving.config import SAMPLES
from serving.images.image_status import statuses_of

DIGIT, NO_INK, SEVERAL, NO_DIGIT = ImageStatus
SEVEN = SAMPLES / "7.png"


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose model has the output `no_digit`."""
    return publish_with_no_digit(tmp_path_factory.mktemp("knowing")).root


@pytest.fixture(scope="module")
def server(knowing: Path, start_server: Callable) -> Iterator[object]:
    """Two workers that serve it."""
    options = ("--repository", str(knowing), "--workers", "2", "--metrics-port", "0", "--http-port", "0")
    with start_server(*options) as running:
        yield running
        assert running.stop()[0] == 0


@pytest.fixture(scope="module")
def urls(server) -> dict[str, str]:
    """Where it listens for HTTP, and for metrics."""
    lines = iter(server.process.stderr.readline, "")
    line = next(line for line in lines if "metrics on" in line)
    return {
        "metrics": line.split("metrics on ")[1].strip(),
        "http": server.process.stdout.readline().removeprefix("http on ").strip(),
    }


@pytest.fixture
def stub(server) -> Iterator[digits_pb2_grpc.DigitClassifierServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield digits_pb2_grpc.DigitClassifierServiceStub(channel)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A digit, an empty page, a box that is left as it is, and what is no image."""
    folder = tmp_path_factory.mktemp("files")
    Image.new("L", (80, 60), 255).save(folder / "page.png")
    Image.fromarray(GRAY_BOX[..., 0]).save(folder / "box.png")
    (folder / "text.png").write_text("no image")
    (folder / "seven.png").write_bytes(SEVEN.read_bytes())
    return [folder / f"{name}.png" for name in ("seven", "page", "box", "text")]


def _encoded(files: list[Path], **options: object) -> digits_pb2.ClassifyRequest:
    images = digits_pb2.EncodedImages(images=[file.read_bytes() for file in files])
    return digits_pb2.ClassifyRequest(encoded_images=images, per_image_errors=True, **options)


def test_statuses_are_those_of_the_preparation_then_of_the_network() -> None:
    doubts = np.array([0, 0.9, 0.9, 0.9, 0.1], np.float32)
    prepared = [NO_INK, NO_INK, SEVERAL, DIGIT, DIGIT]
    assert statuses_of(prepared, doubts, 0.1).tolist() == [NO_INK, NO_INK, SEVERAL, NO_DIGIT, DIGIT]
    assert statuses_of(None, doubts, 0.1).tolist() == [DIGIT, NO_DIGIT, NO_DIGIT, NO_DIGIT, DIGIT]
    assert statuses_of(prepared, None, 0).tolist() == prepared
    for prepared, doubts in ((None, None), ([DIGIT], None), ([], None), ([DIGIT], np.zeros(1, np.float32))):
        assert statuses_of(prepared, doubts, 0.5) is None


def test_names_of_minus_one_say_why() -> None:
    names = [answer_name(-1, status, ["zero"]) for status in ImageStatus]
    assert names == ["unsure", "no ink", "several digits", "no digit"]
    assert answer_name(0, SEVERAL, ["zero"]) == "zero"


def test_files_and_pixels_get_their_statuses_and_common_answers_none(stub, files: list[Path], digits: tuple) -> None:
    found = stub.Classify(_encoded(files), timeout=20)
    assert list(found.statuses) == [DIGIT, NO_INK, NO_DIGIT, DIGIT]
    assert found.labels[0] == 7
    assert min(found.labels[1:3]) >= 0
    assert found.labels[3] == -1
    assert not found.no_digit
    only = stub.Classify(_encoded(files, only_digits=True, include_probabilities=True), timeout=20)
    assert list(only.labels) == [7, -1, -1, -1]
    assert (only.statuses, only.confidences) == (found.statuses, found.confidences)
    assert only.no_digit[2] > THRESHOLD > only.no_digit[0] > only.no_digit[3] == 0
    assert not stub.Classify(_encoded(files[:1], only_digits=True), timeout=20).statuses
    assert not stub.Classify(_encoded(files[3:], only_digits=True, include_probabilities=True), timeout=20).statuses
    pixels = digits_pb2.RawImages(pixels=digits[0][:2].tobytes() + GRAY_BOX.tobytes(), count=3)
    request = digits_pb2.ClassifyRequest(raw_images=pixels, only_digits=True)
    for response in (
        stub.Classify(request, timeout=20),
        next(stub.ClassifyStream(iter([digits_pb2.ClassifyStreamRequest(request=request)]), timeout=20)).response,
    ):
        assert list(response.statuses) == [DIGIT, DIGIT, NO_DIGIT]
        assert list(response.labels) == [*digits[1][:2], -1]
    described = stub.GetModel(digits_pb2.GetModelRequest(), timeout=20)
    assert described.no_digit_threshold == THRESHOLD


def test_two_digits_in_one_picture_are_noticed(stub, digits: tuple, tmp_path: Path) -> None:
    two = np.concatenate([digits[0][0, :, :, 0], digits[0][1, :, :, 0]], axis=1)
    Image.fromarray(255 - two.repeat(3, axis=0).repeat(3, axis=1)).save(tmp_path / "two.png")
    found = stub.Classify(_encoded([tmp_path / "two.png"], explain=True), timeout=20)
    assert list(found.statuses) == [SEVERAL]
    assert "found several digits" in found.preparations[0].steps
    only = stub.Classify(_encoded([tmp_path / "two.png"], only_digits=True), timeout=20)
    assert list(only.labels) == [-1]


@pytest.mark.parametrize("prepare", ["server", "client"])
async def test_both_clients_have_a_status_and_a_name_for_each_image(
    server, files: list[Path], prepare: str, digits: tuple
) -> None:
    images = np.concatenate([digits[0][:2], GRAY_BOX[None]])
    expected = [DIGIT, NO_INK, NO_DIGIT, DIGIT]
    with Client(server.address) as client:
        plain = client.classify_files(files, prepare=prepare)
        only = client.classify_files(files, prepare=prepare, only_digits=True)
        pixels = client.classify(images, only_digits=True)
        none = client.classify(images[:0])
    assert plain.statuses == only.statuses == expected
    assert plain.labels[2] >= 0
    assert only.labels.tolist() == [7, -1, -1, -1]
    assert only.names == ["7", "no ink", "no digit", "unsure"]
    assert pixels.statuses == [DIGIT, DIGIT, NO_DIGIT]
    assert pixels.labels.tolist() == [*digits[1][:2], -1]
    assert (none.statuses, none.names) == ([], [])
    async with AsyncClient(server.address) as client:
        encoded = [file.read_bytes() for file in files]
        again = await client.classify_encoded(encoded, prepare=prepare, only_digits=True, min_confidence=1)
        assert again.names == ["unsure", "no ink", "no digit", "unsure"]


def test_digits_classify_says_what_it_saw(server, files: list[Path]) -> None:
    def said(*options: str) -> list[str]:
        done = CliRunner().invoke(classify.main, ["--target", server.address, *map(str, files[:3]), *options])
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    lines = [re.split(r"  +", line, maxsplit=1)[1] for line in said()]
    assert re.fullmatch(r"7 +\d+\.\d\d%", lines[0])
    assert lines[1] == "no ink found"
    assert re.fullmatch(r"no digit; most like \d +\d+\.\d\d%", lines[2])
    assert [line.split("  ", 1)[1].strip() for line in said("--only-digits")[1:]] == ["no ink found", "no digit"]
    rows = [json.loads(line) for line in said("--json")]
    assert [row.get("status") for row in rows] == [None, "no ink", "no digit"]
    rows = list(csv.DictReader(said("--csv", "--only-digits")))
    assert [row["status"] for row in rows] == ["", "no ink", "no digit"]
    assert [(row["label"], row["name"]) for row in rows] == [("7", "7"), ("-1", "no ink"), ("-1", "no digit")]
    captions = said("--picture")[-1]
    assert re.search(r"no ink +no digit: \d  \d", captions)


@pytest.mark.parametrize("local", [True, False], ids=["local", "remote"])
def test_digits_score_has_a_column_for_the_status(
    server, knowing: Path, files: list[Path], tmp_path: Path, local: bool
) -> None:
    place = ["--local", "--repository", str(knowing), "--provider", "cpu"] if local else ["--target", server.address]

    def scored(*options: str) -> tuple[list[dict[str, str]], str]:
        out = tmp_path / "scores.csv"
        arguments = [*map(str, files), "--out", str(out), "--overwrite", "--min-confidence", "0.1", *place, *options]
        done = CliRunner().invoke(score.main, arguments)
        assert done.exit_code == 0, done.output
        return list(csv.DictReader(out.read_text().splitlines())), done.stdout

    rows, summary = scored()
    assert [row["status"] for row in rows] == ["", "no ink", "no digit", ""]
    assert all(row["label"] == row["name"] for row in rows)
    assert summary.startswith("4 images, 1 without an answer, 0 unsure, 1 no digit, 1 no ink\n")
    rows, summary = scored("--only-digits")
    assert [row["status"] for row in rows] == ["", "no ink", "no digit", ""]
    assert [(row["label"], row["name"]) for row in rows[1:3]] == [("-1", "no ink"), ("-1", "no digit")]
    assert summary.startswith("4 images, 1 without an answer, 0 unsure, 1 no digit, 1 no ink\n")


def test_a_run_without_the_column_is_not_resumed(knowing: Path, tmp_path: Path) -> None:
    """Such as one of an earlier release, whose parts have no such column."""
    out = tmp_path / "scores.csv"
    arguments = [str(SEVEN), "--out", str(out), "--resume", "--local", "--repository", str(knowing)]
    assert CliRunner().invoke(score.main, arguments).exit_code == 0
    summary = out.with_name("scores.csv.summary.json")
    document = json.loads(summary.read_text())
    del document["binding"]["options"]["--columns"]
    summary.write_text(json.dumps(document))
    refused = CliRunner().invoke(score.main, arguments)
    assert refused.exit_code == 1
    assert "other options (--columns None, now all, with status)" in refused.output


def _metrics(url: str) -> dict[str, float]:
    text = urllib.request.urlopen(url, timeout=20).read().decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)}


def test_operators_see_what_is_answered_beside_the_validation_set(
    server, urls: dict[str, str], files: list[Path], digits: tuple
) -> None:
    """Summed over two workers, which get connections at random, whatever the interface."""
    images, before, answers = digits[0][:50], _metrics(urls["metrics"]), []
    for part in np.split(images, 10):
        with Client(server.address) as client:
            answers.append(client.classify(part, min_confidence=1, probabilities=True))
    with Client(server.address) as client:
        answers.append(client.classify_files(files[:3], only_digits=True, probabilities=True))
    with grpc.insecure_channel(server.address) as channel:
        request = _infer(np.repeat(GRAY_BOX[np.newaxis], 5, axis=0))
        over_oip = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    after = _metrics(urls["metrics"])

    def added(name: str, before: dict[str, float] = before, **more: str) -> float:
        labels = {"model": "mnist_convnet", "version": "1", **more}
        series = ",".join(f'{key}="{text}"' for key, text in sorted(labels.items()))
        return after[f"digits_{name}{{{series}}}"] - before.get(f"digits_{name}{{{series}}}", 0)

    boxes = np.frombuffer(over_oip.raw_output_contents[1], np.float32).reshape(5, 10)
    probabilities = np.concatenate([*(answer.probabilities for answer in answers), boxes])
    labels = probabilities.argmax(axis=1)
    counted = [added("answers_total", label=str(label)) for label in range(10)]
    assert counted == np.bincount(labels, minlength=10).tolist()
    assert added("images_total") == len(labels) == 58
    assert added("confidence_total") == pytest.approx(probabilities.max(axis=1).sum())
    assert added("unsure_total") == sum(np.count_nonzero(answer.labels == -1) for answer in answers[:-1]) > 0
    assert [added("statuses_total", status=each) for each in ("no_ink", "several_digits", "no_digit")] == [1, 0, 6]
    assert [added("validation_share", {}, label=str(label)) for label in range(10)] == list(VALIDATION.labels)
    assert added("validation_confidence", {}) == VALIDATION.confidence
    assert added("validation_no_digit", {}) == VALIDATION.no_digit


def _infer(images: np.ndarray, *outputs: str) -> inference_pb2.ModelInferRequest:
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=images.shape)
    return inference_pb2.ModelInferRequest(
        model_name="mnist_convnet",
        inputs=[tensor],
        raw_input_contents=[images.tobytes()],
        outputs=[inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
    )


def test_the_open_inference_protocol_has_no_digit_if_it_is_asked_for(
    server, urls: dict[str, str], digits: tuple
) -> None:
    images = np.concatenate([digits[0][:2], GRAY_BOX[np.newaxis]])
    with grpc.insecure_channel(server.address) as channel:
        oip = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = oip.ModelMetadata(inference_pb2.ModelMetadataRequest(name="mnist_convnet"), timeout=20)
        config = oip.ModelConfig(inference_pb2.ModelConfigRequest(name="mnist_convnet"), timeout=20).config
        default = oip.ModelInfer(_infer(images), timeout=20)
        asked = oip.ModelInfer(_infer(images, "no_digit", "logits"), timeout=20)
        request = _infer(images, "no_digit")
        request.outputs[0].parameters["classification"].int64_param = 2
        with pytest.raises(grpc.RpcError) as refused:
            oip.ModelInfer(request, timeout=20)
    shapes = {"logits": [-1, 10], "probabilities": [-1, 10], "no_digit": [-1, 1]}
    assert {output.name: list(output.shape) for output in metadata.outputs} == shapes
    assert {output.name: list(output.dims) for output in config.output} == {
        "logits": [10],
        "probabilities": [10],
        "no_digit": [1],
    }
    assert [output.name for output in default.outputs] == ["logits", "probabilities"]
    assert [(output.name, output.datatype, list(output.shape)) for output in asked.outputs] == [
        ("no_digit", "FP32", [3, 1]),
        ("logits", "FP32", [3, 10]),
    ]
    doubts = np.frombuffer(asked.raw_output_contents[0], np.float32)
    assert (doubts > THRESHOLD).tolist() == [False, False, True]
    assert "has no classes" in refused.value.details()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [3, 28, 28, 1], "data": images.tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "no_digit"}]}).encode()
    url = f"{urls['http']}/v2/models/mnist_convnet/infer"
    (output,) = json.load(urllib.request.urlopen(url, body, timeout=20))["outputs"]
    assert output == {"name": "no_digit", "datatype": "FP32", "shape": [3, 1], "data": pytest.approx(doubts.tolist())}
