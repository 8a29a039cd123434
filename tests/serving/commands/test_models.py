"""`digits-models` as an operator uses it, on sound, damaged, shared and read-only repositories."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from keys import make_key_pair

from serving.commands.models_table import document, table
from serving.errors import RepositoryError
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import Canary, Labels
from serving.repository.listing import model_listings
from serving.repository.repository import Repository, StoredModel

ROOT = Path(__file__).parents[3]
NAME = "mnist_convnet"

_CHANGES = [("label", "stable 1"), ("label", "canary 1"), ("promote", ""), ("remove", "1")]
_WRITE_LABELS = """
import sys
from pathlib import Path
from serving.errors import RepositoryError
from serving.repository.labels import Labels
from serving.repository.repository import Repository
try:
    Repository(Path(sys.argv[1])).write_labels("mnist_convnet", Labels())
except RepositoryError as error:
    print(error, file=sys.stderr)
"""

Models = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def repository(tmp_path: Path, shipped: StoredModel) -> Repository:
    """Three versions of the shipped model, no labels."""
    made = Repository(tmp_path / "models")
    for _ in range(3):
        made.publish(shipped.content, shipped.manifest)
    return made


@pytest.fixture
def models(command: Callable, repository: Repository) -> Models:
    """Runs `digits-models` on the repository, which it finds in its environment."""
    environment = {**os.environ, "DIGITS_REPOSITORY": str(repository.root)}
    return lambda *arguments: command("digits-models", *arguments, env=environment)


@pytest.fixture
def done(models: Models) -> Callable[..., str]:
    """The same for what must succeed; gives what it printed."""

    def run(*arguments: object) -> str:
        ended = models(*arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    return run


@pytest.fixture
def refused(models: Models) -> Callable[..., str]:
    """The same for what must be refused in one line with exit code 1; gives the line."""

    def run(*arguments: object) -> str:
        ended = models(*arguments)
        assert ended.returncode == 1
        assert ended.stdout == ""
        (line,) = ended.stderr.splitlines()
        assert line.startswith("Error: ")
        return line

    return run


def _damage(repository: Repository, version: int) -> None:
    with (repository.root / NAME / str(version) / "model.onnx").open("r+b") as file:
        file.truncate(1000)


def _publish_changed(repository: Repository, shipped: StoredModel, change: Callable[[onnx.ModelProto], None]) -> None:
    """Publishes the shipped model with a change in its graph, and a manifest that fits the file."""
    model = onnx.load_from_string(shipped.content)
    change(model)
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    repository.publish(content, dataclasses.replace(shipped.manifest, sha256=digest))


def _not_a_number(model: onnx.ModelProto) -> None:
    last = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [1600, 10])
    last.CopyFrom(onnx.numpy_helper.from_array(np.full((1600, 10), np.nan, np.float32), last.name))


def _without_softmax(model: onnx.ModelProto) -> None:
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Sigmoid"
    del softmax.attribute[:]


def _failing_when_it_runs(model: onnx.ModelProto) -> None:
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    softmax.output[0] = "rows"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([100_000]), "far"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["rows", "far"], ["row"]))
    model.graph.node.append(onnx.helper.make_node("Max", ["rows", "row"], ["probabilities"]))


def test_list_shows_labels_and_what_each_version_is(
    repository: Repository, done: Callable, shipped: StoredModel
) -> None:
    repository.write_labels(NAME, Labels(stable=1, canary=Canary(version=3, share=0.25), previous=2))
    titles, *rows = done("list").splitlines()
    assert titles.split() == ["MODEL", "VERSION", "LABELS", "CREATED", "DATA", "RECIPE", "ACCURACY", "STATE"]
    assert [row[titles.index("LABELS") : titles.index("CREATED")].strip() for row in rows] == [
        *("stable", "previous", "canary 25 %")
    ]
    accuracy = f"{shipped.manifest.accuracy.onnx:.2%}"
    assert rows[1].split() == [
        *(NAME, "2", "previous", shipped.manifest.created[:10], "mnist", "accurate", accuracy, "of", "10,000"),
        *("ok", "on", "CPU"),
    ]


@pytest.mark.parametrize(
    ("training", "shown", "listed"),
    [
        (
            {"data": {"source": "synthetic", "test_images": 1000}},
            "synthetic - {accuracy} of 1,000",
            ("synthetic", 1000),
        ),
        (
            {"data": {"source": "folder:/somewhere/far/shapes", "test_images": 12}, "recipe": {"name": "fast"}},
            "folder:shapes fast {accuracy} of 12",
            ("folder:/somewhere/far/shapes", 12),
        ),
        ({"data": {"source": "/scans/digits.npz"}}, "digits.npz - {accuracy}", ("/scans/digits.npz", None)),
        ({}, "- - {accuracy}", (None, None)),
        ({"data": ["odd"], "recipe": 7}, "- - {accuracy}", (None, None)),
        ({"data": {"source": 3, "test_images": "x"}, "recipe": {}}, "- - {accuracy}", (None, None)),
    ],
)
def test_list_shows_what_a_version_was_trained_and_tested_on(
    training: dict, shown: str, listed: tuple, tmp_path: Path, shipped: StoredModel
) -> None:
    repository = Repository(tmp_path)
    repository.publish(shipped.content, dataclasses.replace(shipped.manifest, training=training))
    models = list(model_listings(repository))
    _, row = table(models)
    shown = shown.format(accuracy=f"{shipped.manifest.accuracy.onnx:.2%}")
    assert f" {shipped.manifest.created[:10]} {shown} ok on CPU" in " ".join(row.split())
    assert len(row) <= 100
    (version,) = document(models)[0]["versions"]
    assert (version["data"], version["test_images"]) == listed
    assert version["training"] == training


def test_list_shows_a_damaged_version_with_the_reason_and_all_others(
    repository: Repository, done: Callable, shipped: StoredModel
) -> None:
    repository.publish(shipped.content, dataclasses.replace(shipped.manifest, model_name="another"))
    _damage(repository, 3)
    (repository.root / NAME / "1" / "manifest.json").write_text("{")
    (model,) = json.loads(done("list", NAME, "--json"))
    assert [entry["state"] for entry in model["versions"]] == ["rejected", "ok", "rejected"]
    assert "not JSON" in model["versions"][0]["reason"]
    assert "sha256 is" in model["versions"][2]["reason"]
    assert model["versions"][2]["accuracy"] == shipped.manifest.accuracy.onnx
    assert model["current"] == 2
    rows = done("list").splitlines()
    assert len(rows) == 5
    assert rows[3].split()[:4] == [NAME, "2", "stable", "(latest)"]
    assert [row.split()[0] for row in rows[1:]] == ["another", NAME, NAME, NAME]
    assert "rejected: " in rows[4]


def test_list_says_what_is_wrong_with_labels(repository: Repository, done: Callable) -> None:
    _damage(repository, 2)
    repository.write_labels(NAME, Labels(stable=9, canary=Canary(version=2)))
    assert done("list").splitlines()[-2:] == [
        f"{NAME}: labels: stable is version 9, which does not exist",
        f"{NAME}: labels: canary is version 2, which can't be served",
    ]
    (repository.root / NAME / "labels.json").write_text("{")
    assert "labels.json: not JSON" in done("list").splitlines()[-1]
    (model,) = json.loads(done("list", "--json"))
    assert model["current"] is None
    assert len(model["versions"]) == 3


def test_list_writes_nothing_that_moves_a_terminal_s_cursor(
    repository: Repository, done: Callable, shipped: StoredModel
) -> None:
    evil = dataclasses.replace(shipped.manifest, created="\x1b[2J\n", training={"architecture": "\x1b]0;x\x07"})
    repository.replace_manifest(2, evil)
    printed = done("list")
    assert len(printed.splitlines()) == 4
    assert "\x1b" not in printed


def test_versions_that_go_while_they_are_listed_are_no_damage(repository: Repository, shipped: StoredModel) -> None:
    stop, looks = threading.Event(), 0

    def change() -> None:
        while not stop.is_set():
            repository.remove(NAME, [repository.publish(shipped.content, shipped.manifest)])

    changer = threading.Thread(target=change)
    changer.start()
    try:
        while looks < 60:
            (model,) = model_listings(repository)
            assert [entry.problem for entry in model.versions if entry.problem] == []
            assert [entry.version for entry in model.versions][:3] == [1, 2, 3]
            looks += 1
    finally:
        stop.set()
        changer.join()


def test_a_canary_pins_stable_becomes_stable_and_is_taken_back(repository: Repository, done: Callable) -> None:
    state, pinned = done("label", NAME, "canary", 3).splitlines()
    assert state == f"{NAME}: stable is version 2; canary is version 3 with 10 % of the calls that name no version"
    assert "a newly published version does not become current by itself" in pinned
    assert repository.read_labels(NAME) == Labels(stable=2, canary=Canary(version=3, share=0.1))
    done("label", NAME, "canary", 3, "--share", 0.5)
    assert repository.read_labels(NAME) == Labels(stable=2, canary=Canary(version=3, share=0.5))
    assert done("promote", NAME) == f"{NAME}: stable is version 3; no canary\n"
    assert repository.read_labels(NAME) == Labels(stable=3, previous=2)
    assert done("rollback", NAME) == f"{NAME}: stable is version 2; no canary\n"
    assert repository.read_labels(NAME) == Labels(stable=2)


def test_stable_moves_and_goes_back(repository: Repository, done: Callable, refused: Callable) -> None:
    assert "no earlier stable version is recorded" in refused("rollback", NAME)
    assert done("label", NAME, "stable", 1) == f"{NAME}: stable is version 1; no canary\n"
    assert repository.read_labels(NAME) == Labels(stable=1, previous=3)
    assert "unchanged: stable is version 1" in done("label", NAME, "stable", 1)
    assert "now version 3" in done("label", NAME, "stable", "latest")
    assert repository.read_labels(NAME) == Labels(previous=1)
    done("rollback", NAME)
    assert repository.read_labels(NAME) == Labels(stable=1)
    assert "no earlier stable version is recorded" in refused("rollback", NAME)


def test_to_pin_what_is_current_is_no_move_to_go_back_from(repository: Repository, done: Callable) -> None:
    done("label", NAME, "stable", 3)
    assert repository.read_labels(NAME) == Labels(stable=3)
    repository.write_labels(NAME, Labels(previous=1))
    done("label", NAME, "stable", 3)
    assert repository.read_labels(NAME) == Labels(stable=3, previous=1)


def test_what_was_on_trial_does_not_become_current_when_the_trial_ends(repository: Repository, done: Callable) -> None:
    repository.write_labels(NAME, Labels(canary=Canary(version=3)))
    state, pinned = done("unlabel", NAME, "canary").splitlines()
    assert state == f"{NAME}: stable is version 2; no canary"
    assert "by itself" in pinned
    assert "unchanged" in done("unlabel", NAME, "canary")
    repository.write_labels(NAME, Labels(canary=Canary(version=2)))
    done("label", NAME, "canary", 3)
    assert repository.read_labels(NAME) == Labels(stable=1, canary=Canary(version=3))


def test_a_trial_can_be_ended_where_stable_is_damaged(repository: Repository, done: Callable) -> None:
    repository.write_labels(NAME, Labels(stable=2, canary=Canary(version=3)))
    _damage(repository, 2)
    done("unlabel", NAME, "canary")
    assert repository.read_labels(NAME) == Labels(stable=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("label", NAME, "stable", 9), "no version 9; available: 1, 2, 3"),
        (("label", NAME, "stable", "9" * 18), "no version 999"),
        (("label", NAME, "canary", 2), "version 2 can't be served: "),
        (("label", NAME, "stable", 3), "version 3 is the canary"),
        (("label", NAME, "canary", 1), "version 1 is stable"),
        (("label", NAME, "canary", 3, "--share", "nan"), "share must be between 0 and 1"),
        (("rollback", NAME), "version 2 can't be served"),
        (("label", "other", "stable", 1), "no model 'other'; available: mnist_convnet"),
        (("remove", NAME, 9), "no version 9"),
        (("remove", NAME, 2, 1), "version 1 is stable"),
        (("remove", NAME, 2, 3), "version 3 is the canary"),
        *(
            ((*arguments, *more), "no model ")
            for arguments in [("list",), ("verify",), ("promote",), ("rollback",)]
            for more in [("../models",), ("/",), ("",), ("x" * 10_000,), ("ziffern\n",), ("数字",)]
        ),
        (("label", "../models", "stable", 1), "no model '../models'"),
        (("unlabel", "..", "canary"), "no model '..'"),
        (("remove", "../models", 1), "no model '../models'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused_changes_nothing(
    repository: Repository, refused: Callable, arguments: tuple, said: str
) -> None:
    _damage(repository, 2)
    labels = Labels(stable=1, canary=Canary(version=3), previous=2)
    repository.write_labels(NAME, labels)
    line = refused(*arguments)
    assert said in line
    assert len(line) < 500
    assert repository.read_labels(NAME) == labels
    assert repository.versions(NAME) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("label", NAME, "stable", "newest"), "'newest' is neither the number of a version nor latest"),
        (("label", NAME, "stable", "9" * 5000), "is neither the number"),
        (("label", NAME, "stable", "../1"), "is neither the number"),
        (("label", NAME, "stable", 0), "is neither the number"),
        (("label", NAME, "canary", "latest"), "a canary must be a specific version"),
        (("label", NAME, "beta", 1), "'beta' is not one of"),
        (("label", NAME, "canary", 1, "--share", 10), "is not in the range"),
        (("label", NAME, "stable", 1, "--share", 0.1), "--share applies only to a canary"),
        (("unlabel", NAME, "stable"), "'stable' is not"),
        (("remove", NAME), "Missing argument 'VERSION...'"),
        (("remove", NAME, "../1"), "is not a valid integer"),
        (("verify", NAME, 0), "is not in the range"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_usage_ends_with_two(models: Models, repository: Repository, arguments: tuple, said: str) -> None:
    ended = models(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert [path.name for path in (repository.root / NAME).iterdir() if path.suffix == ".json"] == []


def test_a_canary_needs_another_version_beside_it(repository: Repository, refused: Callable, done: Callable) -> None:
    done("remove", NAME, 1, 2)
    assert "no other version can be served" in refused("label", NAME, "canary", 3)
    assert "there is no canary" in refused("promote", NAME)


def test_damaged_labels_are_never_overwritten(repository: Repository, refused: Callable) -> None:
    file = repository.root / NAME / "labels.json"
    file.write_text('{"format": 1, "stabel": 1}')
    for arguments in [
        ("label", NAME, "stable", 1),
        ("label", NAME, "canary", 1),
        ("unlabel", NAME, "canary"),
        ("promote", NAME),
        ("rollback", NAME),
        ("remove", NAME, 1),
    ]:
        assert "labels.json: labels: stabel is not a known field" in refused(*arguments)
    assert file.read_text() == '{"format": 1, "stabel": 1}'
    assert repository.versions(NAME) == [1, 2, 3]


def test_no_move_is_lost_between_processes(repository: Repository) -> None:
    """One moves stable to and fro, one the canary's share; each finds its own last move when it makes the next."""
    program = """
import sys
from pathlib import Path
from serving.repository.editor import RepositoryEditor
from serving.repository.repository import Repository
editor, own = RepositoryEditor(Repository(Path(sys.argv[1]))), None
for turn in range(60):
    if sys.argv[2] == "stable":
        move = editor.set_stable("mnist_convnet", 1 + turn % 2)
        found, made = move.before.stable, move.after.stable
    else:
        move = editor.set_canary("mnist_convnet", 3, turn / 100)
        found, made = move.before.canary, move.after.canary
    assert turn == 0 or found == own, f"turn {turn} found {found}, not {own}"
    own = made
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program, repository.root, label], stderr=subprocess.PIPE, text=True)
        for label in ("stable", "canary")
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert repository.read_labels(NAME) == Labels(stable=2, canary=Canary(version=3, share=0.59), previous=1)


def test_a_reader_never_finds_labels_half_written(repository: Repository) -> None:
    stop = threading.Event()

    def move() -> None:
        editor = RepositoryEditor(repository)
        while not stop.is_set():
            editor.set_canary(NAME, 3, 0.123456789)
            editor.end_canary(NAME)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(2000):
            labels = repository.read_labels(NAME)
            assert labels in (Labels(), Labels(stable=2), Labels(stable=2, canary=Canary(version=3, share=0.123456789)))
    finally:
        stop.set()
        mover.join()


def test_remove_takes_versions_away_and_their_numbers_with_them(
    repository: Repository, done: Callable, refused: Callable, shipped: StoredModel
) -> None:
    assert "version 3 is current" in refused("remove", NAME, 3)
    done("label", NAME, "stable", 1)
    assert done("remove", NAME, 3, 2, 3).splitlines() == [
        f"removed {NAME} version 2",
        f"removed {NAME} version 3",
        f"{NAME}: stable is version 1; no canary",  # previous was 3
    ]
    assert repository.versions(NAME) == [1]
    assert not [path for path in (repository.root / NAME).rglob("model.onnx") if path.parent.name != "1"]
    assert repository.publish(shipped.content, shipped.manifest) == 4


def test_force_removes_what_is_in_use_and_says_what_answers_now(repository: Repository, done: Callable) -> None:
    done("label", NAME, "canary", 3)
    assert done("remove", NAME, 2, "--force").splitlines() == [
        f"removed {NAME} version 2",
        f"{NAME}: stable is the newest version that can be served, now version 1; canary is version 3 with 10 % of "
        "the calls that name no version",
    ]
    done("remove", NAME, 1, 3, "--force")
    assert repository.names() == []
    assert repository.read_labels(NAME) == Labels()


def test_a_removal_that_was_killed_is_finished_by_the_next(repository: Repository, done: Callable) -> None:
    left = repository.root / NAME / ".removing-killed"
    shutil.copytree(repository.root / NAME / "1", left / "7")
    assert repository.versions(NAME) == [1, 2, 3]
    done("remove", NAME, 1)
    assert not left.exists()


def test_a_linked_version_is_removed_and_what_it_links_to_is_not(repository: Repository, done: Callable) -> None:
    elsewhere = repository.root / "elsewhere"
    (repository.root / NAME / "1").rename(elsewhere)
    (repository.root / NAME / "1").symlink_to(elsewhere)
    done("remove", NAME, 1)
    assert repository.versions(NAME) == [2, 3]
    assert (elsewhere / "model.onnx").is_file()


def test_a_read_only_repository_is_listed_and_verified_and_not_changed(repository: Repository) -> None:
    unshare = shutil.which("unshare")
    if not unshare or os.geteuid() != 0:
        pytest.skip("needs unshare and root")
    models = Path(sys.executable).parent / "digits-models"
    commands = [
        *(f"{models} {change} {NAME} {more} --repository {repository.root}" for change, more in _CHANGES),
        f"{models} list --repository {repository.root}",
        f"{models} verify --provider cpu --repository {repository.root}",
        f"{sys.executable} -c '{_WRITE_LABELS}' {repository.root}",
    ]
    mount = f"mount --bind {repository.root} {repository.root} && mount -o remount,bind,ro {repository.root}"
    script = "; ".join([f"{mount} || exit 77", *(f"{command}; echo $?" for command in commands)])
    ended = subprocess.run([unshare, "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    if ended.returncode == 77:
        pytest.skip(f"no mounts here: {ended.stderr}")
    codes = [line for line in ended.stdout.splitlines() if line.isdecimal()]
    assert codes == ["1", "1", "1", "1", "0", "0", "0"], ended.stderr
    refusals = ended.stderr.splitlines()
    assert len(refusals) == 5
    assert all(line.endswith("Read-only file system") for line in refusals)
    assert repository.read_labels(NAME) == Labels()


def test_a_disk_that_fills_between_publishing_and_labelling_is_told(
    repository: Repository, shipped: StoredModel
) -> None:
    (repository.root / NAME / f".labels.json-{os.getpid()}").mkdir()  # where the new labels would be written first
    editor = RepositoryEditor(repository)
    with pytest.raises(RepositoryError, match="version 4 is published, but not stable: "):
        editor.publish(shipped.content, shipped.manifest, label="stable")
    with pytest.raises(RepositoryError, match=r"labels\.json"):
        editor.publish(shipped.content, shipped.manifest, label="canary")
    assert repository.versions(NAME) == [1, 2, 3, 4]


def test_verify_runs_every_version_and_names_what_is_wrong(
    repository: Repository, models: Models, shipped: StoredModel
) -> None:
    for change in (_not_a_number, _without_softmax, _failing_when_it_runs):
        _publish_changed(repository, shipped, change)
    repository.replace_manifest(1, dataclasses.replace(shipped.manifest, parity={}))
    _damage(repository, 2)
    ended = models("verify", "--provider", "cpu")
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["problem", "problem", "ok", "problem", "problem", "problem"]
    said = ["no passed parity", "sha256 is", "16 answers on CPU", "not all finite", "adds up to", "can't be run"]
    for line, expected in zip(lines, said, strict=True):
        assert expected in line
    assert "Traceback" not in ended.stderr
    assert models("verify", NAME, 3).returncode == 0
    assert models("verify", NAME, 4).returncode == 1
    assert "no version 7" in models("verify", NAME, 7).stderr


def test_verify_on_cuda_says_what_is_missing(models: Models) -> None:
    ended = models("verify", NAME, 1, "--provider", "cuda")
    if ended.returncode == 0:
        pytest.skip("CUDA runs here")
    assert ended.stdout.startswith(f"problem  {NAME} version 1: ")
    assert ".[gpu]" in ended.stdout or "driver" in ended.stdout


def test_an_absent_or_empty_repository_is_named(command: Callable, tmp_path: Path) -> None:
    for arguments in ["list", "verify", f"promote {NAME}"]:
        ended = command("digits-models", *arguments.split(), "--repository", tmp_path / "absent")
        assert ended.returncode == 1
        assert ended.stderr == (f"Error: {tmp_path / 'absent'}: not a model repository: No such file or directory\n")
    ended = command("digits-models", "list", "--repository", tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "no models here" in ended.stderr
    assert command("digits-models", "list", "--json", "--repository", tmp_path).stdout == "[]\n"
    assert command("digits-models", "verify", "--repository", tmp_path).returncode == 1


def test_only_verify_needs_the_engine(repository: Repository) -> None:
    """A machine that manages a repository need not be one that serves it."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        program = (
            "import sys; sys.modules['onnxruntime'] = sys.modules['grpc'] = None\n"
            "from serving.__main__ import models; models()"
        )
        environment = {**os.environ, "DIGITS_REPOSITORY": str(repository.root)}
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )

    for arguments in [("list",), ("label", NAME, "canary", 3), ("promote", NAME), ("remove", NAME, 1)]:
        ended = run(*arguments)
        assert ended.returncode == 0, ended.stderr
    ended = run("verify")
    assert ended.returncode == 1
    assert "verifying needs the extra cpu or gpu" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_commands_in_the_documentation_work_in_order(
    command: Callable, repository: Repository, shipped: StoredModel
) -> None:
    repository.remove(NAME, [3])
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 12
    for line in lines:
        name, *arguments = line.split()
        assert name == "digits-models"
        ended = command(name, *arguments, cwd=repository.root.parent)
        assert ended.returncode == 0, f"{line}: {ended.stderr}"
    assert repository.versions(NAME) == [2]
    assert repository.read_labels(NAME).stable == 2
    for block in re.findall(
        r"^```json\n(.*?)^```$", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE | re.DOTALL
    ):
        assert Labels.from_json(block) == Labels(stable=2, canary=Canary(version=3), previous=1)


def test_sign(repository: Repository, done: Callable, refused: Callable, tmp_path: Path) -> None:
    key = make_key_pair(tmp_path, "key")
    trusting = Repository(repository.root, trusted_keys=[key.public])
    assert done("sign", NAME, 2, "--key", key.private) == f"signed {NAME} version 2\n"
    assert trusting.load(NAME, 2)
    _damage(repository, 3)
    assert "sha256 is" in refused("sign", NAME, 3, "--key", key.private)
    assert "no version 4; available: 1, 2, 3" in refused("sign", NAME, 4, "--key", key.private)
    assert "key.pub: not a private key in PEM" in refused("sign", NAME, 1, "--key", key.public)
    assert [path.parent.name for path in repository.root.rglob("model.sig")] == ["2"]
