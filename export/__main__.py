"""The command `digits-export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.repository.labels import CANARY, CANARY_SHARE, STABLE

if TYPE_CHECKING:
    from export.exporter import Export


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.argument("model", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--repository", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where it is published."
)
@click.option("--name", show_default="the architecture's", help="Name of the model in the repository.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="MNIST_DIR",
    show_envvar=True,
    help="Directory with MNIST's four IDX files, plain or .gz; without it they are downloaded once.",
)
@click.option("--data", "source", help="Where a folder of images is now: folder:PATH.", show_default="as trained")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", help="What the proof is for.")
@click.option("--limit", type=click.FloatRange(0, 1), default=1e-5, help="Largest difference of a probability.")
@click.option("--verify", type=click.IntRange(1), help="Prove this published version, and publish nothing new.")
@click.option(
    "--label",
    type=click.Choice([STABLE, CANARY]),
    show_default="labels stay",
    help="Give the version this label, once it is published.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    show_default=f"{CANARY_SHARE}",
    help="The canary's, of the calls that name no version; 0: it answers only calls that name it.",
)
def main(
    model: Path,
    repository: Path,
    name: str | None,
    data_dir: Path | None,
    source: str | None,
    provider: str,
    limit: float,
    verify: int | None,
    label: str | None,
    share: float | None,
) -> None:
    """Converts MODEL.keras to ONNX, proves that it computes the same, and publishes it."""
    if label and verify:
        raise click.UsageError(
            "--label goes with publishing, --verify publishes nothing; digits-models labels versions"
        )
    if share is not None and label != CANARY:
        raise click.UsageError("--share goes with --label canary")
    try:
        from training.tensorflow_log import import_tensorflow_quietly

        import_tensorflow_quietly()
        from export.exporter import Exporter
        from export.parity import ParityLimits
        from export.trained_model import UnusableModel
        from serving.errors import DigitsError
        from serving.repository.repository import Repository
        from training.datasets import DatasetError
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; exporting needs the extras train and cpu (or gpu): "
            "pip install 'digits-serving[train,cpu]'"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    exporter = Exporter(
        model, data_dir=data_dir, source=source, provider=provider, limits=ParityLimits(probabilities=limit)
    )
    target = Repository(repository)
    try:
        if verify is None:
            export = exporter.publish(
                target, model_name=name, label=label, share=CANARY_SHARE if share is None else share
            )
        else:
            export = exporter.verify(target, version=verify, model_name=name)
    except (DigitsError, DatasetError, UnusableModel) as error:
        raise click.ClickException(str(error)) from error
    _print_report(export)
    if export.version is None:
        for worst in export.report.worst:
            click.echo(
                f"image {worst.index:>5}  is {worst.label}  Keras {worst.keras_label}  ONNX {worst.onnx_label}"
                f"  differs by {worst.difference:.2e}"
            )
        raise click.ClickException(f"parity not proven, nothing published: {'; '.join(export.report.problems)}")
    click.echo(f"{'verified' if verify else 'published'} {target.root / export.model_name / str(export.version)}")
    if export.move:
        click.echo(str(export.move))


def _print_report(export: Export) -> None:
    figures, accuracy, calibration = export.report.figures, export.report.accuracy, export.calibration
    rows = [
        ("provider", export.report.provider),
        ("images", f"{figures.images:,} at batch sizes {', '.join(map(str, figures.batch_sizes))}"),
        ("labels equal", f"{figures.labels_equal:,} of {figures.images:,}"),
        ("logits", f"max {figures.logits_max_difference:.2e}  mean {figures.logits_mean_difference:.2e}"),
        (
            "probabilities",
            f"max {figures.probabilities_max_difference:.2e}  mean {figures.probabilities_mean_difference:.2e}"
            f"  limit {figures.probabilities_limit:.0e}",
        ),
        ("accuracy", f"Keras {accuracy.keras:.2%}  ONNX Runtime {accuracy.onnx:.2%}"),
    ]
    if calibration.images:
        rows.append(
            (
                "temperature",
                f"{calibration.temperature:.3f}, fitted on {calibration.images:,} validation images; "
                f"calibration error on the test images {calibration.error_before:.2%} before, "
                f"{calibration.error_after:.2%} after",
            )
        )
    else:
        rows.append(("temperature", f"{calibration.temperature:.3f}, without images to fit it on"))
    for title, value in rows:
        click.echo(f"{title:<14} {value}")


if __name__ == "__main__":
    main(prog_name="digits-export")
