"""`digits-models`: lists, labels, verifies and removes the versions of a repository."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from serving.commands.models_table import document, table
from serving.config import PRETRAINED, PROVIDERS, EngineConfig
from serving.errors import DigitsError, ModelRejected
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import CANARY, CANARY_SHARE, STABLE
from serving.repository.listing import model_listings
from serving.repository.repository import Repository

_ENGINE = EngineConfig()
_LATEST = "latest"


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DigitsError as error:
            raise click.ClickException(str(error)) from error


def _version_or_latest(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """A version's number, or None for the newest."""
    if value == _LATEST:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,17}", value):
        raise click.BadParameter(f"{value[:128]!r} is neither the number of a version nor {_LATEST}")
    return int(value)


def _repository(_: click.Context, __: click.Parameter, value: Path) -> Repository:
    return Repository(value)


def _stored(command: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "--repository",
        type=click.Path(path_type=Path, file_okay=False),
        default=PRETRAINED,
        show_default="the model that the package ships",
        envvar="DIGITS_REPOSITORY",
        show_envvar=True,
        callback=_repository,
        help="Directory of the model repository.",
    )
    return option(command)


@click.group(cls=_Commands, context_settings={"show_default": True, "max_content_width": 110})
def main() -> None:
    """Lists, labels, verifies and removes the versions of a model repository, also while servers use it.

    Calls that name no version are answered by the stable one, but for the canary's share of them. Without the label
    stable that is the newest version that may be served.
    """


@main.command("list")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@_stored
def list_models(*, model: str | None, as_json: bool, repository: Repository) -> None:
    """Shows every version.

    Of one MODEL or of all: its labels, what it is, and whether it may be served.
    """
    models = list(model_listings(repository, model))
    if as_json:
        click.echo(json.dumps(document(models), indent=2))
    elif not models:
        click.echo(f"{repository.root}: no models here", err=True)
    else:
        click.echo("\n".join(table(models)))


@main.command()
@click.argument("model")
@click.argument("label", type=click.Choice([STABLE, CANARY]))
@click.argument("version", callback=_version_or_latest)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    show_default=f"{CANARY_SHARE}",
    help="The canary's, of the calls that name no version; 0: it answers only calls that name it.",
)
@_stored
def label(*, model: str, label: str, version: int | None, share: float | None, repository: Repository) -> None:
    """Moves a label to a version.

    LABEL is stable or canary, VERSION one of MODEL's that may be served. `stable latest` follows the newest version,
    now and later. A canary pins stable to the version that is current, where it followed the newest.
    """
    keeper = RepositoryEditor(repository)
    if label == STABLE:
        if share is not None:
            raise click.UsageError("--share is a canary's")
        click.echo(str(keeper.set_stable(model, version)))
        return
    if version is None:
        raise click.UsageError("a canary is a certain version: name its number")
    click.echo(str(keeper.set_canary(model, version, CANARY_SHARE if share is None else share)))


@main.command()
@click.argument("model")
@click.argument("label", type=click.Choice([CANARY]), expose_value=False)
@_stored
def unlabel(*, model: str, repository: Repository) -> None:
    """Ends a canary's trial.

    Calls that name no version go to MODEL's stable version again, all of them.
    """
    click.echo(str(RepositoryEditor(repository).end_canary(model)))


@main.command()
@click.argument("model")
@_stored
def promote(*, model: str, repository: Repository) -> None:
    """Makes a canary stable.

    The trial of MODEL's canary ends with it.
    """
    click.echo(str(RepositoryEditor(repository).promote(model)))


@main.command()
@click.argument("model")
@_stored
def rollback(*, model: str, repository: Repository) -> None:
    """Takes the last move of stable back.

    The version that answered before is MODEL's stable one again. Once: what was before that is not recorded, and
    `label MODEL stable VERSION` names any.
    """
    click.echo(str(RepositoryEditor(repository).roll_back(model)))


@main.command()
@click.argument("model", required=False)
@click.argument("version", required=False, type=click.IntRange(1))
@click.option("--provider", default=_ENGINE.provider, type=click.Choice(PROVIDERS), help="As for digits-serve.")
@click.option("--device", default=_ENGINE.device, type=click.IntRange(0), help="Index of the CUDA device.")
@_stored
def verify(*, model: str | None, version: int | None, provider: str, device: int, repository: Repository) -> None:
    """Loads and tries every version.

    Of one MODEL or of all, or one VERSION: its digest, its parity, and whether it answers images with probabilities.
    Exit code 0: all may be served and answer with probabilities. 1: the lines that begin with "problem" say why not.
    """
    try:
        from serving.repository.verification import IMAGES
        from serving.repository.verification import verify as run
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; verifying needs the extra cpu or gpu: pip install 'digits-serving[cpu]'"
        ) from error
    except ImportError as error:
        raise click.ClickException(f"an installed package can't be imported: {error}") from error
    config = EngineConfig(provider=provider, device=device, max_batch_rows=IMAGES)
    if version is not None and model is not None:
        chosen = [repository.choose(model, version)]
    else:
        names = repository.names() if model is None else [repository.choose(model)[0]]
        chosen = [(name, number) for name in names for number in repository.versions(name)]
    if not chosen:
        raise ModelRejected(f"{repository.root}: no models here, which are directories with versions named 1, 2, …")
    sound = True
    for name, number in chosen:
        try:
            stored = repository.load(name, number)
            ran = run(stored, config)
        except DigitsError as error:
            if version is None and number not in repository.versions(name):
                continue  # removed meanwhile, which is nothing wrong
            sound = False
            click.echo(f"problem  {name} version {number}: {error}")
            continue
        unproven = "" if ran in stored.manifest.parity else "; parity is not proven on it"
        click.echo(
            f"ok       {name} version {number}: digest and parity ({', '.join(stored.manifest.parity)}) hold, "
            f"{IMAGES} answers on {ran} are probabilities{unproven}"
        )
    if not sound:
        raise SystemExit(1)


@main.command()
@click.argument("model")
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True, type=click.IntRange(1))
@click.option("--force", is_flag=True, help="Also what is stable, the canary or current; such labels end.")
@_stored
def remove(*, model: str, versions: tuple[int, ...], force: bool, repository: Repository) -> None:
    """Removes versions.

    Refused where servers that follow MODEL's labels answer with one of them; then none is removed. Their numbers are
    not given to other versions later.
    """
    move = RepositoryEditor(repository).remove(model, versions, force=force)
    for version in sorted(set(versions)):
        click.echo(f"removed {model} version {version}")
    if move.after != move.before:
        click.echo(str(move))
