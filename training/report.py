"""The report of one or several runs: a self-contained HTML page, and its charts as PNG files beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from training import charts
from training.comparison import group, same_test
from training.run_record import RunRecord

PAGE_FILE = "report.html"

# Prints a line for the user.
Echo = Callable[[object], object]


def write_report(runs: Mapping[str, RunRecord], directory: Path) -> Path:
    """Writes `report.html` and its charts, and returns the path of the page.

    The page embeds its charts and loads nothing. For one run it shows learning curves, confusion matrix, precision and
    recall by class, the worst mistakes, calibration and the parameters of each layer. For several runs it shows their
    learning curves and metrics together, mean and spread over seeds, and the parameters of each network.

    Args:
        runs: One or more records, by the name that the page shows.
        directory: Directory for the files; created if missing.

    Raises:
        OSError: The files can't be written.
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
        autoescape=True,  # class names are folder names, which may contain anything
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


def write_comparison(runs: Mapping[str, RunRecord], directory: Path, echo: Echo) -> None:
    """Prints mean and spread of runs that differ only in their seed, and writes the report that compares all runs."""
    for each in group(list(runs.values())):
        if len(each.runs) > 1:
            echo(
                f"{each.title}, seeds {', '.join(map(str, each.seeds))}: test accuracy mean {each.test.mean:.3%}, "
                f"lowest {each.test.minimum:.2%}, standard deviation {each.test.deviation:.3%}; "
                f"validation mean {each.validation.mean:.3%}; {each.seconds.mean:.0f} s each"
            )
    echo(write_report(runs, directory))


def _one_of_each_network(records: list[RunRecord]) -> list[RunRecord]:
    """Networks that differ only in normalisation or weights have the same table."""
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
