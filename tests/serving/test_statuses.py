"""An empty page, what is no digit, and digits: what each interface of one server says of them, and what it counts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from no_digit import GRAY_BOX, THRESHOLD, publish_with_no_digit
from PIL import Image

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import AsyncClient, Client, ImageStatus
from serving.client.classification import answer_name
from serving.commands import classify
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
