"""The report of one run or of several: a self-contained HTML page, and its pictures as PNG files beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from training import charts
from training.comparison import group, same_test
from training.record import RunRecord

PAGE_FILE = "report.html"


def write_report(runs: Mapping[str, RunRecord], directory: Path) -> Path:
    """Writes `report.html` and the pictures that it holds, and returns the page's path.

    The page loads nothing: its pictures are part of it. For one run it has learning curves, confusion matrix, precision
    and recall by class, the worst mistakes, calibration and the parameters of each layer; for several the curves
    together, the figures side by side, mean and spread over seeds, and the parameters of each network.

    Args:
        runs: One record or more, by the name that the page calls it.
        directory: Is made where it is missing.

    Raises:
        OSError: Can't write there.
    """
    records = list(runs.values())
    single = records[0] if len(records) == 1 else None
    figures = {"curves": charts.curves(runs)}
    if single:
        figures["confusion"] = charts.confusion(single.evaluation)
        figures["calibration"] = charts.calibration(single.evaluation)
        if single.evaluation.mistake_count:
            figures["mistakes"] = charts.mistakes(single.evaluation)
    pictures = {name: _png(figure) for name, figure in figures.items()}
    groups = group(records)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of classes are names of folders, which may hold anything
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(PAGE_FILE).render(
        title=_title(runs, single),
        runs=runs,
        single=single,
        comparable=same_test(records),
        groups=groups if len(groups) < len(records) else (),
        networks=_one_of_each_network(records),
        pictures={name: base64.b64encode(content).decode() for name, content in pictures.items()},
    )
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (directory / f"{name}.png").write_bytes(content)
    path = directory / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path


def _one_of_each_network(records: list[RunRecord]) -> list[RunRecord]:
    """Networks that differ in normalisation or weights only have the same table."""
    first: dict[tuple[str, int], RunRecord] = {}
    for record in records:
        first.setdefault((record.metrics["architecture"], record.metrics["parameters"]), record)
    return list(first.values())


def _title(runs: Mapping[str, RunRecord], single: RunRecord | None) -> str:
    if single is None:
        return f"{len(runs)} runs compared"
    metrics = single.metrics
    return f"{metrics['architecture']} on {metrics['data']['source']}, seed {metrics['seed']}"


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
