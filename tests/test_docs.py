"""Every command and snippet of the documentation is run by a test; what is run by hand at least would run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import export.__main__
import serving.__main__
import training.__main__

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS: dict[str, click.Command] = {
    "digits-train": training.__main__.main,
    "digits-export": export.__main__.main,
    **{f"digits-{name}": serving.__main__._load(name) for name in serving.__main__._COMMANDS},
}

# Who runs the fenced blocks of a page; indented ones are run by hand, since they take minutes to hours.
RUN_BY = {
    ("README.md", "sh"): ("tests/test_readme.py", "test_every_command_is_known_to_a_test"),
    ("README.md", "python"): ("tests/test_readme.py", "test_the_digits_commands_and_the_snippet_work_in_order"),
    ("docs/models.md", "sh"): (
        "tests/serving/commands/test_models.py",
        "test_the_commands_in_the_documentation_work_in_order",
    ),
    ("docs/models.md", "json"): (
        "tests/serving/commands/test_models.py",
        "test_the_commands_in_the_documentation_work_in_order",
    ),
    ("docs/oip.md", "sh"): ("tests/serving/server/http/test_http.py", "test_the_commands_in_the_docs_work"),
    ("docs/oip.md", "python"): ("tests/test_existing_clients.py", "test_the_snippet_in_the_docs_works"),
}
BY_HAND = {("docs/preparation.md", "sh")}
# Options in the text that are other programs': docker's and pip's.
FOREIGN = {"--read-only", "--volume", "--extra"}
# What stands for something else in the text.
_PLACEHOLDER = re.compile(r"…|\b[A-Z]{2,}\b|\b[Rn]$")


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block; an indented one, which begins a paragraph, is `indented`."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"(?<=\n\n)(?: {4}\S.*\n(?: {4,}.*\n)*)", outside):
        yield "indented", re.sub(r"^    ", "", found[0], flags=re.MULTILINE)


def _lines() -> Iterator[tuple[str, str, str]]:
    """Page, where it stands (a block's language, or `inline`) and text of every command that a reader may type."""
    for page, text in PAGES.items():
        for language, block in _blocks(text):
            if language in {"sh", "indented"}:
                for line in block.replace("\\\n", " ").splitlines():
                    yield page, language, line
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`([^`]+)`", prose):
            yield page, "inline", re.sub(r"\s+", " ", span)


def _called(prefix: str) -> list[tuple[str, str, str]]:
    found = [
        (page, where, line.removesuffix("&").strip()) for page, where, line in _lines() if re.match(rf"{prefix} ", line)
    ]
    assert len(found) > 3
    return found


def _options(command: click.Command) -> set[str]:
    every = command.commands.values() if isinstance(command, click.Group) else []
    own = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    return own.union({"--help"}, *map(_options, every))


def test_every_block_is_known_to_a_test() -> None:
    found = {(page, language) for page, text in PAGES.items() for language, _ in _blocks(text)}
    assert found - {(page, other) for page in PAGES for other in ("text", "indented")} == RUN_BY.keys() | BY_HAND
    for (page, _), (path, name) in RUN_BY.items():
        test = (ROOT / path).read_text()
        assert f"def {name}(" in test
        assert Path(page).name in test


@pytest.mark.parametrize(("page", "where", "line"), _called("digits-[a-z]+"))
def test_a_command_has_the_options_that_it_is_given(page: str, where: str, line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    end = words.index("--") if "--" in words else len(words)
    for command, given in ((name, words[:end]), ("digits-serve", words[end + 1 :])):
        assert {word.split("=")[0] for word in given if word.startswith("--")} <= _options(COMMANDS[command]), line
        if where != "inline" and not _PLACEHOLDER.search(" ".join(given)):
            _parse(command, given)


def _parse(name: str, words: list[str]) -> None:
    """Has click check values, choices and what must be given; runs nothing."""
    with COMMANDS[name].make_context(name, [*words]) as context:
        if isinstance(context.command, click.Group) and words[0] in context.command.commands:
            context.command.commands[words[0]].make_context(words[0], words[1:], parent=context).close()


def test_every_option_that_is_named_exists() -> None:
    known = set().union(*map(_options, COMMANDS.values()))
    scripts = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    for page, where, text in _lines():
        if where == "inline" and not text.startswith(("pip ", "docker ")):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text):
                assert option in known | FOREIGN or f'"{option}"' in scripts, f"{page}: {text}"


def test_every_option_of_the_server_is_the_environment_variable_that_the_readme_promises() -> None:
    for param in COMMANDS["digits-serve"].params:
        option = param.opts[0].removeprefix("--").replace("-", "_")
        assert (param.envvar or f"DIGITS_{param.name}".upper()) == f"DIGITS_{option}".upper()


def test_every_environment_variable_that_is_named_exists() -> None:
    known = {
        f"DIGITS_{option[2:].replace('-', '_')}".upper() for each in COMMANDS.values() for option in _options(each)
    }
    explicit = {
        name
        for each in COMMANDS.values()
        for param in each.params
        for name in ([param.envvar] if isinstance(param.envvar, str) else param.envvar or ())
    }
    sources = "".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    named = {name for text in PAGES.values() for name in re.findall(r"\bDIGITS_[A-Z][A-Z_]*", text)}
    assert len(named) > 5
    assert not [name for name in named - known - explicit if f'"{name}"' not in sources]


@pytest.mark.parametrize(("page", "where", "line"), _called("make"))
def test_make_has_the_targets_and_variables_that_it_is_given(page: str, where: str, line: str) -> None:
    for word in shlex.split(line)[1:]:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(pattern, MAKEFILE, re.MULTILINE), f"{page}: {line}"


def test_the_readme_names_every_target() -> None:
    targets = " ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split()
    named = {word for _, _, line in _called("make") for word in line.split()}
    assert set(targets) <= named


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    named = re.findall(r"`((?:docs|tests|serving|protos|training|export|requirements)/[\w./-]*)`", PAGES[page])
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[page])
    for path in [*named, *(f"{Path(page).parent}/{link}" for link in linked)]:
        assert (ROOT / path).exists(), path


def test_scripts_have_the_options_that_they_are_given() -> None:
    for page, _, line in _called("(?:python|make)"):
        if line.startswith("python "):
            _, script, *words = line.split()
            for option in (word for word in words if word.startswith("--")):
                assert f'"{option}"' in (ROOT / script).read_text(), f"{page}: {line}"


def test_what_make_runs_exists() -> None:
    recipes = re.findall(r"^\t(.*)$", MAKEFILE.replace("\\\n", " "), re.MULTILINE)
    scripts = {script for recipe in recipes for script in re.findall(r"\btests/[\w/]+\.py", recipe)}
    assert len(scripts) > 5
    assert all((ROOT / script).is_file() for script in scripts)
    called = [found for recipe in recipes for found in re.findall(r"bin/(digits-\w+) (.*)", recipe)]
    assert len(called) > 3
    for name, given in called:
        assert set(re.findall(r"(?<!\S)--[a-z-]+", given)) <= _options(COMMANDS[name])


@pytest.mark.parametrize("script", ["calibration", "chaos", "million", "preparation", "soak"])
def test_a_script_that_runs_by_hand_starts(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "manual" / f"{script}.py", "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
