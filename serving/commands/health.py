"""`python -m serving health`: the health check of a container."""

from __future__ import annotations

import os

import click
import cloup

from serving.client import Client
from serving.client.credentials import Credentials
from serving.client.endpoint import DEFAULT_PORT
from serving.commands.cli import SETTINGS, examples, option, version_option
from serving.commands.client_options import call_errors_in_one_line, credential_options
from serving.commands.variables import is_service_link


def _own_server() -> str:
    """Returns where a server with the variables of this environment listens."""
    host, port = (os.environ.get(name, "") for name in ("DIGITS_HOST", "DIGITS_PORT"))
    if host.startswith("unix:"):
        return host
    port = port if port and not is_service_link("DIGITS_PORT", port) else str(DEFAULT_PORT)
    if port == "0":
        raise click.UsageError("DIGITS_PORT is 0, so the server has a port that only its output tells: give --target")
    if not port.isdecimal():
        raise click.UsageError(f"Invalid value for the variable DIGITS_PORT: {port!r} is not a valid integer.")
    return f"[{host}]:{port}" if ":" in host else f"{host or '127.0.0.1'}:{port}"


@cloup.command(
    context_settings=SETTINGS,
    epilog=examples("python -m serving health", "python -m serving health --target 127.0.0.1:50051 --timeout-s 60"),
)
@cloup.option_group(
    "Server",
    option(
        "--target",
        envvar="DIGITS_TARGET",
        show_default="DIGITS_HOST and DIGITS_PORT as the server has them, else 127.0.0.1:50051",
        help="Address of the server, HOST:PORT or unix:PATH.",
    ),
    option(
        "--timeout-s",
        default=3.0,
        type=click.FloatRange(0, 86_400, min_open=True),
        help="How long to wait for the server, in seconds.",
    ),
)
@credential_options
@version_option()
def main(*, target: str | None, timeout_s: float, credentials: Credentials) -> None:
    """Waits until a server reports SERVING. Exit code 1 if it does not in time."""
    address = target or _own_server()
    with call_errors_in_one_line(address), Client(address, credentials=credentials) as client:
        client.wait_until_serving(timeout_s)
    click.echo("SERVING")
