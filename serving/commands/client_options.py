"""Options of the commands that call a server."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import cloup

from serving.client import CallFailed
from serving.client.credentials import Credentials
from serving.commands.cli import FILE, option
from serving.errors import DigitsError, InvalidConfig

Command = Callable[..., Any]

target_option = option(
    "--target",
    default="127.0.0.1:50051",
    envvar="DIGITS_TARGET",
    help="Address of the server: HOST, HOST:PORT or unix:PATH. The port is 50051 unless given.",
)

# A token itself is not an option, since every user of a machine can see the command lines of its processes.
_CREDENTIALS = cloup.option_group(
    "TLS and token",
    option("--tls", is_flag=True, envvar="DIGITS_TLS", help="Use TLS. --tls-ca and --tls-certificate imply it."),
    option(
        "--tls-ca",
        type=FILE,
        # A health check in the server's own container trusts the server's certificate itself.
        envvar=["DIGITS_TLS_CA", "DIGITS_TLS_CERTIFICATE"],
        show_default="the public authorities that gRPC trusts",
        help="Authorities to trust, PEM, or the server's certificate itself.",
    ),
    option(
        "--tls-certificate", type=FILE, envvar="DIGITS_TLS_CLIENT_CERTIFICATE", help="The client's certificate, PEM."
    ),
    option(
        "--tls-key",
        type=FILE,
        envvar="DIGITS_TLS_CLIENT_KEY",
        help="Private key of the client's certificate, PEM, not encrypted.",
    ),
    option(
        "--tls-server-name",
        default="",
        envvar="DIGITS_TLS_SERVER_NAME",
        show_default="the host of the target",
        help="Name that the server's certificate must contain.",
    ),
    option(
        "--token-file",
        type=FILE,
        envvar="DIGITS_TOKEN_FILE",
        help="File whose first line is the bearer token. DIGITS_TOKEN can contain the token itself.",
    ),
    option(
        "--allow-insecure-token",
        is_flag=True,
        envvar="DIGITS_ALLOW_INSECURE_TOKEN",
        help="Send the token to other machines even without TLS.",
    ),
)


def credential_options(command: Command) -> Command:
    """Adds the options of `Credentials`, which the command receives as `credentials`."""

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

    return _CREDENTIALS(with_credentials)


@contextlib.contextmanager
def call_errors_in_one_line(target: str) -> Iterator[None]:
    """Turns errors of calls to a server into one line on stderr and exit code 1."""
    try:
        yield
    except DigitsError as error:
        raise click.ClickException(str(error)) from error
    except CallFailed as error:
        raise click.ClickException(f"{target}: {error}") from error


def _token(path: Path | None) -> str:
    """The first token of a file like the server's, or the environment's."""
    if path is None:
        return os.environ.get("DIGITS_TOKEN", "").strip()
    try:
        lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError as error:
        raise click.ClickException(f"can't read {path}: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path} contains characters other than ASCII") from error
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise click.ClickException(f"{path} contains no token")
    return tokens[0]
