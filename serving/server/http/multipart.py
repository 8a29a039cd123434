"""`multipart/form-data`: the files of a form, cut out of a body that is already in memory.

Ours because the usual parsers read a stream in small steps, on the event loop, and write large files to the disk. Here
the body was read up to a limit, and only has to be split at its boundaries. The format: RFC 7578 and RFC 2046, 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from email.utils import collapse_rfc2231_value

from serving.errors import InvalidRequest
from serving.server.services.oip_tensors import quoted

_LINE = b"\r\n"
_MAX_BOUNDARY = 70  # as RFC 2046 says
_MAX_HEAD_BYTES = 2048  # the headers of a part
_MAX_PARAMETERS = 32  # of a header; reading them takes time that grows with the square of their number
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")


def files_of(body: bytes, content_type: str, *, max_files: int) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each file.

    Args:
        body: The body of the request.
        content_type: Its media type, with the boundary.
        max_files: A body with more parts is refused.

    Raises:
        InvalidRequest: The body is not a form, or contains something other than files.
    """
    boundary = (_parameter(content_type, "boundary") or "").encode("latin-1", "replace")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise InvalidRequest.of("Content-Type", f"needs a boundary of 1 to {_MAX_BOUNDARY} characters")
    delimiter = _LINE + b"--" + boundary
    _, *parts = (_LINE + body).split(delimiter, max_files + 2)
    if not parts:
        raise InvalidRequest.of("form", "the boundary that Content-Type states is not in the body")
    if len(parts) > max_files + 1:
        raise InvalidRequest.of("form", f"more than {max_files:,} parts")
    if not parts.pop().startswith(b"--"):
        raise InvalidRequest.of("form", "ends before its last boundary")
    for index, part in enumerate(parts):
        yield _file(part, f"form[{index}]")


def _file(part: bytes, field: str) -> tuple[str, bytes]:
    """Returns name and content of a part, which begins with the rest of its boundary's line."""
    rest, line, content = part.partition(_LINE)
    end = (line + content).find(2 * _LINE, 0, _MAX_HEAD_BYTES)
    if rest.strip(b" \t") or end < 0:
        raise InvalidRequest.of(field, f"has no headers of at most {_MAX_HEAD_BYTES} bytes before its content")
    headers = {}
    for each in content[: max(end - len(_LINE), 0)].split(_LINE):
        name, _, value = each.decode("utf-8", "replace").partition(":")
        headers[name.strip().lower()] = value.strip()
    disposition = headers.get("content-disposition", "")
    filename = _parameter(disposition, "filename")
    if filename is None:
        what = quoted(_parameter(disposition, "name") or "")
        raise InvalidRequest.of(field, f"field {what} is no file; options belong in the query of the URL")
    if headers.get("content-transfer-encoding", "").lower() not in _PLAIN_ENCODINGS:
        raise InvalidRequest.of(field, "must be sent as it is, without Content-Transfer-Encoding")
    return filename, content[end + len(_LINE) :]


def _parameter(header: str, name: str) -> str | None:
    """Returns a parameter of a header's value; None if it has none of this name."""
    if header.count(";") > _MAX_PARAMETERS:
        raise InvalidRequest.of("form", f"a header has more than {_MAX_PARAMETERS} semicolons")
    message = Message()
    message["content-type"] = header
    value = message.get_param(name)
    return None if value is None else collapse_rfc2231_value(value)
