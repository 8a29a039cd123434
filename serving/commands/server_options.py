"""The options of a server, made from the fields of its configuration, for the commands that start or check one."""

from __future__ import annotations

import dataclasses
import functools
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import cloup

from serving.commands.cli import option, origin
from serving.config import ServerConfig
from serving.errors import InvalidConfig
from serving.inference.processors import available_processors

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

_AUTO = 0

# Two options set `ServerConfig.watch_s`.
_WATCH = {
    "watch": option("--watch", is_flag=True, help="Serve changes in the repository; SIGHUP does so once."),
    "watch_interval_s": option(
        "--watch-interval-s",
        default=1.0,
        type=click.FloatRange(0.05, 3600),
        help="With --watch: how often to look for changes, in seconds.",
    ),
}


class _Workers(click.IntRange):
    """A number of workers, or auto."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("auto", _AUTO):
            return _AUTO
        if not str(value).isdecimal() or not 1 <= int(value) <= 1024:
            self.fail(f"{value!r} is neither a number from 1 to 1024 nor auto", param, ctx)
        return int(value)


class _Devices(click.ParamType[tuple[int, ...]]):
    """Indices of CUDA devices, separated by commas."""

    name = "index[,index]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return tuple(int(index) for index in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is neither an index such as 0 nor several such as 0,1", param, ctx)


def server_options(command: Command) -> Command:
    """Adds an option for each setting of `ServerConfig`; the command receives the configuration as `config`."""
    sections: dict[str, list[Decorator]] = {}
    names = set()
    for title, name, decorator in _options(ServerConfig):
        sections.setdefault(title, []).append(decorator)
        names.add(name)

    @functools.wraps(command)
    def configured(*, watch: bool, watch_interval_s: float, **given: Any) -> Any:
        if "DIGITS_VERSION" in os.environ:  # its name until version 0.1; ignoring it would unpin a deployment
            raise click.UsageError("the variable DIGITS_VERSION is now called DIGITS_MODEL_VERSION; rename it")
        settings = {name: value for name, value in given.items() if name in names}
        settings["watch_s"] = watch_interval_s if watch else 0.0
        if settings["workers"] == _AUTO:
            settings["workers"] = _workers_for(settings["provider"])
        settings["workers"] = max(settings["workers"], len(settings["devices"]))
        try:
            config = _make(ServerConfig, settings)
        except InvalidConfig as error:
            context = click.get_current_context()
            origins = {param.name: origin(param, context) for param in context.command.params if param.name}
            raise click.UsageError(error.renamed(origins)) from error
        return command(config=config, **{name: value for name, value in given.items() if name not in names})

    decorated: Command = configured
    for title, decorators in reversed(sections.items()):
        decorated = cloup.option_group(title, *decorators)(decorated)
    return decorated


def _make(part: Any, settings: Mapping[str, Any]) -> Any:
    """A part of the configuration from the values of the options, with the parts that it contains."""
    hints = typing.get_type_hints(part)
    parts = {name: _make(hint, settings) for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    return part(**parts, **{name: settings[name] for name in hints if name in settings})


def _options(part: Any, section: str = "") -> Iterator[tuple[str, str, Decorator]]:
    """Section, field and option of each setting of a part and of the parts that it contains."""
    hints, title = typing.get_type_hints(part), section
    for field in dataclasses.fields(part):
        title, hint = field.metadata["section"] or title, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _options(hint, title)
        elif field.name == "watch_s":
            yield from ((title, name, decorator) for name, decorator in _WATCH.items())
        elif field.metadata["option"]:
            yield title, field.name, _option(field, f"--{field.name.replace('_', '-')}", hint)


def _option(field: dataclasses.Field[Any], name: str, hint: Any) -> Decorator:
    declared = field.metadata
    kind = next(iter(typing.get_args(hint)), hint)  # of `int | None` and of `tuple[str, ...]` the first
    settings: dict[str, Any] = {"default": field.default, "help": declared["text"]}
    if declared["unset"]:
        settings["show_default"] = declared["unset"]
    if field.name == "workers":
        settings |= {"type": _Workers(), "metavar": "INTEGER|auto"}
    elif field.name == "devices":
        return option("--device", field.name, type=_Devices(), envvar="DIGITS_DEVICE", **settings | {"default": "0"})
    elif declared["choices"]:
        settings["type"] = click.Choice(declared["choices"])
    elif kind is bool:
        names = f"{name}/--no-{name.removeprefix('--')}" if field.default else name
        return option(names, is_flag=True, **settings)
    elif kind in (int, float):
        settings["type"] = (click.IntRange if kind is int else click.FloatRange)(*declared["limits"])
    elif kind is Path:
        is_file = field.default in (None, ())
        settings["type"] = click.Path(path_type=Path, file_okay=is_file, dir_okay=not is_file)
    if isinstance(field.default, tuple):
        singular = name.removesuffix("s")
        envvar = f"DIGITS_{singular.removeprefix('--').replace('-', '_').upper()}"
        return option(singular, field.name, multiple=True, envvar=envvar, **settings)
    return option(name, **settings)


def _workers_for(provider: str) -> int:
    """One for each device of CUDA, where larger batches help and more processes hardly do; else one per processor."""
    on_cuda = provider == "cuda" or (provider == "auto" and Path("/dev/nvidia0").exists())
    return 1 if on_cuda else available_processors()
