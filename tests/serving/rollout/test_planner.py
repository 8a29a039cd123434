"""What is served from a repository as its files change."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from versions import damage, publish

from serving.config import BatcherConfig, DecoderConfig, ServerConfig
from serving.errors import InvalidConfig, ModelNotFound, ModelRejected, RepositoryError
from serving.repository.labels import Canary, Labels
from serving.repository.repository import Repository
from serving.rollout.planner import RolloutPlanner
from serving.rollout.rollout import Refusal, Rollout, Route


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two versions of `net`."""
    made = Repository(tmp_path / "models")
    for label in (1, 2):
        publish(made, label)
    return made


def _planner(repository: Repository, **options: object) -> RolloutPlanner:
    return RolloutPlanner(ServerConfig(repository=repository.root, **options))


def _next(planner: RolloutPlanner) -> Rollout:
    rollout = planner.plan()
    assert rollout is not None
    planner.accept(rollout)
    return rollout


def _versions(rollout: Rollout) -> list[int]:
    return [stored.version for stored in rollout.models]


def test_the_newest_is_served_and_a_newer_one_replaces_it(repository: Repository) -> None:
    planner = _planner(repository)
    first = _next(planner)
    assert first.routes == {"net": Route(stable=2)}
    assert first.default == "net"
    assert planner.plan() is None
    publish(repository, 3)
    second = _next(planner)
    assert _versions(second) == [3]
    assert second.number > first.number


def test_a_damaged_one_is_refused_until_it_is_whole(repository: Repository) -> None:
    planner = _planner(repository)
    _next(planner)
    publish(repository, 3)
    path = repository.root / "net" / "3" / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    rollout = _next(planner)
    assert _versions(rollout) == [2]
    (refusal,) = rollout.refusals
    assert refusal.version == 3
    assert refusal.reason.startswith("net/3/model.onnx: sha256 is")
    assert planner.plan() is None
    path.write_bytes(whole)
    rollout = _next(planner)
    assert _versions(rollout) == [3]
    assert rollout.refusals == ()


def test_at_the_start_a_damaged_newest_version_gives_way_to_the_one_before(repository: Repository) -> None:
    damage(repository, 2)
    rollout = _next(_planner(repository))
    assert _versions(rollout) == [1]
    assert [refusal.version for refusal in rollout.refusals] == [2]


def test_a_repository_of_damaged_versions_can_not_start(repository: Repository) -> None:
    damage(repository, 1)
    damage(repository, 2)
    with pytest.raises(ModelRejected, match=r"net version 1: net/1/model\.onnx: sha256 .*net version 2: net/2"):
        _planner(repository).plan()


def test_labels_decide(repository: Repository) -> None:
    planner = _planner(repository)
    _next(planner)
    repository.write_labels("net", Labels(stable=1, canary=Canary(version=2, share=0.25)))
    rollout = _next(planner)
    assert rollout.routes == {"net": Route(stable=1, canary=2, share=0.25)}
    assert _versions(rollout) == [1, 2]
    publish(repository, 3)
    assert planner.plan() is None
    repository.write_labels("net", Labels(canary=Canary(version=3)))
    assert _next(planner).routes == {"net": Route(stable=2, canary=3, share=0.1)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 1, "stable": 9}', "labels.json: stable: no version 9; available: 1, 2"),
        ('{"format": 1, "stable": 1', "net/labels.json: not JSON"),
        ('{"format": 1, "stable": 3}', "labels.json: stable: version 3 can't be served; move the label"),
    ],
)
def test_labels_that_can_not_be_followed_change_nothing(repository: Repository, text: str, said: str) -> None:
    planner = _planner(repository)
    _next(planner)
    publish(repository, 3)
    damage(repository, 3)
    (repository.root / "net" / "labels.json").write_text(text)
    rollout = _next(planner)
    assert rollout.routes == {"net": Route(stable=2)}
    about_labels = next(refusal for refusal in rollout.refusals if not refusal.version)
    assert about_labels.reason.startswith(said)
    repository.write_labels("net", Labels(stable=1))
    assert _next(planner).routes == {"net": Route(stable=1)}


def test_a_canary_that_can_not_be_served_leaves_the_stable_one(repository: Repository) -> None:
    repository.write_labels("net", Labels(stable=1, canary=Canary(version=2)))
    damage(repository, 2)
    rollout = _next(_planner(repository))
    assert rollout.routes == {"net": Route(stable=1)}
    assert [refusal.version for refusal in rollout.refusals] == [0, 2]


def test_what_an_engine_refused_is_not_tried_again(repository: Repository) -> None:
    planner = _planner(repository)
    _next(planner)
    publish(repository, 3)
    rollout = planner.plan()
    assert rollout is not None
    refusal = Refusal(name="net", version=3, reason="it can't be loaded")
    planner.refuse(refusal)
    rollout = _next(planner)
    assert _versions(rollout) == [2]
    assert rollout.refusals == (refusal,)
    assert planner.plan() is None


