"""Bearer tokens in a file, and the check of a call's token against them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path

from serving.config import SecurityConfig, is_loopback
from serving.errors import Unauthenticated, UnusableFile
from serving.server.security.watched_files import WatchedFiles

# Characters that HTTP and gRPC carry unchanged in a header.
_TOKEN = re.compile(rb"[\x21-\x7e]+")

_logger = logging.getLogger(__name__)


class TokenFile(WatchedFiles[tuple[bytes, ...]]):
    """The digests of the tokens in a file: one token per line; blank lines and lines that start with # are skipped.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__((path,), self._digests)

    @classmethod
    def of(cls, security: SecurityConfig, host: str) -> TokenFile | None:
        """Loads the configured file; None if none is configured. Warns if tokens would cross a network unencrypted.

        Raises:
            UnusableFile: The file can't be used.
        """
        if security.token_file is None:
            return None
        file = cls(security.token_file)
        file.load()
        if security.tls_certificate is None and not is_loopback(host):
            _logger.warning("clients send their tokens to %s in plain text: use --tls-certificate and --tls-key", host)
        return file

    def check(self, authorization: str) -> None:
        """Compares an `authorization` header with every token, in a time that does not depend on how much matches.

        Args:
            authorization: `Bearer ` and the token.

        Raises:
            Unauthenticated: The scheme is another one, or the token is not in the file.
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
                raise UnusableFile(f"{self._path}, line {number}: a token must be printable ASCII without spaces")
            digests.append(hashlib.sha256(token).digest())
        if not digests:
            raise UnusableFile(f"{self._path} contains no token")
        return tuple(digests)
