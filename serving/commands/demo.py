"""The digits that the package ships, classified by a server that has just begun to serve."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import click

from serving.config import SAMPLES, SecurityConfig


async def classify_samples(address: str, security: SecurityConfig) -> None:
    """Prints the answers of the real command line in a process of its own, so that they have been over the wire.

    Args:
        address: Of the server.
        security: Its certificate and its tokens are the client's.
    """
    client = _start_client(address, security)
    try:
        if await asyncio.to_thread(client.wait) == 0:
            click.echo(f"\nstill serving on {address}; Ctrl-C stops")
    finally:
        client.terminate()
        client.wait()


def _start_client(address: str, security: SecurityConfig) -> subprocess.Popen[bytes]:
    credentials = []
    if security.tls_certificate is not None and "DIGITS_TLS_CA" not in os.environ:
        credentials += ["--tls-ca", str(security.tls_certificate)]
    if security.token_file is not None:
        credentials += ["--token-file", str(security.token_file)]
    samples = sorted(str(path) for path in SAMPLES.glob("*.png"))
    # Not by the event loop, since uvloop forks in a way that gRPC remarks on.
    return subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", "serving", "classify", "--target", address, *credentials, "--picture", *samples],
        start_new_session=True,  # a Ctrl-C is the server's, which ends this process with itself
    )
