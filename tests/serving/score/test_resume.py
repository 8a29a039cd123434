"""`digits-score` is killed, or its servers go away or change their model: every image is in the output exactly once."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from ports import free_port

from serving.repository.repository import Repository, StoredModel

BIN = Path(sys.executable).parent
COUNT = 30_000
SIZES = ("--batch-rows", "100", "--part-rows", "1000")

Start = Callable[..., object]


class ScoringRun:
    """The command in its own process, watched through its journal."""

    def __init__(self, folder: Path, out: str, *arguments: object) -> None:
        self._journal = folder / f"{out}.parts" / "journal.jsonl"
        self.process = subprocess.Popen(
            [BIN / "digits-score", "digits.npy", "--out", out, *SIZES, *map(str, arguments)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_parts(self, count: int) -> None:
        """Waits until this number of parts is finished."""
        while self._journal.read_text().count("\n") - 1 < count if self._journal.exists() else True:
            try:
                self.process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"the run ended: {self.process.communicate()}")

    def kill(self, after_s: float) -> None:
        """Kills it with SIGKILL after a time; it must still be running."""
        with pytest.raises(subprocess.TimeoutExpired):
            self.process.wait(after_s)
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Returns its exit code and what it wrote to stderr."""
        _, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: tuple) -> Path:
    """A directory with images, and the output of an undisturbed run."""
    made = tmp_path_factory.mktemp("scoring")
    np.save(made / "digits.npy", np.resize(digits[0][..., 0], (COUNT, 28, 28)))
    code, stderr = ScoringRun(made, "undisturbed.csv", "--local").end()
    assert code == 0, stderr
    return made


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> bytes:
    return (folder / "undisturbed.csv").read_bytes()


@pytest.mark.parametrize("local", [True, False], ids=["local", "served"])
def test_killed_five_times_at_random_the_output_is_the_same(
    folder: Path, undisturbed: bytes, server, local: bool
) -> None:
    lot = random.Random()
    where = ("--local",) if local else ("--target", server.address)
    out = f"killed-{local}.csv"
    for number in range(5):
        run = ScoringRun(folder, out, *where, "--resume")
        run.wait_for_parts(number * 4 + 1)
        run.kill(lot.uniform(0, 0.05))
        assert not (folder / out).exists()
    code, stderr = ScoringRun(folder, out, *where, "--resume").end()
    assert code == 0, stderr
    assert (folder / out).read_bytes() == undisturbed
    assert not (folder / f"{out}.parts").exists()


def test_a_killed_shard_continues_where_it_was_and_as_no_other_shard(folder: Path, undisturbed: bytes) -> None:
    run = ScoringRun(folder, "shard.csv", "--local", "--shard", "1/2")
    run.wait_for_parts(2)
    run.kill(0)
    code, stderr = ScoringRun(folder, "shard.csv", "--local", "--shard", "0/2", "--resume").end()
    assert code == 1
    assert "shard.csv.parts: started with another shard (1/2, now 0/2); --overwrite starts again" in stderr
    code, stderr = ScoringRun(folder, "shard.csv", "--local", "--shard", "1/2", "--resume").end()
    assert code == 0, stderr
    header, *rows = undisturbed.splitlines()
    assert (folder / "shard.csv").read_bytes().splitlines() == [header, *rows[COUNT // 2 :]]


def test_a_line_or_part_cut_off_by_a_crash_does_not_count(folder: Path, undisturbed: bytes) -> None:
    run = ScoringRun(folder, "cut.csv", "--local")
    run.wait_for_parts(4)
    run.kill(0)
    parts = folder / "cut.csv.parts"
    journal = parts / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4]) + lines[4][:40])
    (parts / "part-000000009000.csv").write_text("a part without a line\n")
    code, stderr = ScoringRun(folder, "cut.csv", "--local", "--resume").end()
    assert code == 0, stderr
    assert (folder / "cut.csv").read_bytes() == undisturbed


def test_a_part_that_was_changed_is_noticed(folder: Path) -> None:
    run = ScoringRun(folder, "changed.csv", "--local")
    run.wait_for_parts(2)
    run.kill(0)
    part = folder / "changed.csv.parts" / "part-000000000000.csv"
    part.write_bytes(part.read_bytes().replace(b",0,0,", b",1,1,", 1))
    code, stderr = ScoringRun(folder, "changed.csv", "--local", "--resume").end()
    assert code == 1
    assert "part-000000000000.csv: missing or changed since it was written" in stderr


def test_two_runs_never_write_to_one_output(folder: Path, undisturbed: bytes, server) -> None:
    first = ScoringRun(folder, "shared.csv", "--target", server.address)
    first.wait_for_parts(1)
    first.process.send_signal(signal.SIGSTOP)  # or it may end before the others have begun
    for how in ("--resume", "--overwrite"):
        code, stderr = ScoringRun(folder, "shared.csv", "--target", server.address, how).end()
        assert code == 1
        assert "another run is writing here" in stderr
    first.process.send_signal(signal.SIGCONT)
    assert first.end()[0] == 0
    assert (folder / "shared.csv").read_bytes() == undisturbed


def test_ctrl_c_keeps_what_was_scored(folder: Path, undisturbed: bytes) -> None:
    run = ScoringRun(folder, "interrupted.csv", "--local")
    run.wait_for_parts(2)
    run.process.send_signal(signal.SIGINT)
    code, stderr = run.end()
    assert code == 1
    assert stderr.splitlines()[-1] == "Error: interrupted; --resume continues the run"
    assert "Traceback" not in stderr
    assert ScoringRun(folder, "interrupted.csv", "--local", "--resume").end()[0] == 0
    assert (folder / "interrupted.csv").read_bytes() == undisturbed


