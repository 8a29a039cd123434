"""The page on which one draws a digit: the files of the folder `page`, which ask `/v1` like any other client."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.server.http.handlers import HttpContext, HttpHandlers
from serving.server.security.admission import AdmissionControl

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    # Nothing but the page's own files and calls of this server; images as the user gives them.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # kept, but asked for anew each time, which costs no bytes while its tag is the same
}


def page_routes(handlers: HttpHandlers, admission: AdmissionControl) -> Iterator[Route]:
    """Yields a route for each file.

    Args:
        handlers: Makes routes.
        admission: Admits the requests. The files are no secret, and a browser can send no token for them.
    """
    for path, (name, media_type) in _FILES.items():
        yield handlers.route("GET", path, _File(name, media_type), admission, in_schema=False)


class _File:
    """Answers requests for one file, which is read once."""

    def __init__(self, name: str, media_type: str) -> None:
        self._content = (_FOLDER / name).read_bytes()
        self._headers = {
            **_HEADERS,
            "content-type": media_type,
            "etag": f'"{hashlib.sha256(self._content).hexdigest()[:32]}"',
        }

    async def __call__(self, request: Request, body: bytes, context: HttpContext) -> Response:
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers)
