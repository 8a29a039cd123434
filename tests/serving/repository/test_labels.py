"""Labels of models: what was written is read back, and an invalid file is refused with the name of the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.errors import ModelNotFound, ModelRejected, RepositoryError
from serving.repository.labels import Canary, Labels
from serving.repository.repository import Repository


@pytest.mark.parametrize(
    "labels",
    [
        Labels(),
        Labels(stable=3),
        Labels(canary=Canary(version=4)),
        Labels(stable=3, canary=Canary(version=4, share=0)),
        Labels(stable=3, canary=Canary(version=4), previous=2),
        Labels(previous=2),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, labels: Labels) -> None:
    (tmp_path / "net").mkdir()
    repository = Repository(tmp_path)
    repository.write_labels("net", labels)
    assert repository.read_labels("net") == labels
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["labels.json"]


def test_a_model_without_the_file_has_no_labels(tmp_path: Path) -> None:
    assert Repository(tmp_path).read_labels("net") == Labels()


@pytest.mark.parametrize("text", ['{"format": 1}', '{"format": 1, "stable": null, "canary": null, "previous": null}'])
def test_every_label_may_be_absent_or_null(text: str) -> None:
    assert Labels.from_json(text) == Labels()


def test_labels_of_a_model_that_is_absent_or_impossible(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="net"):
        Repository(tmp_path).write_labels("net", Labels())
    with pytest.raises(ModelNotFound, match="not a valid model name"):
        Repository(tmp_path).read_labels("../net")


@pytest.mark.parametrize(
    ("labels", "servable", "current"),
    [
        (Labels(), [1, 2, 3], 3),
        (Labels(), [], None),
        (Labels(stable=1), [1, 2, 3], 1),
        (Labels(stable=9), [1, 2, 3], None),
        (Labels(canary=Canary(version=3)), [1, 2, 3], 2),
        (Labels(canary=Canary(version=3)), [3], None),
        (Labels(stable=1, canary=Canary(version=3), previous=2), [1, 2, 3], 1),
    ],
)
def test_what_is_current(labels: Labels, servable: list[int], current: int | None) -> None:
    assert labels.current(servable) == current


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "not JSON"),
        ([], "labels: must be an object"),
        ({"stable": 1}, "labels: format is missing"),
        ({"format": 2}, "labels: format 2 is not supported, only 1"),
        ({"format": 1, "newest": 1}, "newest is not a known field"),
        ({"format": 1, "stable": "3"}, "stable must be an integer"),
        ({"format": 1, "stable": True}, "stable must be an integer"),
        ({"format": 1, "stable": 0}, "stable must be at least 1"),
        ({"format": 1, "previous": "2"}, "previous must be an integer"),
        ({"format": 1, "previous": 0}, "previous must be at least 1"),
        ({"format": 1, "canary": 4}, "canary: must be an object"),
        ({"format": 1, "canary": {}}, "canary: version is missing"),
        ({"format": 1, "canary": {"version": 0}}, "canary: version must be at least 1"),
        ({"format": 1, "canary": {"version": "4"}}, "canary: version must be an integer"),
        ({"format": 1, "canary": {"version": 4, "share": None}}, "share must be a number"),
        ({"format": 1, "canary": {"version": 4, "share": "all"}}, "share must be a number"),
        ({"format": 1, "canary": {"version": 4, "share": 10}}, "share must be between 0 and 1, not 10"),
        ({"format": 1, "canary": {"version": 4, "share": float("nan")}}, "share must be finite"),
        ({"format": 1, "canary": {"version": 4, "share": 10**400}}, "share is too large"),
        ({"format": 1, "canary": {"version": 4, "weight": 1}}, "weight is not a known field"),
        ({"format": 1, "\udc80": 1}, "half of a surrogate pair"),
        ({"format": 1, "stable": 4, "canary": {"version": 4}}, "the same version, 4"),
        ("\udc80", "not UTF-8"),
    ],
    ids=ascii,
)
def test_invalid_labels_are_refused(tmp_path: Path, document: object, said: str) -> None:
    path = tmp_path / "net" / "labels.json"
    path.parent.mkdir()
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelRejected, match=r"net/labels\.json: ") as refusal:
        Repository(tmp_path).read_labels("net")
    assert said in str(refusal.value)
