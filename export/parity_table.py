"""The report of the parity gate as text, for `digits-export` and `digits-import`."""

from __future__ import annotations

from export.parity import ParityReport


def lines(report: ParityReport, *, reference: str, **more: str | None) -> list[str]:
    """A line for each figure.

    Args:
        report: The report.
        reference: What the engine was compared with: `Keras`, or another.
        more: Further rows, by title; None for no row.
    """
    figures = report.figures
    accuracy = "not measured, since the images have no labels; --data names images that have"
    if report.accuracy:
        accuracy = f"{reference} {report.accuracy.keras:.2%}  ONNX Runtime {report.accuracy.onnx:.2%}"
    rows = {
        "provider": report.provider,
        "images": f"{figures.images:,} at batch sizes {', '.join(map(str, figures.batch_sizes))}",
        "labels equal": f"{figures.labels_equal:,} of {figures.images:,}",
        "logits": f"max {figures.logits_max_difference:.2e}  mean {figures.logits_mean_difference:.2e}",
        "probabilities": f"max {figures.probabilities_max_difference:.2e}  "
        f"mean {figures.probabilities_mean_difference:.2e}  limit {figures.probabilities_limit:.0e}",
        "accuracy": accuracy,
        **more,
    }
    return [f"{title:<14} {value}" for title, value in rows.items() if value is not None]


def worst_lines(report: ParityReport, *, reference: str) -> list[str]:
    """A line for each of the images that differ most."""
    return [
        f"image {worst.index:>5}  is {worst.label or 'unknown'}  {reference} {worst.keras_label}  "
        f"ONNX {worst.onnx_label}  differs by {worst.difference:.2e}"
        for worst in report.worst
    ]
