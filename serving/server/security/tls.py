"""TLS files on disk: the server's certificate and key, and the CA of its clients, checked before they are used."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serving.config import SecurityConfig
from serving.errors import UnusableFile
from serving.server.security.watched_files import WatchedFiles


@dataclass(frozen=True, kw_only=True)
class TlsIdentity:
    """The certificate that a server presents, and the CA whose certificates its clients must present.

    Attributes:
        certificate: PEM of the server's certificate, then of the intermediate certificates.
        key: PEM of its private key.
        client_ca: PEM of the authorities that sign client certificates; None if clients need no certificate.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None

    def server_context(self) -> ssl.SSLContext:
        """Makes a context of Python's `ssl` for HTTP/1.1; grpcio takes the PEM contents themselves."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A resumed session would skip the client's certificate, though its CA may have been removed since.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        with _as_file(self.certificate) as certificate, _as_file(self.key) as key:
            context.load_cert_chain(certificate, key, password=lambda: b"")
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            with _as_file(self.client_ca) as client_ca:
                context.load_verify_locations(client_ca)
        return context


class TlsFiles(WatchedFiles[TlsIdentity]):
    """The files of a `TlsIdentity`. Unusable ones are refused when they are read, not at the next handshake.

    Args:
        certificate: The server's certificate.
        key: Its private key, not encrypted.
        client_ca: The authorities that sign client certificates; None if clients need no certificate.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        super().__init__((certificate, key, *([client_ca] if client_ca else [])), self._validated)

    @classmethod
    def of(cls, security: SecurityConfig) -> TlsFiles | None:
        """Loads the configured files; None if none are configured.

        Raises:
            UnusableFile: A file can't be used.
        """
        if security.tls_certificate is None or security.tls_key is None:
            return None
        files = cls(security.tls_certificate, security.tls_key, security.tls_client_ca)
        files.load()
        return files

    def _validated(self, certificate: bytes, key: bytes, client_ca: bytes | None = None) -> TlsIdentity:
        _check_certificates(self._certificate, certificate)
        _check_pair(self._certificate, certificate, self._key, key)
        if self._client_ca is not None and client_ca is not None:
            _check_certificates(self._client_ca, client_ca)
        return TlsIdentity(certificate=certificate, key=key, client_ca=client_ca)


def _check_certificates(path: Path, content: bytes) -> None:
    try:
        with _as_file(content) as file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError as error:
        raise UnusableFile(f"{path} contains no complete certificate in PEM form") from error


def _check_pair(certificate_path: Path, certificate: bytes, key_path: Path, key: bytes) -> None:
    try:
        with _as_file(certificate) as certificate_file, _as_file(key) as key_file:
            # With a password, if only an empty one, OpenSSL does not prompt for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate_file, key_file, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UnusableFile(f"the key in {key_path} does not match the certificate in {certificate_path}") from error
        raise UnusableFile(f"{key_path} contains no unencrypted private key in PEM form") from error


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Gives `ssl`, which reads only files, an in-memory file: exactly the checked content is used."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
