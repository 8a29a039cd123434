"""The notebook runs from training to a served answer, and what it shows in the repository is what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"

pytestmark = pytest.mark.slow


@pytest.fixture
def cells() -> list[dict]:
    """Its cells with code."""
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_from_top_to_bottom(cells: list[dict], tmp_path: Path) -> None:
    """Its cells are plain Python, so that this needs no Jupyter."""
    program = tmp_path / "notebook.py"
    program.write_text("\n".join("".join(cell["source"]) + "\n" for cell in cells))
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    read, paper, stopped = done.stdout.splitlines()[-3:]
    assert read == "read: 0 1 2 3 4 5 6 7 8 9"
    assert paper.startswith("7, 9")
    assert stopped == "the server stopped with 0"
    assert "published models/mnist_convnet/1" in done.stdout


def test_its_outputs_are_those_of_one_run_without_errors(cells: list[dict]) -> None:
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    text = "".join("".join(output.get("text", [])) for output in outputs)
    assert "read: 0 1 2 3 4 5 6 7 8 9\n" in text
    assert "/tmp/" not in text
    assert NOTEBOOK.stat().st_size < 150_000
