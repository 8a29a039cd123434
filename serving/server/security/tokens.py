"""Bearer tokens in a file, and whether a call's is one of them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path

from serving.config import SecurityConfig, is_loopback
from serving.errors import Unauthenticated, UnusableFile
from serving.server.security.watched_files import WatchedFiles

# What HTTP and gRPC carry in a header without change.
_TOKEN = re.compile(rb"[\x21-\x7e]+")

_logger = logging.getLogger(__name__)


class TokenFile(WatchedFiles[tuple[bytes, ...]]):
    """The digests of a file's tokens: one token a line, blank lines and lines that begin with # left out.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__((path,), self._digests)

    @classmethod
    def of(cls, security: SecurityConfig, host: str) -> TokenFile | None:
        """Reads the file that a configuration names; None where it names none. Warns where tokens go over the wire.

        Raises:
            UnusableFile: It can't be used.
        """
        if security.token_file is None:
            return None
        file = cls(security.token_file)
        file.load()
        if security.tls_certificate is None and not is_loopback(host):
            _logger.warning("tokens come to %s in plain text, for anyone on the way to read: give a certificate", host)
        return file

    def check(self, authorization: str) -> None:
        """Compares a call's `authorization` with every token, in a time that does not depend on how much fits.

        Args:
            authorization: `Bearer ` and the token.

        Raises:
            Unauthenticated: It is another scheme's, or the token is not in the file.
        """
        scheme, _, token = authorization.partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "replace")).digest()
        known = sum(hmac.compare_digest(digest, other) for other in self.current())
        if scheme.lower() != "bearer" or not known:
            raise Unauthenticated

    def _digests(self, content: bytes) -> tuple[bytes, ...]:
        digests = []
        for number, line in enumerate(content.splitlines(), 1):
            token = line.strip()
            if not token or token.startswith(b"#"):
                continue
            if not _TOKEN.fullmatch(token):
                raise UnusableFile(f"{self._path}, line {number}: a token is printable ASCII without spaces")
            digests.append(hashlib.sha256(token).digest())
        if not digests:
            raise UnusableFile(f"{self._path} holds no token")
        return tuple(digests)
