"""`digits-doctor`: says whether this machine will serve, and how."""

from __future__ import annotations

import dataclasses
import json
import logging
import os

import click
import cloup

from serving.commands.help import SETTINGS, examples, option, version_option
from serving.commands.server_options import server_options
from serving.config import ServerConfig

_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


@cloup.command(
    context_settings={**SETTINGS, "auto_envvar_prefix": "DIGITS"},
    epilog=examples(
        "digits-doctor", "digits-doctor --provider cuda --verbose", "digits-doctor --repository models --json"
    ),
)
@server_options
@option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@option("--verbose", is_flag=True, help="Add ONNX Runtime's own report, which contains paths of this machine.")
@version_option()
def main(*, config: ServerConfig, as_json: bool, verbose: bool) -> None:
    """Looks at what a server with these options would need, and loads its models.

    Exit code 0: it will serve. 1: it would not start, or could not be trusted; the lines that begin with "problem" say
    why. Prints no value of an environment variable.
    """
    try:
        from serving.commands.checks import examine
        from serving.commands.start_check import PROBLEM
        from serving.inference.engine import runtime_report
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; a server needs the extra cpu or gpu: pip install 'digits-serving[cpu]'"
        ) from error
    logging.getLogger("serving").addHandler(logging.NullHandler())  # what a server logs is among the findings
    findings = []
    for finding in examine(config):
        findings.append(finding)
        if not as_json:
            state = click.style(f"{finding.state:8}", fg=_COLORS[finding.state])
            click.echo(f"{state}{finding.subject:16}{finding.text}")
    healthy = all(finding.state != PROBLEM for finding in findings)
    variables = sorted(name for name in os.environ if name.startswith("DIGITS_"))
    report = runtime_report() if verbose else ""
    if as_json:
        document = {
            "serves": healthy,
            "findings": [dataclasses.asdict(finding) for finding in findings],
            "environment": variables,
            **({"onnxruntime": report} if verbose else {}),
        }
        click.echo(json.dumps(document, indent=2))
    else:
        if variables:
            click.echo(f"set: {', '.join(variables)}")
        if report:
            click.echo(f"\n{report}")
        click.echo("this machine will serve" if healthy else "this machine will not serve as asked")
    if not healthy:
        raise SystemExit(1)
