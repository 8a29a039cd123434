"""Options of the commands that call a server."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from serving.client.credentials import Credentials
from serving.errors import InvalidConfig

Command = Callable[..., Any]

_FILE = click.Path(path_type=Path, dir_okay=False)


def target_option(command: Command) -> Command:
    """Adds `--target`."""
    option = click.option(
        "--target", default="127.0.0.1:50051", envvar="DIGITS_TARGET", show_envvar=True, help="Server, HOST:PORT."
    )
    return option(command)


def credential_options(command: Command) -> Command:
    """Adds the options of `Credentials`, which the command gets as `credentials`.

    A token itself is no option, since every user of a machine sees its processes' command lines.
    """
    options = [
        click.option("--tls", is_flag=True, envvar="DIGITS_TLS", show_envvar=True, help="Use TLS; the files imply it."),
        click.option(
            "--tls-ca",
            type=_FILE,
            # A health check in the server's own container trusts the server's certificate itself.
            envvar=["DIGITS_TLS_CA", "DIGITS_TLS_CERTIFICATE"],
            show_envvar=True,
            help="Authorities to trust, PEM, or the server's certificate.",
        ),
        click.option(
            "--tls-certificate",
            type=_FILE,
            envvar="DIGITS_TLS_CLIENT_CERTIFICATE",
            show_envvar=True,
            help="Certificate to show to the server, PEM.",
        ),
        click.option(
            "--tls-key",
            type=_FILE,
            envvar="DIGITS_TLS_CLIENT_KEY",
            show_envvar=True,
            help="Its private key, PEM, not encrypted.",
        ),
        click.option(
            "--tls-server-name",
            default="",
            envvar="DIGITS_TLS_SERVER_NAME",
            show_envvar=True,
            show_default="that of the target",
            help="Name in the server's certificate.",
        ),
        click.option(
            "--token-file",
            type=_FILE,
            envvar="DIGITS_TOKEN_FILE",
            show_envvar=True,
            help="File whose first line is the token; DIGITS_TOKEN may hold the token itself.",
        ),
        click.option(
            "--allow-insecure-token",
            is_flag=True,
            envvar="DIGITS_ALLOW_INSECURE_TOKEN",
            show_envvar=True,
            help="Send the token in plain text to other machines too.",
        ),
    ]

    @functools.wraps(command)
    def with_credentials(
        *,
        tls: bool,
        tls_ca: Path | None,
        tls_certificate: Path | None,
        tls_key: Path | None,
        tls_server_name: str,
        token_file: Path | None,
        allow_insecure_token: bool,
        **others: Any,
    ) -> Any:
        try:
            credentials = Credentials(
                tls=tls,
                root_certificates=tls_ca,
                certificate=tls_certificate,
                key=tls_key,
                server_name=tls_server_name,
                token=_token(token_file),
                allow_insecure_token=allow_insecure_token,
            )
        except InvalidConfig as error:
            raise click.UsageError(str(error)) from error
        return command(credentials=credentials, **others)

    decorated: Command = with_credentials
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _token(path: Path | None) -> str:
    """The first token of a file as the server's, or the environment's."""
    if path is None:
        return os.environ.get("DIGITS_TOKEN", "").strip()
    try:
        lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError as error:
        raise click.ClickException(f"can't read {path}: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path} holds something other than ASCII") from error
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise click.ClickException(f"{path} holds no token")
    return tokens[0]
