"""A server's certificate and key, and the authorities of its clients, on disk: checked before they are used."""

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
    """What a server shows, and whom it asks for the same.

    Attributes:
        certificate: PEM: the server's certificate, then those between it and its authority.
        key: PEM: the private key that fits it.
        client_ca: PEM: the authorities of client certificates; None where clients need none.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None

    def server_context(self) -> ssl.SSLContext:
        """Makes what Python's own TLS takes, for HTTP/1.1."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A session that is taken up again would show no certificate, though its authority may have gone meanwhile.
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
    """The files of a `TlsIdentity`. What can't work is refused when it is read, not at the next handshake.

    Args:
        certificate: The server's certificate.
        key: Its private key, not encrypted.
        client_ca: Authorities of client certificates.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        super().__init__((certificate, key, *([client_ca] if client_ca else [])), self._checked)

    @classmethod
    def of(cls, security: SecurityConfig) -> TlsFiles | None:
        """Reads the files that a configuration names; None where it names none.

        Raises:
            UnusableFile: One can't be used.
        """
        if security.tls_certificate is None or security.tls_key is None:
            return None
        files = cls(security.tls_certificate, security.tls_key, security.tls_client_ca)
        files.load()
        return files

    def _checked(self, certificate: bytes, key: bytes, client_ca: bytes | None = None) -> TlsIdentity:
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
        raise UnusableFile(f"{path} holds no certificate in PEM form, or half of one") from error


def _check_pair(certificate_path: Path, certificate: bytes, key_path: Path, key: bytes) -> None:
    try:
        with _as_file(certificate) as certificate_file, _as_file(key) as key_file:
            # The password keeps OpenSSL from asking for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate_file, key_file, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UnusableFile(f"the key in {key_path} does not fit the certificate in {certificate_path}") from error
        raise UnusableFile(f"{key_path} holds no private key in PEM form, or an encrypted one") from error


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The module ssl reads files alone; this one is in memory, so that exactly what was checked is used."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
