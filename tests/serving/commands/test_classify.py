"""`digits-classify` and the container's health command."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

from serving.client import Classification, ImageStatus
from serving.commands import health
from serving.commands.answers import answers
from serving.config import SAMPLES

FILES = [SAMPLES / f"{digit}.png" for digit in (7, 2, 5)]


def test_a_table_names_each_file_with_its_label(server, command: Callable) -> None:
    done = command("digits-classify", "--target", server.address, *FILES)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [(str(file), file.stem) for file in FILES]
    assert all(90 < float(row[2].rstrip("%")) <= 100 for row in rows)


def test_json_lines_carry_everything(server, command: Callable) -> None:
    done = command("digits-classify", "--target", server.address, "--json", *FILES)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == [7, 2, 5]
    assert rows[0].keys() == {"path", "label", "name", "confidence", "model", "version"}
    assert rows[0]["path"] == str(FILES[0])
    assert rows[0]["model"] == "mnist_convnet"


def test_below_min_confidence_an_answer_is_unsure(server, command: Callable) -> None:
    done = command("digits-classify", "--target", server.address, "--json", "--min-confidence", 1, *FILES)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["label"], row["name"]) for row in rows] == [(-1, "unsure")] * 3
    assert all(row["confidence"] > 0.9 for row in rows)
    candidates = ("digits-classify", "--target", server.address, "--min-confidence", 1, "--top", 2, FILES[0])
    assert [word for word in command(*candidates).stdout.split()[1:] if "%" not in word][:2] == ["unsure", "7"]
    (row,) = csv.DictReader(command(*candidates, "--csv").stdout.splitlines())
    assert (row["label"], row["name"], row["name_1"]) == ("-1", "unsure", "7")
    assert float(row["confidence"]) == float(row["confidence_1"]) > float(row["confidence_2"])
    (row,) = map(json.loads, command(*candidates, "--json").stdout.splitlines())
    assert (row["label"], row["top"][0]["label"]) == (-1, 7)
    drawn = command("digits-classify", "--target", server.address, "--min-confidence", 1, "--picture", *FILES).stdout
    assert drawn.splitlines()[-1].count("unsure") == 3
    sure = command("digits-classify", "--target", server.address, "--min-confidence", 0.5, *FILES)
    assert [line.split()[1] for line in sure.stdout.splitlines()] == ["7", "2", "5"]


@pytest.mark.parametrize(
    ("status", "label", "top", "said"),
    [
        (ImageStatus.DIGIT, 4, 1, "4   61.20%"),
        (ImageStatus.DIGIT, -1, 1, "unsure   61.20%"),
        (ImageStatus.NO_INK, 4, 1, "no ink found"),
        (ImageStatus.NO_INK, 4, 2, "no ink found  4   61.20%  9   30.00%"),
        (ImageStatus.SEVERAL_DIGITS, 4, 1, "several digits side by side; as one: 4   61.20%"),
        (ImageStatus.SEVERAL_DIGITS, 4, 2, "several digits side by side; as one: 4   61.20%  9   30.00%"),
        (ImageStatus.SEVERAL_DIGITS, -1, 1, "several digits side by side"),
        (ImageStatus.NO_DIGIT, 4, 1, "no digit; most like 4   61.20%"),
        (ImageStatus.NO_DIGIT, -1, 2, "no digit  4   61.20%  9   30.00%"),
    ],
)
def test_a_line_says_what_was_seen(status: ImageStatus, label: int, top: int, said: str) -> None:
    classification = Classification(
        labels=np.array([label]),
        confidences=np.array([0.612], np.float32),
        probabilities=np.array([[0] * 4 + [0.612] + [0] * 4 + [0.3]], np.float32),
        model_name="net",
        model_version=1,
        label_names=list("0123456789"),
        statuses=[status],
    )
    (answer,) = answers(["a.png"], classification, top)
    assert answer.text(7) == f"a.png    {said}"


def test_pictures_stand_beside_their_labels(server, command: Callable) -> None:
    done = command("digits-classify", "--target", server.address, "--picture", *FILES)
    assert [word for word in done.stdout.splitlines()[-1].split() if "%" not in word] == ["7", "2", "5"]
    assert "█" in done.stdout


def test_bad_files_are_named_and_the_others_answered(server, command: Callable, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "huge.png").write_bytes(bytes(20 << 20))
    (tmp_path / "nothing").mkdir()
    bad = [tmp_path / name for name in ("text.png", "empty.png", "huge.png", "absent.png", "nothing", "*.webp")]
    done = command("digits-classify", "--target", server.address, FILES[0], *bad, FILES[1])
    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [[str(FILES[0]), "7"], [str(FILES[1]), "2"]]
    said = dict(line.split(": ", 1) for line in done.stderr.splitlines())
    assert list(said) == list(map(str, bad))
    for reason, line in zip(
        ["not an image", "no bytes", "more than the", "No such file", "no images in", "no file"],
        said.values(),
        strict=True,
    ):
        assert line.startswith(reason)


def test_folders_globs_and_standard_input_are_taken(server, command: Callable, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, file in [
        ("b.png", FILES[0]),
        ("inner/a.PNG", FILES[1]),
        ("inner/b.heic", FILES[2]),
        (".hidden/c.png", FILES[2]),
        ("d.txt", FILES[2]),
    ]:
        (tmp_path / name).write_bytes(file.read_bytes())
    done = command("digits-classify", "--target", server.address, tmp_path, tmp_path / "**" / "*.txt")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines()]
    expected = [("b.png", "7"), ("inner/a.PNG", "2"), ("inner/b.heic", "5"), ("d.txt", "5")]
    assert rows == [[str(tmp_path / name), label] for name, label in expected]
    with FILES[2].open("rb") as file:
        done = command("digits-classify", "--target", server.address, "-", "--json", stdin=file)
    assert json.loads(done.stdout)["label"] == 5


@pytest.mark.parametrize("prepare", ["server", "client"])
def test_a_photo_is_prepared_and_explained(server, command: Callable, tmp_path: Path, prepare: str) -> None:
    page = ImageOps.expand(ImageOps.invert(Image.open(FILES[0]).resize((90, 90))), (30, 50, 100, 10), 255)
    page.save(tmp_path / "photo.jpg")
    arguments = (
        "digits-classify",
        "--target",
        server.address,
        "--prepare",
        prepare,
        "--explain",
        tmp_path / "photo.jpg",
    )
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:2] == [str(tmp_path / "photo.jpg"), "7"]
    assert "220 x 150 pixels" in done.stdout
    assert "inverted" in done.stdout
    assert "█" in done.stdout
    (row,) = map(json.loads, command(*arguments, "--json").stdout.splitlines())
    assert (row["height"], row["width"]) == (150, 220)
    assert any("inverted" in step for step in row["steps"])


def test_csv_and_json_have_a_row_for_every_file_and_the_top_labels(server, command: Callable, tmp_path: Path) -> None:
    bad = tmp_path / 'a "bad", one.png'
    bad.write_text("no image")
    done = command("digits-classify", "--target", server.address, "--csv", "--top", 3, FILES[0], bad)
    assert done.returncode == 1
    good, failed = csv.DictReader(done.stdout.splitlines())
    assert (good["path"], good["label"], good["name"], good["error"]) == (str(FILES[0]), "7", "7", "")
    assert 1 >= float(good["confidence"]) > float(good["confidence_2"]) >= float(good["confidence_3"]) >= 0
    assert good["name_1"] == "7"
    assert len({good[f"name_{place}"] for place in (1, 2, 3)}) == 3
    assert (failed["path"], failed["label"], failed["name_3"]) == (str(bad), "", "")
    assert failed["error"].startswith("not an image")
    lines = command("digits-classify", "--target", server.address, "--json", "--top", 3, FILES[0], bad).stdout
    good, failed = map(json.loads, lines.splitlines())
    assert good["top"][0]["label"] == good["label"] == 7
    assert len(good["top"]) == 3
    assert failed.keys() == {"path", "error"}
    assert command("digits-classify", "--json", "--csv", FILES[0]).returncode == 2


def test_no_server_and_no_files_are_told(command: Callable) -> None:
    done = command("digits-classify", "--target", "127.0.0.1:1", "--timeout-s", 2, FILES[0])
    assert done.returncode == 1
    assert done.stderr.startswith("Error: 127.0.0.1:1: ")
    assert done.stderr.endswith("is digits-serve running there?\n")
    assert "Traceback" not in done.stderr
    assert command("digits-classify").returncode == 2


@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "utf-8:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda settings: ",".join(settings.values()),
)
def test_a_terminal_of_any_encoding_shows_pictures_and_names(
    server, command: Callable, tmp_path: Path, encoding: dict[str, str]
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9 \xe2\x82\xac.png"))
    odd.write_bytes(FILES[0].read_bytes())
    done = command(
        *("digits-classify", "--target", server.address, "--explain", odd, tmp_path / "\udcfe.png"),
        env={**os.environ, **encoding},
        errors="replace",
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path}/")
    assert done.stderr.endswith(".png: No such file or directory\n")
    assert done.stdout.startswith(f"{tmp_path}/")
    assert ".png  7  100" in done.stdout
    assert ("█" if "utf-8" in str(encoding) else "#") in done.stdout


def test_the_model_and_its_version_can_be_named(server, command: Callable) -> None:
    arguments = ("digits-classify", "--target", server.address, "--model", "mnist_convnet", "--model-version")
    assert json.loads(command(*arguments, 1, "--json", FILES[0]).stdout)["version"] == 1
    refused = command(*arguments, 9, FILES[0])
    assert refused.returncode == 1
    assert "NOT_FOUND" in refused.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DIGITS_PORT": "{port}"}, ""),
        ({"DIGITS_PORT": "{port}", "DIGITS_HOST": "0.0.0.0"}, ""),
        ({"DIGITS_PORT": "{port}", "DIGITS_HOST": "127.0.0.1", "DIGITS_TARGET": "127.0.0.1:1"}, "127.0.0.1:1: "),
        ({"DIGITS_PORT": "1", "DIGITS_TARGET": "{address}"}, ""),
        ({"DIGITS_TARGET": "tcp://10.0.0.1:50051"}, "'tcp://10.0.0.1:50051' is a URL, but an address is like"),
        ({"DIGITS_PORT": "1", "DIGITS_HOST": "::1"}, "[::1]:1: "),
        ({"DIGITS_PORT": "1", "DIGITS_HOST": "unix:/absent"}, "unix:/absent: "),
        ({"DIGITS_PORT": "tcp://10.0.0.1:50051", "DIGITS_HOST": "127.0.0.9"}, "127.0.0.9:50051: "),
        ({"DIGITS_PORT": "abc"}, "the variable DIGITS_PORT: 'abc' is not a valid integer."),
        ({"DIGITS_PORT": "0"}, "DIGITS_PORT is 0, so the server has a port that only its output tells: give --target"),
    ],
    ids=str,
)
def test_the_health_check_asks_the_server_of_its_environment(server, variables: dict[str, str], said: str) -> None:
    given = {"address": server.address, "port": server.address.rpartition(":")[2]}
    environment = {name: value.format_map(given) for name, value in variables.items()}
    done = CliRunner().invoke(health.main, ["--timeout-s", "0.2" if said else "5"], env=environment)
    assert (done.exit_code == 0) == (said == ""), done.output
    assert said in done.output
    if said.endswith(": "):
        assert "is digits-serve running there?" in done.output


def test_the_health_command_tells_serving_from_not(server, command: Callable) -> None:
    arguments = ("-m", "serving", "health", "--target")
    assert command("python", *arguments, server.address).stdout == "SERVING\n"
    refused = command("python", *arguments, "127.0.0.1:1", "--timeout-s", 1)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