def test_a_version_that_is_replaced_is_served_as_it_was_read(repository: Repository) -> None:
    planner = _planner(repository)
    before = _next(planner)
    shutil.rmtree(repository.root / "net" / "2")
    shutil.copytree(repository.root / "net" / "1", repository.root / "net" / "2")
    after = _next(planner)
    assert after.models == before.models
    assert "its files were replaced" in after.refusals[0].reason
    assert planner.plan() is None


def test_a_version_that_loses_a_file_is_served_as_it_was_read(repository: Repository) -> None:
    planner = _planner(repository)
    before = _next(planner)
    (repository.root / "net" / "2" / "model.onnx").unlink()
    after = _next(planner)
    assert after.models == before.models
    assert "What was read before is still served" in after.refusals[0].reason


def test_a_newest_version_that_is_removed_gives_way(repository: Repository) -> None:
    planner = _planner(repository)
    _next(planner)
    shutil.rmtree(repository.root / "net" / "2")
    assert _versions(_next(planner)) == [1]


@pytest.mark.parametrize("loss", ["the root", "its models", "the model that is served"])
def test_a_disk_that_vanishes_changes_nothing(repository: Repository, loss: str) -> None:
    planner = _planner(repository, models=("net",))
    _next(planner)
    publish(repository, 1, name="other")
    gone = {"the root": repository.root, "the model that is served": repository.root / "net"}.get(loss)
    if gone:
        gone.rename(repository.root.parent / "elsewhere")
    else:
        shutil.rmtree(repository.root / "net")
        shutil.rmtree(repository.root / "other")
    assert planner.plan() is None


def test_several_models(repository: Repository) -> None:
    publish(repository, 5, name="other")
    planner = _planner(repository)
    rollout = _next(planner)
    assert rollout.routes == {"net": Route(stable=2), "other": Route(stable=1)}
    assert rollout.default == ""
    shutil.rmtree(repository.root / "other")
    assert _next(planner).routes == {"net": Route(stable=2)}
    publish(repository, 6, name="third")
    assert _next(planner).routes.keys() == {"net", "third"}


def test_only_named_models_are_served_the_first_by_default(repository: Repository) -> None:
    for name in ("other", "third"):
        publish(repository, 5, name=name)
    rollout = _next(_planner(repository, models=("third", "net", "third")))
    assert _versions(rollout) == [1, 2]
    assert list(rollout.routes) == ["third", "net"]
    assert rollout.default == "third"


def test_a_bad_model_does_not_keep_others_from_being_served(repository: Repository) -> None:
    publish(repository, 5, name="other")
    damage(repository, 1, name="other")
    assert _next(_planner(repository)).routes == {"net": Route(stable=2)}
    with pytest.raises(ModelRejected, match="other version 1"):
        _planner(repository, models=("net", "other")).plan()


def _make_unreadable(repository: Repository) -> None:
    (repository.root / "other").chmod(0)


def _make_entries_unknowable(repository: Repository) -> None:
    (repository.root / "other").chmod(0o444)


def _replace_by_link_to_unreadable(repository: Repository) -> None:
    hidden = repository.root.parent / "hidden"
    hidden.mkdir()
    (repository.root / "other").rename(hidden / "other")
    (repository.root / "other").symlink_to(hidden / "other")
    hidden.chmod(0)


def _replace_by_link_to_nothing(repository: Repository) -> None:
    shutil.rmtree(repository.root / "other" / "1")
    (repository.root / "other" / "1").symlink_to("nowhere")


def _replace_manifest_by_directory(repository: Repository) -> None:
    manifest = repository.root / "other" / "1" / "manifest.json"
    manifest.unlink()
    manifest.mkdir()


def _replace_model_by_pipe(repository: Repository) -> None:
    model = repository.root / "other" / "1" / "model.onnx"
    model.unlink()
    os.mkfifo(model)


def _replace_labels_by_directory(repository: Repository) -> None:
    (repository.root / "other" / "labels.json").mkdir()


DAMAGES = [
    (_make_unreadable, "other: other: can't be read: Permission denied"),
    (_make_entries_unknowable, "Permission denied"),
    (_replace_by_link_to_unreadable, "other: other: can't be read: Permission denied"),
    (_replace_by_link_to_nothing, ""),  # as if the version were removed
    (_replace_manifest_by_directory, "other/1/manifest.json: not a file"),
    (_replace_model_by_pipe, "other/1/model.onnx: not a file"),
    (_replace_labels_by_directory, "other: other/labels.json: Is a directory"),
]


