"""The plot: latency against load."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from serving.bench.result import Result
from serving.bench.rung import Rung

_TAILS = (("p50_ms", "-"), ("p99_ms", "--"))


def write_plot(results: Mapping[Rung, Result], path: Path) -> None:
    """Draws median (solid) and 99th percentile (dashed) of the latency over images a second, and writes a PNG file.

    A line joins the loads, from few callers or a low rate to many or a high one, of one kind, mode and size of request.

    Args:
        results: What was measured.
        path: Where to.

    Raises:
        OSError: Can't write there.
    """
    lines: dict[tuple[str, str, int], list[Result]] = defaultdict(list)
    for rung, result in results.items():
        if rung.kind != "engine" and result.images_per_s is not None:
            lines[rung.kind, rung.mode, rung.batch_rows].append(result)
    kinds = list(dict.fromkeys(kind for kind, _, _ in lines)) or ["wire"]
    figure = Figure(figsize=(6.0 * len(kinds), 5.0), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        colours: dict[str, Any] = {}
        for (found, mode, rows), line in lines.items():
            if found != kind:
                continue
            label = f"{mode} {rows:,} images".strip()
            for name, style in _TAILS:
                (drawn,) = axis.plot(
                    [result.images_per_s for result in line],
                    [getattr(result, name) for result in line],
                    style,
                    marker=".",
                    color=colours.get(label),
                    label=label if name == "p50_ms" else None,
                )
                colours[label] = drawn.get_color()
        axis.set(title=kind, xscale="log", yscale="log", xlabel="images/s", ylabel="latency in ms")
        axis.grid(visible=True, which="both", alpha=0.2)
        if colours:
            axis.legend(title="p50 solid, p99 dashed")
    figure.savefig(path, format="png", dpi=120)
