"""The gate of the output `no_digit`: a model that fails either side is not published as one that knows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import no_digit_gate
from export.convert import convert
from export.no_digit_gate import NoDigitReport, check_no_digit
from export.trained_model import TrainedModel
from serving.config import EngineConfig
from serving.inference.engine import Engine
from serving.repository.manifest import NoDigit
from serving.repository.repository import Repository
from training.non_digits import KINDS


@pytest.fixture(scope="module")
def report(trained: TrainedModel, data) -> NoDigitReport:
    """Of a network that never learned what is no digit."""
    content = convert(trained, model_name="drawn", with_no_digit=True)
    engine = Engine(content, image_shape=(28, 28, 1), classes=10, config=EngineConfig(provider="cpu"))
    engine.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(no_digit_gate, "COUNT", 30)
        return check_no_digit(engine, data, validation_images=data.train_images[-200:])


def test_each_kind_and_each_source_is_measured(report: NoDigitReport) -> None:
    assert set(report.figures.caught) == set(KINDS)
    assert len(report.figures.kept) == 3
    assert 0 < report.figures.threshold < 1


def test_a_network_that_never_learned_it_fails_and_is_told_by_kind(report: NoDigitReport) -> None:
    assert any("are caught" in problem for problem in report.problems)
    assert "published without the output no_digit" in str(report)


def test_what_passes_is_summed_up_in_a_line() -> None:
    figures = NoDigit(threshold=0.4, caught={"noise": 1.0, "letters": 0.96}, kept={"test images": 0.995})
    said = str(NoDigitReport(figures=figures, problems=()))
    assert said == ("threshold 0.4; caught 98.00%, the least of letters, 96.00%; kept 99.50% of the test images")


def test_it_is_published_without_the_output_that_it_can_t_prove(
    digits_export, synthetic_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(no_digit_gate, "COUNT", 20)
    run = tmp_path / "run"
    shutil.copytree(synthetic_run, run)
    record = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**record, "knows_no_digit": True}))
    result = digits_export("--repository", tmp_path / "models", model=run / "model.keras")
    assert result.exit_code == 0, result.output
    assert "no digit       not known: " in result.output
    repository = Repository(tmp_path / "models")
    stored = repository.load("mnist_convnet", 1)
    assert stored.manifest.no_digit is None
    outputs = [value.name for value in onnx.load_from_string(stored.content).graph.output]
    assert outputs == ["logits", "probabilities"]


def test_parity_covers_no_digit(trained: TrainedModel, data) -> None:
    from export.parity import check_parity

    content = convert(trained, model_name="drawn", with_no_digit=True)
    model = onnx.load_from_string(content)
    for broken in (False, True):
        if broken:  # a digit is taken for none, and none for a digit
            negation = next(node for node in model.graph.node if node.op_type == "Neg")
            negation.op_type = "Identity"
        engine = Engine(
            model.SerializeToString(), image_shape=(28, 28, 1), classes=10, config=EngineConfig(provider="cpu")
        )
        engine.start()
        parity = check_parity(trained, engine, data.test_images[:50], data.test_labels[:50])
        assert parity.figures.passed is not broken
    assert np.isclose(parity.figures.probabilities_max_difference, 1, atol=0.2)
