"""The commands of this package. Each is imported only when it runs: a client's machine lacks what a server needs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable

import click

import serving
from serving.commands.cli import prepare_terminal

_COMMANDS = {
    "serve": ("serving.commands.serve", "main"),
    "classify": ("serving.commands.classify", "main"),
    "health": ("serving.commands.health", "main"),
    "score": ("serving.commands.score", "main"),
    "models": ("serving.commands.models", "main"),
    "doctor": ("serving.commands.doctor", "main"),
    "bench": ("serving.commands.bench", "main"),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _load(cmd_name) if cmd_name in _COMMANDS else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # What follows the name of the container image replaces its "serve", so only options must mean serve's.
        if args and args[0].startswith("-") and args[0] not in ("--help", "--version"):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def _load(name: str) -> click.Command:
    module, attribute = _COMMANDS[name]
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


@click.group(
    cls=_Commands,
    epilog="\b\nExamples:\n  python -m serving serve --port 0 --demo\n  python -m serving doctor\n"
    "  python -m serving classify --help",
)
@click.version_option(serving.__version__)
def main() -> None:
    """Serves models over gRPC, calls such servers, and manages what they serve.

    Options without a command are those of serve.
    """


def _script(name: str) -> Callable[[], None]:
    """The entry point of `digits-NAME`."""

    def run() -> None:
        _prepare()
        _load(name)(prog_name=f"digits-{name}")

    return run


def _prepare() -> None:
    """Prepares the process, before any command is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own messages say what went wrong, in one line
    prepare_terminal()


serve, classify, score = _script("serve"), _script("classify"), _script("score")
models, doctor, bench = _script("models"), _script("doctor"), _script("bench")

if __name__ == "__main__":
    _prepare()
    main(prog_name="python -m serving")
