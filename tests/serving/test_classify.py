"""`digits-classify` and the container's health command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from serving.demo import SAMPLES

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
    sure = command("digits-classify", "--target", server.address, "--min-confidence", 0.5, *FILES)
    assert [line.split()[1] for line in sure.stdout.splitlines()] == ["7", "2", "5"]


def test_pictures_stand_beside_their_labels(server, command: Callable) -> None:
    done = command("digits-classify", "--target", server.address, "--picture", *FILES)
    assert [word for word in done.stdout.splitlines()[-1].split() if "%" not in word] == ["7", "2", "5"]
    assert "█" in done.stdout


@pytest.mark.parametrize("content", [b"no image", b""])
def test_an_unreadable_file_is_named(server, command: Callable, tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "scan.png"
    bad.write_bytes(content)
    done = command("digits-classify", "--target", server.address, FILES[0], bad)
    assert done.returncode == 1
    assert str(bad) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_larger_image_is_refused_with_both_sizes(server, command: Callable, tmp_path: Path) -> None:
    Image.new("L", (100, 50)).save(tmp_path / "photo.png")
    done = command("digits-classify", "--target", server.address, tmp_path / "photo.png")
    assert done.returncode == 1
    assert "100 x 50 pixels, but the model takes 28 x 28" in done.stderr


def test_no_server_and_no_files_are_told(command: Callable) -> None:
    done = command("digits-classify", "--target", "127.0.0.1:1", "--timeout-s", 2, FILES[0])
    assert done.returncode == 1
    assert "127.0.0.1:1: " in done.stderr
    assert "Traceback" not in done.stderr
    assert command("digits-classify").returncode == 2


def test_the_health_command_tells_serving_from_not(server, command: Callable) -> None:
    arguments = ("-m", "serving", "health", "--target")
    assert command("python", *arguments, server.address).stdout == "SERVING\n"
    refused = command("python", *arguments, "127.0.0.1:1", "--timeout-s", 1)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
