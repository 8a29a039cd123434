"""The charts of a report, drawn by matplotlib without a display."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.evaluation import RELIABILITY_BINS, Evaluation
from training.run_record import RunRecord

_DPI = 110
_COLUMNS = 8


def curves(runs: Mapping[str, RunRecord]) -> Figure:
    """Draws loss and accuracy by epoch: training dashed, validation solid, one colour per run."""
    figure = _figure(11, 4.2)
    loss, accuracy = figure.subplots(1, 2)
    for index, (name, run) in enumerate(runs.items()):
        history, colour = run.metrics["history"], f"C{index}"
        epochs = range(1, len(history["loss"]) + 1)
        for axes, figures in ((loss, "loss"), (accuracy, "accuracy")):
            marker = "o" if len(epochs) < 3 else None
            label = "training" if len(runs) == 1 else None
            axes.plot(epochs, history[figures], linestyle="--", color=colour, alpha=0.7, marker=marker, label=label)
            label = "validation" if len(runs) == 1 else _plain(name)
            axes.plot(epochs, history[f"val_{figures}"], color=colour, marker=marker, label=label)
            if run.overfitting_epoch:
                note = f"overfitting begins after epoch {run.overfitting_epoch}" if len(runs) == 1 else None
                axes.axvline(run.overfitting_epoch, color=colour, linestyle=":", label=note)
    for axes, title in ((loss, "loss"), (accuracy, "accuracy")):
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss.set_yscale("log")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    handles, labels = loss.get_legend_handles_labels()
    if len(runs) > 1:
        # Below the axes, since the names of many runs would hide the curves.
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    else:
        loss.legend(fontsize="small")
    return figure


def confusion(evaluation: Evaluation) -> Figure:
    """Draws true against predicted classes; correct predictions stay uncoloured so that mistakes stand out."""
    counts = evaluation.confusion()
    names = [_plain(name) for name in evaluation.label_names]
    side = max(5.0, 0.55 * len(names) + 1.5)
    figure = _figure(side, side)
    axes = figure.add_subplot()
    mistakes = np.where(np.eye(len(names), dtype=bool), 0, counts)
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(1, mistakes.max()))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            weight = "bold" if row == column else "normal"
            dark = mistakes[row, column] > mistakes.max() / 2
            colour = "white" if dark and row != column else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, weight=weight, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def calibration(evaluation: Evaluation) -> Figure:
    """Draws accuracy against confidence, and the number of predictions at each confidence."""
    bins = evaluation.reliability()
    figure = _figure(5.5, 5.5)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence = [row.confidence for row in bins]
    curve.plot([0, 1], [0, 1], linestyle="--", color="grey", label="perfect calibration")
    curve.plot(confidence, [row.accuracy for row in bins], marker="o", label="this network")
    curve.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    curve.legend(loc="upper left", fontsize="small")
    counts.bar(confidence, [row.images for row in bins], width=0.8 / RELIABILITY_BINS)
    counts.set(xlabel="confidence", ylabel="images", yscale="log")
    for axes in (curve, counts):
        axes.grid(alpha=0.3)
    return figure


def mistakes(evaluation: Evaluation) -> Figure:
    """Draws the worst mistakes, each with its true class, the predicted class and the confidence."""
    rows = max(1, math.ceil(len(evaluation.mistakes) / _COLUMNS))
    figure = _figure(1.4 * _COLUMNS, 1.9 * rows)
    grid: list[Axes] = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    names = [_plain(name) for name in evaluation.label_names]
    predictions, confidences = evaluation.predictions, evaluation.confidences
    for axes, position, image in zip(grid, evaluation.mistakes, evaluation.mistake_images, strict=False):
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        true, predicted = names[evaluation.labels[position]], names[predictions[position]]
        axes.set_title(f"true {true}\npredicted {predicted}, {confidences[position]:.0%}", fontsize=7, wrap=True)
    return figure


def _plain(name: str) -> str:
    """Escapes the name of a class or run: matplotlib would set text between dollar signs as a formula."""
    return name.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
