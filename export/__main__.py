"""The command `digits-export`. Options are checked before TensorFlow is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from export.options import publishing_options
from serving.repository.labels import CANARY, CANARY_SHARE
from training.command_line import (
    SETTINGS,
    data_dir_option,
    errors_in_one_line,
    examples,
    import_tensorflow_quietly,
    option,
    version_option,
)


@cloup.command(
    context_settings=SETTINGS,
    epilog=examples(
        "digits-export runs/first/model.keras --repository models",
        "digits-export runs/first/model.keras --repository models --label canary --share 0.25",
        "digits-export runs/first/model.keras --repository models --verify 1 --provider cuda",
    ),
)
@cloup.argument("model", type=click.Path(path_type=Path, dir_okay=False))
@cloup.option_group(
    "Data",
    option("--data", "source", help="New place of a folder that was moved: folder:PATH.", show_default="as trained"),
    data_dir_option(),
)
@cloup.option_group(
    "Proof",
    option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Execution provider to compare."),
    option("--limit", type=click.FloatRange(0, 1), default=1e-5, help="Largest allowed difference of a probability."),
    option("--verify", type=click.IntRange(1), help="Prove this published version; publish nothing new."),
)
@publishing_options(name_default="the architecture's, or that of the folder trained on")
@version_option()
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
    min_accuracy: float | None,
    allow_worse: bool,
) -> None:
    """Converts MODEL.keras to ONNX, proves that it computes the same, and publishes it."""
    if verify and (label or allow_worse or min_accuracy is not None):
        raise click.UsageError(
            "--verify publishes nothing, so it excludes --label, --min-accuracy and --allow-worse; "
            "digits-models labels versions"
        )
    if share is not None and label != CANARY:
        raise click.UsageError("--share needs --label canary")
    if not model.is_file():
        raise click.BadParameter(f"{model}: no such file", param_hint="MODEL")
    with errors_in_one_line():
        import_tensorflow_quietly()
        from export.acceptance import Demands
        from export.calibration import describe
        from export.exporter import Exporter
        from export.parity import ParityLimits
        from export.parity_table import lines, worst_lines
        from export.publishing import stable_that_stays
        from serving.repository.repository import Repository

        limits = ParityLimits(probabilities=limit)
        exporter = Exporter(model, data_dir=data_dir, source=source, provider=provider, limits=limits)
        target = Repository(repository)
        if verify is None:
            share = CANARY_SHARE if share is None else share
            demands = Demands(min_accuracy=min_accuracy, allow_worse=allow_worse)
            export = exporter.publish(target, model_name=name, label=label, share=share, demands=demands)
        else:
            export = exporter.verify(target, version=verify, model_name=name)
    if export.report is None:
        click.echo(f"already published as {target.root / export.model_name / str(export.version)}")
        return
    temperature = describe(export.calibration)
    more = {
        "temperature": temperature,
        "no digit": str(export.no_digit) if export.no_digit else None,
        "replaces": export.replaces,
    }
    for line in lines(export.report, reference="Keras", **more):
        click.echo(line)
    if export.refusal:
        raise click.ClickException(export.refusal)
    if export.version is None:
        for line in worst_lines(export.report, reference="Keras"):
            click.echo(line)
        raise click.ClickException(f"parity not proven, nothing published: {'; '.join(export.report.problems)}")
    click.echo(f"{'verified' if verify else 'published'} {target.root / export.model_name / str(export.version)}")
    if export.label_change:
        click.echo(str(export.label_change))
    if not verify and (stays := stable_that_stays(target, export.model_name, export.version)):
        click.echo(stays)


if __name__ == "__main__":
    main(prog_name="digits-export")
