"""`digits-models`: lists, labels, verifies, signs and removes the versions of a model repository."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cloup

from serving.commands.cli import FILE, SETTINGS, errors_in_one_line, examples, option, repository_option, version_option
from serving.commands.models_table import document, table
from serving.config import PROVIDERS, EngineConfig
from serving.errors import DigitsError, ModelRejected
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import CANARY, CANARY_SHARE, STABLE
from serving.repository.listing import model_listings
from serving.repository.repository import Repository

_ENGINE = EngineConfig()
_LATEST = "latest"


class _Commands(cloup.Group):
    def invoke(self, ctx: click.Context) -> Any:
        with errors_in_one_line("verifying"):
            return super().invoke(ctx)


def _version_or_latest(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """The number of a version, or None for the newest."""
    if value == _LATEST:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,17}", value):
        raise click.BadParameter(f"{value[:128]!r} is neither the number of a version nor {_LATEST}")
    return int(value)


def _repository(_: click.Context, __: click.Parameter, value: Path) -> Repository:
    return Repository(value)


def _with_repository(command: Callable[..., None]) -> Callable[..., None]:
    return repository_option(envvar="DIGITS_REPOSITORY", callback=_repository)(command)


@cloup.group(
    cls=_Commands,
    context_settings=SETTINGS,
    epilog=examples(
        "digits-models list", "digits-models verify mnist_convnet 1 --provider cpu", "digits-models label --help"
    ),
)
@version_option()
def main() -> None:
    """Lists, labels, verifies, signs and removes versions of a model repository, even while servers use it.

    The stable version answers calls that name no version, except for the canary's share of them. Without the label
    "stable", the newest version that may be served is the stable one.
    """


@main.command("list", epilog=examples("digits-models list", "digits-models list mnist_convnet --json"))
@click.argument("model", required=False)
@option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_with_repository
def list_models(*, model: str | None, as_json: bool, repository: Repository) -> None:
    """Lists versions.

    Shows each version of MODEL, or of all models: its labels, what it is, and whether it may be served.
    """
    models = list(model_listings(repository, model))
    if as_json:
        click.echo(json.dumps(document(models), indent=2))
    elif not models:
        click.echo(f"{repository.root}: no models here", err=True)
    else:
        click.echo("\n".join(table(models)))


@main.command(
    epilog=examples(
        "digits-models label mnist_convnet stable latest --repository models",
        "digits-models label mnist_convnet canary 2 --share 0.1 --repository models",
    )
)
@click.argument("model")
@click.argument("label", type=click.Choice([STABLE, CANARY]))
@click.argument("version", callback=_version_or_latest)
@option(
    "--share",
    type=click.FloatRange(0, 1),
    show_default=f"{CANARY_SHARE}",
    help="Share of the calls without a version, from 0 to 1, that the canary answers. 0: it answers only calls that "
    "name it.",
)
@_with_repository
def label(*, model: str, label: str, version: int | None, share: float | None, repository: Repository) -> None:
    """Moves a label to a version.

    LABEL is stable or canary. VERSION is a version of MODEL that may be served. "stable latest" follows the newest
    version, now and later. A canary ends that: it pins "stable" to the version that is current.
    """
    editor = RepositoryEditor(repository)
    if label == STABLE:
        if share is not None:
            raise click.UsageError("--share applies only to a canary")
        click.echo(str(editor.set_stable(model, version)))
        return
    if version is None:
        raise click.UsageError("a canary must be a specific version: give its number")
    click.echo(str(editor.set_canary(model, version, CANARY_SHARE if share is None else share)))


@main.command()
@click.argument("model")
@click.argument("label", type=click.Choice([CANARY]), expose_value=False)
@_with_repository
def unlabel(*, model: str, repository: Repository) -> None:
    """Ends the trial of a canary.

    The stable version of MODEL answers all calls that name no version again.
    """
    click.echo(str(RepositoryEditor(repository).end_canary(model)))


@main.command()
@click.argument("model")
@_with_repository
def promote(*, model: str, repository: Repository) -> None:
    """Makes the canary stable.

    This ends the trial of the canary of MODEL.
    """
    click.echo(str(RepositoryEditor(repository).promote(model)))


@main.command()
@click.argument("model")
@_with_repository
def rollback(*, model: str, repository: Repository) -> None:
    """Undoes the last move of "stable".

    The previous stable version of MODEL is stable again. Only one move is recorded; use "label MODEL stable VERSION"
    to go back further.
    """
    click.echo(str(RepositoryEditor(repository).roll_back(model)))


@main.command(epilog=examples("digits-models verify", "digits-models verify mnist_convnet 1 --provider cpu"))
@click.argument("model", required=False)
@click.argument("version", required=False, type=click.IntRange(1))
@option(
    "--provider",
    default=_ENGINE.provider,
    type=click.Choice(PROVIDERS),
    help="What runs the model. auto: CUDA if it works, else the CPU.",
)
@option("--device", default=_ENGINE.device, type=click.IntRange(0), help="Index of the CUDA device.")
@_with_repository
def verify(*, model: str | None, version: int | None, provider: str, device: int, repository: Repository) -> None:
    """Loads and runs versions.

    Checks one VERSION, all versions of MODEL, or those of all models: digest, parity, and whether the version returns
    probabilities for images. Exit code 0: all versions pass. 1: the lines that start with "problem" say what is wrong.
    """
    from serving.repository.verification import IMAGES
    from serving.repository.verification import verify as run

    config = EngineConfig(provider=provider, devices=(device,), max_batch_rows=IMAGES)
    if version is not None and model is not None:
        chosen = [repository.choose(model, version)]
    else:
        names = repository.names() if model is None else [repository.choose(model)[0]]
        chosen = [(name, number) for name in names for number in repository.versions(name)]
    if not chosen:
        raise ModelRejected(f"{repository.root}: no models here; a model is a directory with versions named 1, 2, …")
    sound = True
    for name, number in chosen:
        try:
            stored = repository.load(name, number)
            ran = run(stored, config)
            for precision in stored.precisions:
                run(stored, replace(config, provider="cpu"), precision=precision)
        except DigitsError as error:
            if version is None and number not in repository.versions(name):
                continue  # removed in the meantime, which is not a problem
            sound = False
            click.echo(f"problem  {name} version {number}: {error}")
            continue
        also = f" and in {', '.join(stored.precisions)}" if stored.precisions else ""
        unproven = "" if ran in stored.manifest.parity else "; its parity is not proven on this provider"
        click.echo(
            f"ok       {name} version {number}: digest and parity ({', '.join(stored.manifest.parity)}) hold, "
            f"{IMAGES} answers on {ran}{also} are probabilities{unproven}"
        )
    if not sound:
        raise SystemExit(1)


@main.command(epilog=examples("digits-models sign mnist_convnet 1 --key private.pem --repository models"))
@click.argument("model")
@click.argument("version", type=click.IntRange(1))
@option("--key", required=True, type=FILE, help="Private key on P-256, P-384 or P-521, PEM, without a password.")
@_with_repository
def sign(*, model: str, version: int, key: Path, repository: Repository) -> None:
    """Signs a version.

    Writes the file model.sig into the directory of VERSION. Servers with the matching --trusted-key then refuse the
    version once any of its files is changed, added or removed. Replaces an earlier signature.
    """
    from serving.repository.signature import SigningKey

    signing_key = SigningKey.read(key)
    repository.sign(*repository.choose(model, version), signing_key)
    click.echo(f"signed {model} version {version}")


@main.command()
@click.argument("model")
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True, type=click.IntRange(1))
@option("--force", is_flag=True, help="Remove stable, canary and current versions too, with their labels.")
@_with_repository
def remove(*, model: str, versions: tuple[int, ...], force: bool, repository: Repository) -> None:
    """Removes versions.

    Removes nothing if servers that follow the labels of MODEL answer with one of the versions. The numbers of removed
    versions are never used again.
    """
    move = RepositoryEditor(repository).remove(model, versions, force=force)
    for version in sorted(set(versions)):
        click.echo(f"removed {model} version {version}")
    if move.after != move.before:
        click.echo(str(move))
