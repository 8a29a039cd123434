"""The command `digits-export`. Options are checked before TensorFlow is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from export.options import publishing_options
from serving.repository.labels import CANARY, CANARY_SHARE
from serving.repository.precision import FLOAT32, INT8
from training.command_line import (
    SETTINGS,
    data_dir_option,
    errors_in_one_line,
    examples,
    import_tensorflow_quietly,
    option,
    version_option,
)

if TYPE_CHECKING:
    from export.exporter import Export
    from serving.repository.repository import Repository


@cloup.command(
    context_settings=SETTINGS,
    epilog=examples(
        "digits-export runs/first/model.keras --repository models",
        "digits-export runs/first/model.keras --repository models --label canary --share 0.25",
        "digits-export runs/first/model.keras --repository models --precision int8",
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
    option(
        "--precision",
        type=click.Choice([FLOAT32, INT8]),
        default=FLOAT32,
        help="int8: also in int8, for CPUs. Published before in float32 alone, a version gets it added.",
    ),
    option("--limit", type=click.FloatRange(0, 1), default=1e-5, help="Largest allowed difference of a probability."),
    option(
        "--verify",
        type=click.IntRange(1),
        help="Prove this published version; publish nothing new. This changes its manifest, so a signed version needs "
        "a new signature: add --sign.",
    ),
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
    precision: str,
    limit: float,
    verify: int | None,
    label: str | None,
    share: float | None,
    sign: Path | None,
    min_accuracy: float | None,
    allow_worse: bool,
) -> None:
    """Converts MODEL.keras to ONNX, proves that it computes the same, and publishes it."""
    if verify and (label or allow_worse or min_accuracy is not None):
        raise click.UsageError(
            "--verify publishes nothing, so it excludes --label, --min-accuracy and --allow-worse; "
            "digits-models labels versions"
        )
    if precision == INT8 and provider != "cpu":
        raise click.UsageError("--precision int8 runs on the CPU only: leave out --provider cuda")
    if share is not None and label != CANARY:
        raise click.UsageError("--share needs --label canary")
    if not model.is_file():
        raise click.BadParameter(f"{model}: no such file", param_hint="MODEL")
    with errors_in_one_line():
        from serving.repository.signature import SigningKey

        signing_key = SigningKey.read(sign) if sign else None
        import_tensorflow_quietly()
        from export.acceptance import Demands
        from export.exporter import Exporter
        from export.parity import ParityLimits
        from serving.repository.repository import Repository

        limits = ParityLimits(probabilities=limit)
        exporter = Exporter(
            model, data_dir=data_dir, source=source, provider=provider, limits=limits, precision=precision
        )
        target = Repository(repository, signing_key=signing_key)
        if verify is None:
            share = CANARY_SHARE if share is None else share
            demands = Demands(min_accuracy=min_accuracy, allow_worse=allow_worse)
            export = exporter.publish(target, model_name=name, label=label, share=share, demands=demands)
        else:
            export = exporter.verify(target, version=verify, model_name=name)
    for line in _figures(export):
        click.echo(line)
    if export.refusal:
        raise click.ClickException(export.refusal)
    if export.version is None:
        problems = export.report.problems if export.report else ()
        raise click.ClickException(f"parity not proven, nothing published: {'; '.join(problems)}")
    for line in _outcome(export, export.version, target, verified=verify is not None, with_key=sign is not None):
        click.echo(line)


def _figures(export: Export) -> Iterator[str]:
    """What the gates measured, line by line; if parity failed, with the worst images."""
    from export.calibration import describe
    from export.parity_table import lines, worst_lines

    if export.report:
        more = {
            "temperature": describe(export.calibration),
            "no digit": str(export.no_digit) if export.no_digit else None,
            "replaces": export.replaces,
        }
        yield from lines(export.report, reference="Keras", **more)
        if export.report.problems:
            yield from worst_lines(export.report, reference="Keras")
    if export.int8:
        yield from export.int8.lines


def _outcome(export: Export, version: int, target: Repository, *, verified: bool, with_key: bool) -> Iterator[str]:
    """What was published, added or proven, line by line."""
    from export.publishing import how_to_sign, stable_that_stays

    if export.report is not None:
        done = "verified" if verified else "published"
    elif export.int8 is not None:
        done = "verified int8 of" if verified else "added int8 to"
    else:
        done = "already published as"
    name, is_new = export.model_name, done == "published"
    unsigned = ""
    if done == "already published as":
        unsigned = how_to_sign("not signed now", target, name, version) if with_key else ""
    elif not is_new and not with_key and target.is_signed(name, version):
        why = "its signature no longer holds, since its manifest was changed; sign it again"
        unsigned = how_to_sign(why, target, name, version)
    yield f"{done} {target.root / name / str(version)}{unsigned}"
    if export.label_change:
        yield str(export.label_change)
    if is_new and (stays := stable_that_stays(target, name, version)):
        yield stays


if __name__ == "__main__":
    main(prog_name="digits-export")