@pytest.fixture
def open_repository() -> Iterator[Repository]:
    """Models `net` and `other`, in a folder that every user may read; the test runs as one who may not read all."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    made = Repository(folder / "models")
    publish(made, 1)
    publish(made, 2, name="other")
    yield made
    os.seteuid(os.getuid())
    for path in (folder / "hidden", made.root / "other"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("damage_it", "said"), DAMAGES, ids=[damage_it.__name__ for damage_it, _ in DAMAGES])
@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_model_that_can_not_be_read_keeps_no_other_from_changing(
    open_repository: Repository, damage_it: Callable[[Repository], None], said: str, when: str
) -> None:
    planner = _planner(open_repository)
    before = _next(planner) if when == "later" else None
    damage_it(open_repository)
    publish(open_repository, 3)
    if os.getuid() == 0:
        os.seteuid(65534)  # root may read everything
    rollout = _next(planner)
    assert rollout.routes["net"] == Route(stable=2)
    refused = "; ".join(map(str, rollout.refusals))
    assert said in refused
    assert str(open_repository.root) not in refused
    if before is not None and said:
        assert rollout.routes["other"] == before.routes["other"]
    else:
        assert "other" not in rollout.routes
        assert rollout.default == "net"  # the only one that can answer
    assert planner.plan() is None


def test_a_refusal_is_logged_once(repository: Repository, caplog: pytest.LogCaptureFixture) -> None:
    repository.write_labels("net", Labels(stable=1))
    damage(repository, 1)
    publish(repository, 5, name="other")
    planner = _planner(repository)
    planner.plan()
    _next(planner)
    assert [record.getMessage().partition(": sha256")[0] for record in caplog.records] == [
        "not served: net: labels.json: stable: version 1 can't be served; "
        "move the label with digits-models, or restore the version",
        "not served: net version 1: net/1/model.onnx",
    ]


def test_a_pinned_version_is_served_whatever_labels_say(repository: Repository) -> None:
    repository.write_labels("net", Labels(stable=2))
    assert _next(_planner(repository, model_version=1)).routes == {"net": Route(stable=1)}
    with pytest.raises(ModelRejected, match="--model-version: no version 7; available: 1, 2"):
        _planner(repository, model_version=7).plan()
    planner = _planner(repository, model_version=1)
    _next(planner)
    publish(repository, 1, name="other")
    assert planner.plan() is None
    with pytest.raises(InvalidConfig, match="of which model"):
        _planner(repository, model_version=1).plan()


def test_the_model_of_a_pinned_version_stays_the_same_whatever_happens_to_it(repository: Repository) -> None:
    planner = _planner(repository, model_version=1)
    _next(planner)
    publish(repository, 1, name="other")
    planner.exclude("net")
    assert _next(planner).routes == {}
    planner.include("net")
    assert _next(planner).routes.keys() == {"net"}
    shutil.rmtree(repository.root / "net")
    assert planner.plan() is None  # the only model is gone, so the rollout stays


def test_the_first_of_the_named_models_stays_the_default_when_it_is_gone(repository: Repository) -> None:
    publish(repository, 5, name="other")
    planner = _planner(repository, models=("net", "other"))
    _next(planner)
    shutil.rmtree(repository.root / "net")
    rollout = _next(planner)
    assert rollout.routes.keys() == {"other"}
    assert rollout.default == "net"


def test_the_reason_of_a_refusal_is_short_enough_to_be_sent(repository: Repository) -> None:
    planner = _planner(repository)
    _next(planner)
    (repository.root / "net" / "labels.json").write_text(json.dumps({"format": 1, "x" * 100_000: 1}))
    (refusal,) = _next(planner).refusals
    assert refusal.reason.startswith("net/labels.json: labels: xxx")
    assert len(refusal.reason) < 600


def test_extra_versions_are_the_newest_others(repository: Repository) -> None:
    publish(repository, 3)
    publish(repository, 4)
    damage(repository, 3)
    assert _versions(_next(_planner(repository, extra_versions=2))) == [4, 2, 1]
    repository.write_labels("net", Labels(stable=1))
    assert _versions(_next(_planner(repository, extra_versions=1))) == [1, 4]


def test_a_later_model_whose_images_do_not_fit_a_message_is_refused(repository: Repository) -> None:
    planner = _planner(repository, batcher=BatcherConfig(max_batch_rows=1), decoder=DecoderConfig(max_encoded_bytes=1))
    _next(planner)
    publish(repository, 3, side=300)
    rollout = _next(planner)
    assert _versions(rollout) == [2]
    assert "an image of 90000 bytes does not fit into this server's messages" in rollout.refusals[0].reason


def test_a_model_that_was_unloaded_stays_so_until_it_is_loaded(repository: Repository) -> None:
    publish(repository, 5, name="other")
    planner = _planner(repository)
    _next(planner)
    planner.exclude("other")
    assert _next(planner).routes.keys() == {"net"}
    publish(repository, 6, name="other")
    assert planner.plan() is None
    planner.include("other")
    assert _next(planner).routes["other"] == Route(stable=2)
    for attempt in (planner.exclude, planner.include):
        with pytest.raises(ModelNotFound):
            attempt("nobody")


def test_an_empty_repository_can_not_start(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no models here"):
        RolloutPlanner(ServerConfig(repository=tmp_path)).plan()


def test_other_files_are_not_models(repository: Repository) -> None:
    (repository.root / "net" / "3.tmp").mkdir()
    (repository.root / "net" / "03").mkdir()
    (repository.root / "..hidden").mkdir()
    (repository.root / "notes.json").write_text(json.dumps({}))
    assert _versions(_next(_planner(repository))) == [2]
