"""What every command has in common: its help, its version, and that wrong usage is answered at once."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import serving
import serving.__main__

ROOT = Path(__file__).parents[3]
COMMANDS = {name: serving.__main__._load(name) for name in serving.__main__._COMMANDS}


def _with_subcommands() -> Iterator[tuple[str, click.Command]]:
    for name, command in COMMANDS.items():
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", command.commands[sub]) for sub in command.commands)


def _help(name: str) -> str:
    done = CliRunner().invoke(serving.__main__.main, [*name.split(), "--help"])
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize(("name", "command"), list(_with_subcommands()), ids=lambda value: str(value).strip("<>"))
def test_every_option_is_explained_and_no_range_is_shown(name: str, command: click.Command) -> None:
    for param in command.params:
        assert isinstance(param, click.Argument) or param.help, param.name
    assert not re.search(r"[<>]=?x\b|\bx[<>]|RANGE", _help(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples_whose_options_exist(name: str) -> None:
    _, _, end = _help(name).partition("\nExamples:\n")
    lines = [line.strip() for line in end.splitlines() if line]
    assert 2 <= len(lines) <= 3
    for line in lines:
        words = [word for word in shlex.split(line.split(" < ")[0]) if not word.startswith("DIGITS_")]
        prefix = ["python", "-m", "serving", name] if words[0] == "python" else [f"digits-{name}"]
        assert words[: len(prefix)] == prefix
        given = words[len(prefix) :]
        if "--help" in given:
            continue
        command = COMMANDS[name]
        with command.make_context(name, [*given]) as context:
            if isinstance(command, click.Group):
                command.commands[given[0]].make_context(given[0], given[1:], parent=context).close()


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_version_is_that_of_the_product(name: str) -> None:
    done = CliRunner().invoke(serving.__main__.main, [*name.split(), "--version"])
    assert done.output.endswith(f", version {serving.__version__}\n")
    # a container's environment, which may well hold such a name, changes nothing
    parameters = COMMANDS[name].params if name else []
    assert not [param for param in parameters if param.name == "version" and param.allow_from_autoenv]


def test_the_group_lists_its_commands() -> None:
    shown = CliRunner().invoke(serving.__main__.main, ["--help"]).output
    assert all(f"\n  {name}" in shown for name in serving.__main__._COMMANDS)


def test_options_without_a_command_are_those_of_serve() -> None:
    """So that options may follow the name of the container image, which runs `python -m serving`."""
    alone, named = (CliRunner().invoke(serving.__main__.main, [*start, "--port", "70000"]) for start in ([], ["serve"]))
    assert (alone.exit_code, alone.output) == (named.exit_code, named.output) == (2, named.output)


# What takes long to import, or is not installed on a client's machine.
HEAVY = ("matplotlib", "onnxruntime", "psutil", "pyarrow", "ray", "starlette", "tensorflow", "uvicorn")


@pytest.mark.parametrize("arguments", [["--help"], ["--no-such-option"]], ids=str)
@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_wrong_options_load_nothing_heavy(name: str, arguments: list[str]) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); from serving.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, name, *arguments], capture_output=True, cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr
