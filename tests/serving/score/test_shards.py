"""`digits-score --shard` and `--merge`: all shards together are one run, byte for byte, or are refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from serving.commands import score
from serving.images.preparation import Preparation
from serving.score.batch import ScoredBatch, Scores, ScoringModel
from serving.score.formats import join_parts, open_part
from serving.score.shard import Shard
from serving.score.tally import Tally

IMAGES = 40
LABELS = tuple("0123456789")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(score.main, [str(each) for each in arguments])


def _score(*arguments: object) -> Result:
    done = _run(*arguments, "--local", "--engines", 1)
    assert done.exit_code == 0, done.output
    return done


def _in_shards(count: int, source: str, name: str, suffix: str, *options: object) -> None:
    for index in range(count):
        _score(source, "--out", f"{name}-{index}{suffix}", "--shard", f"{index}/{count}", *options)


def _bytes(out: str) -> tuple[bytes, bytes]:
    return Path(out).read_bytes(), Path(f"{out}.summary.json").read_bytes()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, digits: tuple) -> Path:
    """A folder with arrays, and a folder of labelled files, some of which are no images or wrongly labelled."""
    made = tmp_path_factory.mktemp("inputs")
    np.save(made / "digits.npy", digits[0][:IMAGES, :, :, 0])
    np.save(made / "few.npy", digits[0][:5, :, :, 0])
    for number in range(IMAGES):
        label = digits[1][number] if number % 3 else (digits[1][number] + 1) % 10
        path = made / "scans" / str(label) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][number, :, :, 0]).save(path)
    for number in range(5):
        (made / "scans" / str(number) / "bad, really.png").write_bytes(b"" if number % 2 else b"no image")
    return made


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Path:
    """The outputs of an array in three shards, read-only; and of shards that do not fit in."""
    made = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        shutil.copy2(inputs / "digits.npy", made)
        _in_shards(3, "digits.npy", "part", ".csv")
        _score("digits.npy", "--out", "of-four.csv", "--shard", "1/4")
        _score("digits.npy", "--out", "unsure.csv", "--shard", "1/3", "--min-confidence", 0.5)
        _score("digits.npy", "--out", "whole.csv")
        changed = np.load("digits.npy")
        changed[0, 14, 14] ^= 1
        np.save("digits.npy", changed)
        _score("digits.npy", "--out", "other-input.csv", "--shard", "1/3")
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("suffix", "count", "source", "options"),
    [
        (".csv", 4, "scans", ("--label-folders", "--probabilities", "--batch-rows", 3)),
        (".jsonl", 3, "scans", ("--label-folders", "--min-confidence", 0.9)),
        (".parquet", 3, "scans", ("--label-folders", "--part-rows", 5, "--batch-rows", 4)),
        (".csv", 3, "digits.npy", ("--columns", "kaggle")),
        (".csv", 7, "few.npy", ()),
    ],
    ids=["csv", "json lines", "parquet", "kaggle", "more shards than images"],
)
def test_merged_shards_are_the_bytes_of_one_run(
    folder: Path, inputs: Path, suffix: str, count: int, source: str, options: tuple
) -> None:
    (folder / source).symlink_to(inputs / source)
    whole = _score(source, "--out", f"whole{suffix}", *options)
    _in_shards(count, source, "part", suffix, *options)
    merged = _run("--merge", f"part-*{suffix}", "--out", f"merged{suffix}")
    assert merged.exit_code == 0, merged.output
    assert merged.stdout.replace("merged", "whole") == whole.stdout
    assert _bytes(f"merged{suffix}") == _bytes(f"whole{suffix}")
    assert not list(folder.glob("*.parts"))


def test_shards_have_every_image_once() -> None:
    for total, count in ((0, 3), (5, 16), (16, 16), (1_000_003, 16)):
        images = [Shard(index=index, count=count).images(total) for index in range(count)]
        assert [each.start for each in images[1:]] == [each.stop for each in images[:-1]]
        assert (images[0].start, images[-1].stop) == (0, total)
        assert max(map(len, images)) - min(map(len, images)) <= 1


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("16/16", "there is no shard 16/16: shards count from 0, so the last one is 15/16"),
        ("3", "'3' is not a shard: give INDEX/COUNT, such as 0/16 for the first of 16"),
        ("-1/4", "'-1/4' is not a shard"),
        ("0/0", "'0/0' is not a shard"),
    ],
)
def test_shards_count_from_0(folder: Path, shard: str, said: str) -> None:
    done = _run("x.npy", "--out", "part.csv", "--shard", shard)
    assert done.exit_code == 2
    assert f"--shard: {said}" in done.output


def test_a_shard_in_which_nothing_can_be_read_is_done_and_the_whole_is_judged(folder: Path) -> None:
    (folder / "scans").mkdir()
    for name in "ab":
        (folder / "scans" / f"{name}.png").write_bytes(b"no image")
    _in_shards(3, "scans", "part", ".csv")
    assert Path("part-0.csv").read_text().count("\n") == 1  # the header
    whole = _run("scans", "--local", "--out", "whole.csv")
    merged = _run("--merge", "part-0.csv", "part-1.csv", "part-2.csv", "--out", "merged.csv")
    assert (whole.exit_code, merged.exit_code) == (1, 1)
    assert merged.stderr == whole.stderr == "Error: not one image could be read; the output says why for each\n"
    assert _bytes("merged.csv") == _bytes("whole.csv")


def _change(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[-2] ^= 1
    Path(path).write_bytes(content)


def _edit_summary(path: str, **changes: object) -> None:
    summary = Path(f"{path}.summary.json")
    document = json.loads(summary.read_text())
    document["tally"].update(changes)
    summary.write_text(json.dumps(document))


def _leave_journal(path: str) -> None:
    Path(f"{path}.parts").mkdir()
    Path(f"{path}.parts", "journal.jsonl").touch()


ALL = ("part-0.csv", "part-1.csv", "part-2.csv")


@pytest.mark.parametrize(
    ("named", "before", "said"),
    [
        (("part-0.csv", "part-2.csv"), None, "missing: shard 1/3"),
        ((*ALL, "copy.csv"), None, "copy.csv: is shard 1/3, and so is part-1.csv"),
        (("part-*.csv", "part-1.csv"), None, "part-1.csv: is shard 1/3, and so is part-1.csv"),
        (ALL, lambda: _change("part-1.csv"), "part-1.csv: changed since shard 1/3 was finished; score the shard again"),
        (ALL, lambda: _leave_journal("part-1.csv"), "part-1.csv: the shard is unfinished; --resume continues it"),
        (ALL, lambda: _edit_summary("part-1.csv", images=12), "part-1.csv: has 12 of the 13 images of shard 1/3"),
        (ALL, Path("part-1.csv.summary.json").unlink, "part-1.csv: not made by digits-score: there is no part-1.csv"),
        (("part-0.csv", "nowhere.csv"), None, "nowhere.csv: no such file"),
        ((".",), None, ".: a folder; name the outputs in it, such as 'part-*.csv'"),
        (("nothing-*.csv",), None, "nothing-*.csv: no file matches this pattern"),
        ((*ALL, "whole.csv"), None, "whole.csv: the output of a run without --shard"),
        ((*ALL, "digits.npy"), None, "digits.npy: does not end in .csv, as the merged output does"),
        (("part-0.csv", "of-four.csv"), None, "of-four.csv: is shard 1/4, but part-0.csv is shard 0/3"),
        (("part-0.csv", "part-2.csv", "other-input.csv"), None, "other-input.csv: scored with other inputs"),
        (
            ("part-0.csv", "part-2.csv", "unsure.csv"),
            None,
            "unsure.csv: scored with other options (--min-confidence 0.5, part-0.csv: 0.0)",
        ),
        ((*ALL, "merged.csv"), None, "merged.csv: is named both as a shard and as the output"),
    ],
)
def test_what_is_not_a_whole_is_refused_and_nothing_is_written(
    folder: Path, three_shards: Path, named: Sequence[str], before: Callable | None, said: str
) -> None:
    shutil.copytree(three_shards, folder, dirs_exist_ok=True)
    for end in ("", ".summary.json"):
        shutil.copy(f"part-1.csv{end}", f"copy.csv{end}")
    Path("merged.csv").write_text("an earlier output")
    if before:
        before()
    there = sorted(folder.iterdir())
    done = _run("--merge", *named, "--out", "merged.csv", "--overwrite")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {said}")
    assert sorted(folder.iterdir()) == there
    assert Path("merged.csv").read_text() == "an earlier output"


def test_shards_of_other_models_are_refused_unless_they_may_mix(
    folder: Path, inputs: Path, shades: Path, three_shards: Path
) -> None:
    """The versions 1 and 5 of "shades" have the same labels."""
    shutil.copy2(inputs / "digits.npy", folder)
    for index, version in enumerate((1, 5)):
        model = ("--repository", shades, "--model-version", version)
        _score("digits.npy", "--out", f"part-{index}.csv", "--shard", f"{index}/2", *model)
    done = _run("--merge", "part-0.csv", "part-1.csv", "--out", "merged.csv")
    assert done.exit_code == 1
    assert "part-1.csv: scored with another model (shades version 5, " in done.stderr
    assert "; part-0.csv: shades version 1, " in done.stderr
    assert not Path("merged.csv").exists()
    assert _run("--merge", "part-0.csv", "part-1.csv", "--out", "merged.csv", "--mix-models").exit_code == 0
    assert Path("merged.csv").read_text().count("\n") == IMAGES + 1


def test_shards_from_servers_of_other_precisions_are_refused(
    folder: Path, inputs: Path, start_server: Callable
) -> None:
    shutil.copy2(inputs / "digits.npy", folder)
    for index, precision in enumerate(("float32", "int8")):
        with start_server("--precision", precision) as server:
            shard = ("digits.npy", "--out", f"part-{index}.csv", "--shard", f"{index}/2", "--target", server.address)
            assert _run(*shard).exit_code == 0
    done = _run("--merge", "part-0.csv", "part-1.csv", "--out", "merged.csv")
    assert done.exit_code == 1
    assert "part-1.csv: scored with another model (mnist_convnet version 1 in int8, " in done.stderr


def test_a_shard_that_was_finished_before_a_newer_version_came_stays_finished(
    folder: Path, inputs: Path, shades: Path
) -> None:
    shutil.copy2(inputs / "digits.npy", folder)
    shutil.copytree(shades / "shades" / "1", folder / "models" / "shades" / "1")
    shard = ("digits.npy", "--out", "part.csv", "--shard", "0/2", "--repository", "models", "--resume")
    _score(*shard)
    shutil.copytree(shades / "shades" / "5", folder / "models" / "shades" / "5")
    before = _bytes("part.csv")
    _score(*shard)
    assert _bytes("part.csv") == before


def test_shards_may_come_from_copies_of_the_input_but_a_run_is_resumed_on_its_own(folder: Path, inputs: Path) -> None:
    for index in range(2):
        machine = folder / f"machine-{index}"
        shutil.copytree(inputs, machine)
        for number, path in enumerate(sorted(machine.rglob("*.*"))):
            os.utime(path, (0, 1000 * index + number))
        os.chdir(machine)
        for source in ("scans", "digits.npy"):
            _score(source, "--out", f"{folder}/{source}-{index}.csv", "--shard", f"{index}/2")
    for source in ("scans", "digits.npy"):
        outs = [f"{folder}/{source}-{index}.csv" for index in range(2)]
        merged = _run("--merge", *outs, "--out", folder / f"merged-{source}.csv")
        assert merged.exit_code == 0, merged.output
        resumed = _run(source, "--out", outs[0], "--shard", "0/2", "--resume", "--local")
        assert "the inputs have changed" in resumed.stderr
    resumed = _run("digits.npy", "--out", outs[1], "--resume", "--local")
    assert "started with another shard (1/2, now all images)" in resumed.stderr


def test_an_output_is_replaced_only_on_request_and_other_options_are_refused(folder: Path, three_shards: Path) -> None:
    shutil.copytree(three_shards, folder, dirs_exist_ok=True)
    Path("merged.csv").write_text("mine")
    merge = ("--merge", *ALL, "--out", "merged.csv")
    done = _run(*merge)
    assert (done.exit_code, done.stderr) == (1, "Error: merged.csv: already exists; --overwrite replaces it\n")
    assert Path("merged.csv").read_text() == "mine"
    assert _run(*merge, "--overwrite").exit_code == 0
    assert _bytes("merged.csv") == _bytes("whole.csv")
    refused = _run(*merge, "--resume")
    assert refused.exit_code == 2
    assert "--resume can't be combined with --merge, which scores nothing" in refused.output


@pytest.mark.parametrize(("suffix", "rows"), [(".csv", 500), (".jsonl", 500), (".parquet", 150_000)])
def test_what_is_joined_does_not_depend_on_where_parts_end(tmp_path: Path, suffix: str, rows: int) -> None:
    columns = [("id", "text"), ("label", "integer"), ("confidence", "real")]
    joined = []
    for ends in ([], [1, 2, rows // 2, 14 * rows // 15], [min(rows, 65_536)] * 2):
        parts = []
        for number, (start, stop) in enumerate(zip([0, *ends], [*ends, rows], strict=True)):
            parts.append(tmp_path / f"{len(joined)}-{number}{suffix}")
            part = open_part(parts[-1], suffix, columns)
            for first in range(start, stop, 50_000):
                numbers = range(first, min(first + 50_000, stop))
                part.write([[f"{each:09d}" * 8 for each in numbers], list(numbers), [each / rows for each in numbers]])
            part.close()
        out = tmp_path / f"{len(joined)}{suffix}"
        join_parts(parts, out, suffix, columns)
        joined.append(out.read_bytes())
    assert joined[0] == joined[1] == joined[2]
    if suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(out)
        assert [file.metadata.row_group(n).num_rows for n in range(3)] == [65_536, 65_536, 150_000 - 131_072]
        assert file.read()["label"].to_pylist() == list(range(rows))


def test_totals_do_not_depend_on_where_parts_end() -> None:
    """More reasons than are kept, statuses in any order, and many mistakes of the same confidence."""
    preparation = Preparation(kind="mnist", height=28, width=28, channels=1)
    model = ScoringModel(name="digits", version=1, sha256="0" * 64, labels=LABELS, preparation=preparation)
    lot = random.Random(5)
    rows = [
        (lot.randrange(10), lot.choice((0.5, 0.99, 1.0)), 3 if number < 40 else lot.choice((0, 0, 1, 2, 3)))
        for number in range(1500)
    ]
    reasons = {index: f"reason {lot.randrange(300)}" for index in range(0, 1500, 3)}

    def batch(start: int, stop: int) -> ScoredBatch:
        errors = {index - start: reason for index, reason in reasons.items() if start <= index < stop}
        indices = [index for index in range(stop - start) if index not in errors]
        labels, confidences, statuses = zip(*(rows[start + index] for index in indices), strict=True)
        scores = Scores(
            model=model,
            labels=np.array(labels, np.int64),
            confidences=np.array(confidences, np.float32),
            probabilities=None,
            statuses=np.array(statuses, np.int64),
        )
        return ScoredBatch(
            ids=[f"{index:04d}" for index in range(start, stop)],
            expected=[LABELS[index % 10] for index in range(start, stop)],
            indices=np.array(indices, np.int64),
            errors=errors,
            scores=scores,
        )

    found = []
    for ends in ([], [40, 41 + 3, 600], sorted(lot.sample(range(0, 1500, 5), 20))):
        total = Tally(labels=LABELS)
        for start, stop in zip([0, *ends], [*ends, 1500], strict=True):
            part = Tally(labels=LABELS)
            if stop > start:
                scored = batch(start, stop)
                part.add(scored, np.ones(len(scored.indices), bool))
            total.merge(Tally.from_document(LABELS, json.loads(json.dumps(part.to_document()))))
        found.append(json.dumps(total.to_document()))
    assert found[0] == found[1] == found[2]
    reasons_kept = json.loads(found[0])["reasons"]
    assert len(reasons_kept) == 101
    assert sum(reasons_kept.values()) == len(reasons)
