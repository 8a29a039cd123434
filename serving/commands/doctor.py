"""`digits-doctor`: says whether a server would start on this machine, and how it would run."""

from __future__ import annotations

import json
import logging
import os

import click
import cloup

from serving.commands.cli import SETTINGS, errors_in_one_line, examples, option, version_option
from serving.commands.server_options import server_options
from serving.config import ServerConfig

_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


@cloup.command(
    context_settings={**SETTINGS, "auto_envvar_prefix": "DIGITS"},
    epilog=examples("digits-doctor", "digits-doctor --provider cpu --http-port 8000", "digits-doctor --json --verbose"),
)
@server_options
@option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@option("--verbose", is_flag=True, help="Add ONNX Runtime's own report, which contains paths of this machine.")
@version_option()
def main(*, config: ServerConfig, as_json: bool, verbose: bool) -> None:
    """Checks what a server with these options needs, and loads its models.

    Exit code 0: the server would run. 1: it would not start, or could not be trusted; the lines that start with
    "problem" say why. Values of environment variables are not printed.
    """
    with errors_in_one_line("a server"):
        from serving.commands.doctor_checks import run_checks
        from serving.commands.finding import PROBLEM
        from serving.commands.serve import doubts
        from serving.inference.sessions import runtime_report
    logging.getLogger("serving").addHandler(logging.NullHandler())  # the findings contain what a server would log
    findings = []
    for finding in run_checks(config, doubts()):
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
            "findings": [finding._asdict() for finding in findings],
            "environment": variables,
            **({"onnxruntime": report} if verbose else {}),
        }
        click.echo(json.dumps(document, indent=2))
    else:
        if variables:
            click.echo(f"set: {', '.join(variables)}")
        if report:
            click.echo(f"\n{report}")
        click.echo("this machine will serve" if healthy else "this machine will not serve as configured")
    if not healthy:
        raise SystemExit(1)
