"""How a client connects securely: TLS, a client certificate, a bearer token."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from serving.client.endpoint import Endpoint, dialled, is_this_machine
from serving.errors import InvalidConfig, UnusableFile

_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a client presents to the server, and how it verifies the server. A new client reads the files.

    Attributes:
        tls: Whether to use TLS; any of the paths below implies it.
        root_certificates: Authorities to trust, PEM, or the server's own certificate; by default those that gRPC
            ships with.
        certificate: The client's certificate chain, PEM, for mutual TLS.
        key: The private key of the certificate, PEM, not encrypted.
        server_name: The name that the server's certificate must have, if it is not the address.
        token: A bearer token for every call.
        allow_insecure_token: Whether the token may go to another machine in plain text.
    """

    tls: bool = False
    root_certificates: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str = ""
    token: str = field(default="", repr=False)
    allow_insecure_token: bool = False

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidConfig(
                "a client certificate and its key need each other: certificate (--tls-certificate) and key (--tls-key)"
            )
        if self.token and not _TOKEN.fullmatch(self.token):
            raise InvalidConfig("a token must be printable ASCII without spaces")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or self.root_certificates is not None or self.certificate is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def endpoint(self, address: str, options: Sequence[tuple[str, Any]]) -> Endpoint:
        """Returns what makes channels to a server, with the files read.

        Args:
            address: See `serving.client.endpoint.dialled`.
            options: Options of the channels.

        Raises:
            InvalidConfig: The address is none, or the token would go to another machine in plain text.
            UnusableFile: A file can't be read.
        """
        dial = dialled(address)
        if self.token and not self.uses_tls and not self.allow_insecure_token and not is_this_machine(dial):
            raise InvalidConfig(
                f"the token would go to {address} in plain text: use TLS, or allow_insecure_token "
                "(--allow-insecure-token) if the network itself is safe"
            )
        if not self.uses_tls:
            return Endpoint(address=dial, options=options, credentials=None)
        names = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return Endpoint(address=dial, options=[*options, *names], credentials=self._channel_credentials())

    def _channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(_read(self.root_certificates), _read(self.key), _read(self.certificate))


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnusableFile(f"can't read {path}: {os.strerror(error.errno or 0)}") from error
