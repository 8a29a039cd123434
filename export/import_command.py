"""The command `digits-import`. Options are checked before TensorFlow is imported; an ONNX file needs none of it."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from export.options import class_names, image_size_value, nonzero, numbers, one_number, publishing_options
from serving.repository.labels import CANARY, CANARY_SHARE
from serving.repository.manifest import PREPARATIONS
from training.architectures import ARCHITECTURES
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
        "digits-import my_model.keras --repository models --data mnist",
        "digits-import resnet.onnx --repository models --scale 1/255 --mean 0.1307 --std 0.3081",
        "digits-import exported_dir --repository models --labels cat,dog --data folder:pictures",
    ),
)
@cloup.argument("model", type=click.Path(path_type=Path, exists=True))
@cloup.option_group(
    "Input",
    option(
        "--scale",
        callback=one_number,
        metavar="NUMBER",
        show_default="from the model, if it says",
        help="Factor of a pixel, which is 0 to 255: 1 for a model that takes them so, 1/255 for 0 to 1.",
    ),
    option("--mean", callback=numbers, metavar="NUMBERS", help="Subtracted after --scale, one or one per channel."),
    option("--std", callback=nonzero, metavar="NUMBERS", help="Divisor after --mean, one or one per channel."),
    option(
        "--layout",
        type=click.Choice(["nhwc", "nchw"]),
        show_default="from the shape",
        help="Channels last, as in Keras, or first, as in PyTorch.",
    ),
    option(
        "--image-size",
        callback=image_size_value,
        metavar="SIZE",
        show_default="from the shape",
        help="HEIGHTxWIDTHxCHANNELS, for a model that leaves it open or takes flattened images.",
    ),
    option(
        "--preparation",
        type=click.Choice(PREPARATIONS),
        show_default="as for the data",
        help="How the server makes other images fit: as MNIST centres digits, or by resizing.",
    ),
)
@cloup.option_group(
    "Output",
    option(
        "--labels",
        callback=class_names,
        metavar="NAMES",
        show_default="those of the data, else 0, 1, 2, …",
        help="Names of the classes in the order of the outputs: a,b,c, or a file with one per line.",
    ),
    option("--logits", is_flag=True, help="The output is logits, though its values do not say so."),
    option("--output", metavar="NAME", help="The output to serve, for a model with several."),
    option(
        "--architecture",
        type=click.Choice(list(ARCHITECTURES)),
        metavar="NAME",
        help="Network of digits-train --list, for a file that holds only weights.",
    ),
)
@cloup.option_group(
    "Proof",
    option(
        "--data",
        metavar="SOURCE",
        show_default="drawn images, without labels",
        help="Images to compare on, and to measure accuracy: mnist, folder:PATH or a file as for digits-train.",
    ),
    data_dir_option(),
    option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Execution provider to compare."),
    option("--limit", type=click.FloatRange(0, 1), default=1e-5, help="Largest allowed difference of a probability."),
)
@publishing_options(name_default="that of the file")
@version_option()
def main(
    model: Path,
    repository: Path,
    name: str | None,
    scale: float | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    layout: str | None,
    image_size: tuple[int, int, int] | None,
    preparation: str | None,
    labels: tuple[str, ...] | None,
    logits: bool,
    output: str | None,
    architecture: str | None,
    data: str | None,
    data_dir: Path | None,
    provider: str,
    limit: float,
    label: str | None,
    share: float | None,
    sign: Path | None,
    min_accuracy: float | None,
    allow_worse: bool,
) -> None:
    """Publishes a network that digits-train did not make: a file of Keras or ONNX, or a SavedModel.

    It is wrapped to take uint8 images and to return logits and probabilities, and is published only if the server's
    engine then answers as the untouched network does.
    """
    if share is not None and label != CANARY:
        raise click.UsageError("--share needs --label canary")
    if min_accuracy and data is None:
        raise click.UsageError("--min-accuracy needs --data, since drawn images have no labels")
    with errors_in_one_line():
        from serving.repository.signature import SigningKey

        signing_key = SigningKey.read(sign) if sign else None
        if needs_tensorflow(model):
            import_tensorflow_quietly()
        from export.acceptance import Demands
        from export.foreign.importer import Importer
        from export.foreign.opening import ImportOptions, default_name
        from export.foreign.pixels import PixelOptions
        from export.parity import ParityLimits
        from export.parity_table import lines, worst_lines
        from export.publishing import how_to_sign, stable_that_stays
        from serving.repository.repository import Repository

        options = ImportOptions(
            pixels=PixelOptions(scale=scale, mean=mean, std=std, layout=layout, image_size=image_size),
            labels=labels,
            logits=logits,
            output=output,
            architecture=architecture,
            preparation=preparation,
            data=data,
            data_dir=data_dir,
        )
        target = Repository(repository, signing_key=signing_key)
        done = Importer(model, options=options, provider=provider, limits=ParityLimits(probabilities=limit)).publish(
            target,
            model_name=name or default_name(model),
            label=label,
            share=CANARY_SHARE if share is None else share,
            demands=Demands(min_accuracy=min_accuracy, allow_worse=allow_worse),
        )
    for finding in done.findings:
        click.echo(str(finding))
    if done.report is None:
        unsigned = how_to_sign("not signed now", target, done.model_name, done.version) if sign else ""
        click.echo(f"already published as {target.root / done.model_name / str(done.version)}{unsigned}")
        return
    for line in lines(done.report, reference="untouched", replaces=done.replaces):
        click.echo(line)
    if done.refusal:
        hint = "" if min_accuracy is not None else ". Are --labels in the order of the outputs, and is --scale right?"
        raise click.ClickException(done.refusal + hint)
    if done.version is None:
        for line in worst_lines(done.report, reference="untouched"):
            click.echo(line)
        raise click.ClickException(f"parity not proven, nothing published: {'; '.join(done.report.problems)}")
    click.echo(f"published {target.root / done.model_name / str(done.version)}")
    if done.label_change:
        click.echo(str(done.label_change))
    if stays := stable_that_stays(target, done.model_name, done.version):
        click.echo(stays)


def needs_tensorflow(model: Path) -> bool:
    """Whether a file is one of Keras, which is a ZIP archive or HDF5, or a directory and so a SavedModel."""
    if model.is_dir():
        return (model / "saved_model.pb").exists()
    with model.open("rb") as file:
        return file.read(8).startswith((b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"))


if __name__ == "__main__":
    main(prog_name="digits-import")
