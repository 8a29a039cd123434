"""Every command and snippet of the documentation is run by a test, and everything that it names exists."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pages import PAGES, ROOT, blocks, free_ports, lines, type_blocks

import export.__main__
import export.import_command
import serving.__main__
import training.__main__

MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS: dict[str, click.Command] = {
    "digits-train": training.__main__.main,
    "digits-export": export.__main__.main,
    "digits-import": export.import_command.main,
    **{f"digits-{name}": serving.__main__._load(name) for name in serving.__main__._COMMANDS},
}

# Who runs the fenced blocks of a page that is not `TYPED` here. Indented ones run by hand: they take minutes to hours.
RUN_BY = {
    ("README.md", "sh"): ("tests/test_readme.py", "test_every_command_works_in_order"),
    ("README.md", "python"): ("tests/test_readme.py", "test_every_command_works_in_order"),
    ("docs/models.md", "sh"): (
        "tests/serving/commands/test_models.py",
        "test_the_commands_in_the_documentation_work_in_order",
    ),
    ("docs/models.md", "bash"): ("tests/export/test_contract.py", "test_the_imports_on_the_page_work"),
    ("docs/models.md", "python"): (
        "tests/export/test_contract.py",
        "test_a_model_made_by_hand_as_the_page_says_is_served",
    ),
    ("docs/models.md", "json"): (
        "tests/serving/commands/test_models.py",
        "test_the_commands_in_the_documentation_work_in_order",
    ),
    ("docs/api.md", "bash"): ("tests/serving/server/http/test_classify.py", "test_the_commands_in_the_docs_work"),
    ("docs/oip.md", "sh"): ("tests/serving/server/http/test_http.py", "test_the_commands_in_the_docs_work"),
    ("docs/oip.md", "python"): ("tests/test_existing_clients.py", "test_the_snippet_in_the_docs_works"),
}
TYPED = ["docs/api.md", "docs/operations.md", "docs/scoring.md", "docs/server.md", "docs/training.md"]
BY_HAND = {("docs/preparation.md", "sh"): "takes minutes, and MNIST"}
# Needs a container engine, or an environment of its own: test_container and test_packages do the same without.
NOT_TYPED = r"docker |pip "
_IN_README = {line for language, block in blocks(PAGES["README.md"]) if language == "sh" for line in lines(block)}

# Options in the text that are other programs': docker's, pip's, kubectl's and sbatch's.
FOREIGN = {"--read-only", "--volume", "--extra", "--kustomize", "--requeue"}
# What stands for something else in the text.
_PLACEHOLDER = re.compile(r"…|\b[A-Z]{2,}\b|\b[Rn]$")


def _lines() -> Iterator[tuple[str, str, str]]:
    """Page, where it stands (a block's language, or `inline`) and text of every command that a reader may type."""
    for page, text in PAGES.items():
        for language, block in blocks(text):
            if language in {"sh", "indented"}:
                for line in lines(block):
                    yield page, language, line
        for span in _spans(text):
            yield page, "inline", span


def _spans(text: str) -> list[str]:
    """Everything between backticks, each on one line."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose)]


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
    found = {(page, language) for page, text in PAGES.items() for language, _ in blocks(text)}
    runnable = found - {(page, other) for page in PAGES for other in ("text", "indented")}
    typed = {(page, language) for page in TYPED for language in ("sh", "python")}
    assert runnable - typed == RUN_BY.keys() | BY_HAND.keys()
    for (page, _), (path, name) in RUN_BY.items():
        test = (ROOT / path).read_text()
        assert f"def {name}(" in test
        assert Path(page).name in test


@pytest.mark.parametrize("page", TYPED)
def test_the_commands_of_a_page_work_in_order(page: str, server, tmp_path: Path) -> None:
    """On a machine that serves on the usual port; what the README has too is run there."""
    ours = []
    for language, block in blocks(PAGES[page]):
        if language == "python":
            ours.append((language, block))
        elif language == "sh":
            ours += [(language, line) for line in lines(block) if line not in _IN_README]
    if not ours:
        return
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "samples").symlink_to(ROOT / "serving" / "samples")
    shutil.copytree(ROOT / "serving" / "pretrained", tmp_path / "serving" / "pretrained")
    printed = type_blocks(ours, tmp_path, {**free_ports(), "50051": server.address.rpartition(":")[2]}, skip=NOT_TYPED)
    assert printed
    text = "".join(output for _, output in printed)
    expected = {
        "docs/api.md": ("(3000,) (3000, 10) mnist_convnet 1\n[7] {}\n", "NOT_FOUND\n"),
        "docs/operations.md": ("4.png", "signed mnist_convnet version 1"),
        "docs/scoring.md": ("local.csv", "merged.csv", "2.png'] [7 2]\n"),
        "docs/server.md": ('{"name": "mnist_convnet"', "digits_requests_total{"),
    }
    for part in expected[page]:
        assert part in text


def test_the_pinned_installation_and_the_images_are_what_other_tests_build() -> None:
    (install, *_) = [line for _, where, line in _lines() if where == "sh" and line.startswith("pip ")]
    assert install == "pip install --require-hashes --requirement requirements/cpu.txt"
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = [target for _, _, line in _called("docker") for target in re.findall(r"--target (\w+)", line)]
    assert {*targets} == {"cpu", "gpu"}
    assert all(f" AS {target}\n" in dockerfile for target in targets)


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
    """Has click check values, choices and what must be given, but not that files exist; runs nothing."""
    try:
        with COMMANDS[name].make_context(name, [*words]) as context:
            if isinstance(context.command, click.Group) and words[0] in context.command.commands:
                context.command.commands[words[0]].make_context(words[0], words[1:], parent=context).close()
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise


def test_every_option_that_is_named_exists() -> None:
    known = set().union(*map(_options, COMMANDS.values()))
    folders = (ROOT / "tests", ROOT / "tests" / "manual")
    scripts = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    for page, where, text in _lines():
        if where == "inline" and page != "CHANGELOG.md" and not text.startswith(("pip ", "docker ")):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text):
                assert option in known | FOREIGN or f'"{option}"' in scripts, f"{page}: {text}"


def test_the_page_of_the_server_has_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*?) \|", PAGES["docs/server.md"], re.MULTILINE))
    about_the_command = {"--help", "--version"}
    params = {
        option: param
        for param in COMMANDS["digits-serve"].params
        for option in (*param.opts, *param.secondary_opts)
        if not about_the_command & {*param.opts}
    }
    assert rows.keys() <= params.keys()
    for param in params.values():
        (name,) = rows.keys() & {*param.opts, *param.secondary_opts}
        default = param.default
        if isinstance(default, bool):
            assert rows[name] == "off"
        elif isinstance(default, int | float):
            assert float(rows[name]) == default, name
        elif isinstance(default, str) and default:
            assert rows[name] == default, name


def test_every_option_of_the_server_is_the_environment_variable_that_the_docs_promise() -> None:
    for param in COMMANDS["digits-serve"].params:
        if param.expose_value:
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
    sources = "".join(path.read_text() for path in [*(ROOT / "serving").rglob("*.py"), ROOT / "tests" / "conftest.py"])
    named = {name for text in PAGES.values() for name in re.findall(r"\bDIGITS_[A-Z][A-Z_]*", text)}
    assert len(named) > 5
    assert not [name for name in named - known - explicit if f'"{name}"' not in sources]


def test_every_metric_is_named_and_exists() -> None:
    folder = ROOT / "serving" / "server" / "telemetry"
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    named = re.findall(r"^\| `(digits_\w+)`", PAGES["docs/operations.md"], re.MULTILINE)
    assert {name.removesuffix("_total") for name in named} == set(re.findall(r'"(digits_[a-z_]+)"', sources))


@pytest.mark.parametrize(("page", "where", "line"), _called("make"))
def test_make_has_the_targets_and_variables_that_it_is_given(page: str, where: str, line: str) -> None:
    for word in shlex.split(line)[1:]:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(pattern, MAKEFILE, re.MULTILINE), f"{page}: {line}"


def test_contributors_find_every_target() -> None:
    targets = " ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split()
    assert set(targets) == set(re.findall(r"`make ([\w-]+)", PAGES["CONTRIBUTING.md"]))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    folders = "docs|deploy|examples|tests|serving|protos|training|export|requirements|.ci"
    named = [span for span in _spans(PAGES[page]) if re.fullmatch(rf"(?:{folders})/[\w./-]*|[A-Z]\w+\.md", span)]
    for path in named:
        assert (ROOT / path).exists(), path
    for link in re.findall(r"(?:\]\(|src=\")(?!https?:)([^)\"]+)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", PAGES[str(target.resolve().relative_to(ROOT))], re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, link


def test_contributors_find_every_place_that_they_are_led_to() -> None:
    text = PAGES["CONTRIBUTING.md"]
    for path in ("services/digits_codec.py", "services/handlers.py", "services/status.py", "process/supervisor.py"):
        assert f"`serving/server/{path}`" in text
    places = re.findall(r"`([\w/]+\.py)`:\s+`(\w+)`", text)
    assert len(places) > 10
    for path, name in places:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert name in defined, f"{path}: {name}"


def test_every_page_is_on_the_map() -> None:
    linked = set(re.findall(r"\]\(([\w/]+\.md)", PAGES["README.md"]))
    assert linked == PAGES.keys() - {"README.md"}


def test_scripts_have_the_options_that_they_are_given() -> None:
    for page, _, line in _called("(?:python|make)"):
        if line.startswith("python ") and not line.startswith("python -m"):
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


@pytest.mark.parametrize("script", ["calibration", "chaos", "million", "preparation", "shards", "soak"])
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
