"""Options of `digits-serve` about models: which of them are served, and how they are run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from serving.config import PRETRAINED, PROVIDERS, BatcherConfig, EngineConfig, ServerConfig
from serving.errors import InvalidConfig

Command = Callable[..., Any]

_ENGINE, _BATCHER, _SERVER = EngineConfig(), BatcherConfig(), ServerConfig()


def model_options(command: Command) -> Command:
    """Adds the options that say what is served, which the command gets as `models`, fields of `ServerConfig`."""
    options = (
        click.option(
            "--repository",
            type=click.Path(path_type=Path, file_okay=False),
            default=PRETRAINED,
            show_default="the model that the package ships",
            help="Directory of the model repository.",
        ),
        click.option(
            "--model",
            "models",
            multiple=True,
            envvar="DIGITS_MODEL",
            show_default="all in the repository",
            help="Name of a model; may be given several times, and several in the environment variable. "
            "The first answers calls that name none.",
        ),
        click.option(
            "--version",
            type=click.IntRange(1),
            show_default="as the model's labels say, else the newest",
            help="Version of the model, whatever its labels say.",
        ),
        click.option(
            "--extra-versions",
            default=_SERVER.extra_versions,
            type=click.IntRange(0),
            help="So many of the newest versions are loaded besides, for calls that name them.",
        ),
        click.option(
            "--linger-s",
            default=_SERVER.linger_s,
            type=click.FloatRange(0, 3600),
            help="How long a version that is not current any more still answers calls that name it, in seconds.",
        ),
        click.option("--watch", is_flag=True, help="Serve what changes in the repository; SIGHUP does it once."),
        click.option(
            "--watch-interval-s",
            default=1.0,
            type=click.FloatRange(0.05, 3600),
            help="With --watch: how often to look, in seconds.",
        ),
        click.option("--model-control", is_flag=True, help="Let clients load and unload models."),
    )

    @functools.wraps(command)
    def configured(*, watch: bool, watch_interval_s: float, **given: Any) -> Any:
        names = ("repository", "models", "version", "extra_versions", "linger_s", "model_control")
        made = {name: given.pop(name) for name in names}
        return command(**given, models={**made, "watch_s": watch_interval_s if watch else 0.0})

    return _decorated(configured, options)


def engine_options(command: Command) -> Command:
    """Adds the options that say how models are run, which the command gets as `engine` and `batcher`."""
    options = (
        click.option(
            "--provider",
            default=_ENGINE.provider,
            type=click.Choice(PROVIDERS),
            help="cuda: the whole model on CUDA or no start; cpu; auto: CUDA where it works, else the CPU.",
        ),
        click.option("--device", default=_ENGINE.device, type=click.IntRange(0), help="Index of the CUDA device."),
        click.option(
            "--threads",
            default=_ENGINE.threads,
            type=click.IntRange(0),
            help="Threads of one inference on the CPU; 0: all.",
        ),
        click.option(
            "--max-batch-rows",
            default=_BATCHER.max_batch_rows,
            type=click.IntRange(1),
            help="Images in the largest request, and in the largest batch on CUDA.",
        ),
        click.option(
            "--max-queue-rows",
            default=_BATCHER.max_queue_rows,
            type=click.IntRange(1),
            help="Images that may wait; a request beyond is refused at once.",
        ),
        click.option(
            "--max-wait-ms",
            default=_BATCHER.max_wait_ms,
            type=click.FloatRange(0, 60_000),
            help="How long an idle engine waits for a fuller batch, in milliseconds.",
        ),
    )

    @functools.wraps(command)
    def configured(
        *,
        provider: str,
        device: int,
        threads: int,
        max_batch_rows: int,
        max_queue_rows: int,
        max_wait_ms: float,
        **given: Any,
    ) -> Any:
        try:
            engine = EngineConfig(provider=provider, threads=threads, max_batch_rows=max_batch_rows, device=device)
            batcher = BatcherConfig(
                max_batch_rows=max_batch_rows, max_queue_rows=max_queue_rows, max_wait_ms=max_wait_ms
            )
        except InvalidConfig as error:
            raise click.UsageError(str(error)) from error
        return command(**given, engine=engine, batcher=batcher)

    return _decorated(configured, options)


def _decorated(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
