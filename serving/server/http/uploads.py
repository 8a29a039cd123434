"""The image files in the body of a request: one image, a form with files, or JSON with base64."""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass

import grpc

from serving.errors import InvalidRequest
from serving.server.http.body import HttpError
from serving.server.http.documents import member
from serving.server.http.json_values import members_of
from serving.server.http.multipart import files_of

IMAGE, FORM, JSON = "image/*", "multipart/form-data", "application/json"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image file.

    Attributes:
        content: Its bytes.
        name: Its name; None if it came without.
    """

    content: bytes
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """The request as JSON."""

    images: list[str] = member("The contents of image files, each in base64.")


def uploads_of(body: bytes, content_type: str, *, max_files: int) -> list[Upload]:
    """Returns the image files in a body.

    Args:
        body: The body.
        content_type: Its media type.
        max_files: A body with more files is refused.

    Raises:
        HttpError: It has a media type that contains no images.
        InvalidRequest: It is not what its media type says.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return [Upload(content=body)]
    if kind == FORM:
        return [
            Upload(name=name, content=content) for name, content in files_of(body, content_type, max_files=max_files)
        ]
    if kind == JSON:
        return [Upload(content=content) for content in _decoded(body, max_files)]
    message = f"Content-Type must be {IMAGE}, such as image/png, or {FORM} or {JSON}"
    raise HttpError(415, grpc.StatusCode.INVALID_ARGUMENT, message)


def _decoded(body: bytes, max_files: int) -> list[bytes]:
    # Each value of a document but the first follows one of these, so counting them limits what parsing builds.
    if sum(map(body.count, (b",", b"[", b"{", b":"))) > max_files:
        raise InvalidRequest.of("request", f"more than {max_files:,} values")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of("request", "not JSON") from error
    images = members_of(document, "request", {"images"}).get("images")
    if not isinstance(images, list):
        raise InvalidRequest.of("images", "must be an array of images in base64")
    decoded = []
    for index, text in enumerate(images):
        try:
            decoded.append(binascii.a2b_base64(text, strict_mode=True))
        except (TypeError, ValueError) as error:
            raise InvalidRequest.of(f"images[{index}]", "must be an image in base64, in one line") from error
    return decoded
