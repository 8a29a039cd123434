"""How a client connects securely: TLS, a client certificate, a bearer token."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from serving.config import is_loopback
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
            raise InvalidConfig("a client certificate and its key need each other")
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

    def channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """Makes a channel, which connects on its first call.

        Raises:
            InvalidConfig: The token would go to another machine in plain text.
            UnusableFile: A file can't be read.
        """
        self._check(address)
        if not self.uses_tls:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, self._channel_credentials(), self._with_server_name(options))

    def aio_channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """Does the same as `channel`, for asyncio."""
        self._check(address)
        if not self.uses_tls:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self._channel_credentials(), self._with_server_name(options))

    def _check(self, address: str) -> None:
        if not self.token or self.uses_tls or self.allow_insecure_token:
            return
        if not address.startswith("unix:") and not is_loopback(address.rpartition("/")[2].rpartition(":")[0]):
            raise InvalidConfig(
                f"the token would go to {address} in plain text: use TLS, or allow_insecure_token if the network "
                "itself is safe"
            )

    def _channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(_read(self.root_certificates), _read(self.key), _read(self.certificate))

    def _with_server_name(self, options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
        names = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return [*options, *names]


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnusableFile(f"can't read {path}: {os.strerror(error.errno or 0)}") from error