def test_ctrl_c_keeps_the_part_that_was_being_written(folder: Path, undisturbed: bytes) -> None:
    run = ScoringRun(folder, "begun.csv", "--local", "--part-rows", COUNT)
    written = folder / "begun.csv.parts" / "part-being-written"
    while not written.exists() or written.stat().st_size < 20_000:  # bytes, of more than one batch
        with pytest.raises(subprocess.TimeoutExpired):
            run.process.wait(0.01)
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 1
    _, line = (folder / "begun.csv.parts" / "journal.jsonl").read_text().splitlines()
    kept = json.loads(line)["rows"]
    assert 0 < kept < COUNT
    assert kept % 100 == 0  # whole batches
    assert ScoringRun(folder, "begun.csv", "--local", "--resume").end()[0] == 0
    assert (folder / "begun.csv").read_bytes() == undisturbed


def test_a_run_waits_for_a_server_that_restarts(folder: Path, undisturbed: bytes, start_server: Start) -> None:
    port = free_port()
    with start_server("--port", str(port)) as first:
        run = ScoringRun(folder, "waited.csv", "--target", first.address)
        run.wait_for_parts(3)
        first.process.kill()
        first.process.wait()
    with start_server("--port", str(port)):
        code, stderr = run.end()
    assert code == 0, stderr
    assert (folder / "waited.csv").read_bytes() == undisturbed


def test_a_server_that_stays_away_stops_the_run_resumably(
    folder: Path, undisturbed: bytes, start_server: Start
) -> None:
    with start_server() as first:
        run = ScoringRun(folder, "stopped.csv", "--target", first.address, "--retry-s", 1)
        run.wait_for_parts(3)
        first.process.kill()
        code, stderr = run.end()
    assert code == 1
    assert f"{first.address}: UNAVAILABLE" in stderr
    assert "Traceback" not in stderr
    with start_server() as second:
        code, stderr = ScoringRun(folder, "stopped.csv", "--target", second.address, "--resume").end()
    assert code == 0, stderr
    assert (folder / "stopped.csv").read_bytes() == undisturbed


def test_with_several_servers_one_may_die(folder: Path, undisturbed: bytes, start_server: Start) -> None:
    with start_server() as first, start_server() as second:
        run = ScoringRun(folder, "several.csv", "--target", first.address, "--target", second.address)
        run.wait_for_parts(3)
        first.process.kill()
        code, stderr = run.end()
    assert code == 0, stderr
    assert (folder / "several.csv").read_bytes() == undisturbed


@pytest.fixture
def next_version(tmp_path: Path, shipped: StoredModel) -> Callable[[], Path]:
    """A repository with the shipped model; each call publishes one more version, with another digest."""
    repository = Repository(tmp_path / "models")

    def publish() -> Path:
        model = onnx.load_from_string(shipped.content)
        model.metadata_props.add(key="made_for_a_test", value="x" * (1 + len(list(tmp_path.glob("models/*/*")))))
        content = model.SerializeToString()
        digest = hashlib.sha256(content).hexdigest()
        repository.publish(content, dataclasses.replace(shipped.manifest, sha256=digest))
        return tmp_path / "models"

    return publish


def _versions(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["model_version"] for row in csv.DictReader(file)]


def test_a_model_that_changes_during_a_run_is_not_mixed_by_default(
    folder: Path, start_server: Start, next_version: Callable[[], Path]
) -> None:
    port = free_port()
    models = next_version()
    with start_server("--port", str(port), "--repository", str(models)) as first:
        run = ScoringRun(folder, "mixed.csv", "--target", first.address)
        run.wait_for_parts(3)
        first.process.kill()
        first.process.wait()
    next_version()
    with start_server("--port", str(port), "--repository", str(models)) as second:
        code, stderr = run.end()
        assert code == 1
        assert "mnist_convnet version 2" in stderr
        assert "in place of version 1" in stderr
        code, stderr = ScoringRun(folder, "mixed.csv", "--target", second.address, "--resume").end()
        assert code == 1
        assert "mixed.csv: started with mnist_convnet version 1, which is not available" in stderr
        assert "--mix-models continues with another" in stderr
        code, stderr = ScoringRun(
            folder, "mixed.csv", "--target", second.address, "--resume", "--model-version", 2
        ).end()
        assert code == 1
        assert "started with another model (mnist_convnet version 1" in stderr
        mixed = ScoringRun(folder, "mixed.csv", "--target", second.address, "--resume", "--mix-models")
        code, stderr = mixed.end()
        assert code == 0, stderr
    versions = _versions(folder / "mixed.csv")
    assert len(versions) == COUNT
    assert versions == sorted(versions)
    assert set(versions) == {"1", "2"}


def test_servers_of_different_models_are_refused(
    folder: Path, start_server: Start, next_version: Callable[[], Path], server
) -> None:
    with start_server("--repository", str(next_version())) as other:
        run = ScoringRun(folder, "different.csv", "--target", server.address, "--target", other.address)
        code, stderr = run.end()
    assert code == 1
    assert f"{other.address} serves mnist_convnet version 1" in stderr
    assert not (folder / "different.csv.parts").exists()
