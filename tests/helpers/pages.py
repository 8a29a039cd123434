"""The pages of the documentation, and a shell that types their commands in order, as a reader does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
}
# The ports in the pages; tests put free ones in their place.
_PORT = re.compile(r"\b(?:5005\d|8000|9090)\b")

# `ready PORT…` waits until the server that was started last listens; ends the shell if it died.
_BEGIN = r"""
set -euo pipefail
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
ready() {
    for port in "$@"; do
        until (: > "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do kill -0 $!; sleep 0.05; done
    done
}
"""
_END = "for server in $(jobs -p); do kill $server; wait $server; done\n"


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block; an indented one, which begins a paragraph, is `indented`."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"(?<=\n\n)(?: {4}\S.*\n(?: {4,}.*\n)*)", outside):
        yield "indented", re.sub(r"^    ", "", found[0], flags=re.MULTILINE)


def lines(block: str) -> list[str]:
    """The commands of a block, each on one line."""
    return block.replace("\\\n", " ").splitlines()


def free_ports() -> dict[str, str]:
    """A free port for each one that the pages name."""
    return {
        port: str(free_port()) for port in sorted({port for text in PAGES.values() for port in _PORT.findall(text)})
    }


def type_blocks(
    typed: Iterable[tuple[str, str]], directory: Path, ports: Mapping[str, str], *, path: str = "", skip: str = "$^"
) -> list[tuple[str, str]]:
    """Runs blocks of shell commands and Python in one shell; returns each command with what it printed.

    Servers that are started in the background are waited for, and must stop cleanly in the end.

    Args:
        typed: Language and content of each block.
        directory: Where they run.
        ports: From the pages' ports to those that are used.
        path: PATH of the shell; by default with the commands of this environment first.
        skip: Commands that match this from their start are not run.
    """
    script, commands = [_BEGIN], []
    for language, block in typed:
        given = _PORT.sub(lambda found: ports[found[0]], block)
        for command in lines(given) if language == "sh" else [given]:
            if re.match(skip, command):
                continue
            script.append(f"printf '\\036%s\\n' {len(commands)}\n")
            commands.append(command)
            if language == "python":
                script.append(f"python - <<'EOF'\n{command}EOF\n")
            elif not command.endswith("&"):
                script.append(f"{command}\n")
            else:  # a server, whose own lines are not another command's
                script.append(f"{command.removesuffix('&')} > /dev/null &\n")
                named = re.findall(r"--(?:\w+-)?port (\d+)", command)
                script.append(f"ready {' '.join([*named, *([] if ' --port ' in command else [ports['50051']])])}\n")
    environment = {
        **os.environ,
        "PATH": path or f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DIGITS_PORT": ports["50051"],
        "DIGITS_TARGET": f"127.0.0.1:{ports['50051']}",
    }
    done = subprocess.run(
        ["bash", "-c", "".join([*script, _END])],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    printed = [part.split("\n", 1)[1] for part in done.stdout.split("\036")[1:]]
    assert done.returncode == 0, f"after {commands[len(printed) - 1]}:\n{done.stderr[-3000:]}"
    return list(zip(commands, printed, strict=True))
