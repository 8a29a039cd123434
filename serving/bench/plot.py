"""The plot of latency against throughput."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from serving.bench.result import Result
from serving.bench.scenario import Scenario

_TAILS = (("p50_ms", "-"), ("p99_ms", "--"))


def write_plot(results: Mapping[Scenario, Result], path: Path) -> None:
    """Draws the median (solid) and the 99th percentile (dashed) of latency over images per second, as PNG.

    A line connects the loads, from low to high, of one layer (or front end), mode and request size.

    Args:
        results: The results.
        path: File to write.

    Raises:
        OSError: The file can't be written.
    """
    lines: dict[tuple[str, str, int], list[Result]] = defaultdict(list)
    for scenario, result in results.items():
        if scenario.layer != "engine" and result.images_per_s is not None:
            lines[scenario.target, scenario.mode, scenario.batch_rows].append(result)
    layers = list(dict.fromkeys(layer for layer, _, _ in lines)) or ["wire"]
    figure = Figure(figsize=(6.0 * len(layers), 5.0), layout="constrained")
    axes = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
    for axis, layer in zip(axes, layers, strict=True):
        colours: dict[str, Any] = {}
        for (found, mode, rows), line in lines.items():
            if found != layer:
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
        axis.set(title=layer, xscale="log", yscale="log", xlabel="images/s", ylabel="latency in ms")
        axis.grid(visible=True, which="both", alpha=0.2)
        if colours:
            axis.legend(title="p50 solid, p99 dashed")
    figure.savefig(path, format="png", dpi=120)
