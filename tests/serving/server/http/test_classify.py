"""Image files over HTTP: the same answers, limits and errors as `Classify` over gRPC."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.config import SAMPLES
from serving.errors import InvalidRequest
from serving.server.http.multipart import files_of
from serving.server.http.uploads import uploads_of

Start = Callable[..., object]

ROOT = Path(__file__).parents[4]
CLASSIFY = "/v1/classify"
PNG = {"Content-Type": "image/png"}
SEVEN, FOUR = (SAMPLES / "7.png").read_bytes(), (SAMPLES / "4.png").read_bytes()
ORIGIN = "https://digits.example"
TOKEN = "token-of-this-test"


def _http(server) -> str:
    return re.fullmatch(r"http on https?://(\S+)\n", server.process.stdout.readline())[1]


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> dict:
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-content-type-options"] == "nosniff"
        return json.loads(self.body)


def _ask(address: str, path: str, body: bytes | None = None, headers: dict[str, str] = PNG, method: str = "") -> Answer:
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def _form(*files: tuple[str, bytes], boundary: str = "a boundary") -> tuple[bytes, dict[str, str]]:
    parts = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    )
    return parts + f"--{boundary}--\r\n".encode(), {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}


def _json(*contents: bytes) -> tuple[bytes, dict[str, str]]:
    images = [base64.b64encode(content).decode() for content in contents]
    return json.dumps({"images": images}).encode(), {"Content-Type": "application/json"}


def _picture(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[object]:
    options = ("--http-port", "0", "--provider", "cpu", "--cors-origin", ORIGIN, "--max-batch-rows", "40")
    with start_server(*options, "--max-encoded-bytes", "200000") as running:
        yield running
        code, stderr = running.stop()
    assert code == 0, stderr
    assert "Traceback" not in stderr


@pytest.fixture(scope="module")
def address(server) -> str:
    return _http(server)


@pytest.fixture(scope="module")
def description(address: str) -> dict:
    return _ask(address, "/openapi.json").json


def test_answers_are_those_of_grpc(server, address: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        request = digits_pb2.ClassifyRequest(
            encoded_images=digits_pb2.EncodedImages(images=[SEVEN, FOUR]),
            top_k=2,
            include_probabilities=True,
            explain=True,
        )
        expected = digits_pb2_grpc.DigitClassifierServiceStub(channel).Classify(request, timeout=20)
    query = "?top_k=2&include_probabilities=true&explain=true"
    for body, headers in (_form(("7.png", SEVEN), ("vier é.png", FOUR)), _json(SEVEN, FOUR)):
        answer = _ask(address, CLASSIFY + query, body, headers).json
        images = answer["images"]
        assert (answer["model_name"], answer["model_version"]) == ("mnist_convnet", 1)
        assert [image["label"] for image in images] == list(expected.labels) == [7, 4]
        assert [image["confidence"] for image in images] == list(expected.confidences)
        assert [each for image in images for each in image["probabilities"]] == list(expected.probabilities)
        assert [image["no_digit"] for image in images] == list(expected.no_digit)
        listed = [each for image in images for each in image["candidates"]]
        assert [each["label"] for each in listed] == list(expected.top_labels)
        assert [each["confidence"] for each in listed] == list(expected.top_confidences)
        for image, prepared in zip(images, expected.preparations, strict=True):
            assert image["preparation"]["steps"] == list(prepared.steps)
            assert base64.b64decode(image["preparation"]["pixels"]) == prepared.pixels
    assert [image.get("file") for image in images] == [None, None]
    answer = _ask(address, CLASSIFY, *_form(("7.png", SEVEN), ("vier é.png", FOUR))).json
    assert [image["file"] for image in answer["images"]] == ["7.png", "vier é.png"]


def test_one_image_needs_no_options(address: str) -> None:
    (image,) = _ask(address, CLASSIFY, SEVEN).json["images"]
    assert (image["label"], image["name"], image["status"], len(image["candidates"])) == (7, "7", None, 3)
    assert image["candidates"][0] == {"label": 7, "name": "7", "confidence": image["confidence"]}
    assert image["preparation"] == {"width": 28, "height": 28, "steps": ["left as it is"]}
    (image,) = _ask(address, f"{CLASSIFY}?min_confidence=1", SEVEN).json["images"]
    assert (image["label"], image["name"]) == (-1, "unsure")


def test_what_is_no_single_digit_has_a_status(address: str) -> None:
    two = Image.new("L", (400, 200), 255)
    bar = Image.new("L", (14, 120), 0)
    two.paste(bar, (120, 40))
    two.paste(bar, (260, 40))
    body, headers = _json(_picture(Image.new("L", (200, 200), 255)), _picture(two))
    images = _ask(address, CLASSIFY, body, headers).json["images"]
    assert [image["status"] for image in images] == ["no ink", "several digits"]
    assert min(image["label"] for image in images) >= 0
    images = _ask(address, f"{CLASSIFY}?only_digits=true", body, headers).json["images"]
    assert [(image["label"], image["name"]) for image in images] == [(-1, "no ink"), (-1, "several digits")]


def test_an_image_that_can_not_be_read_is_named(address: str) -> None:
    body, headers = _form(("7.png", SEVEN), ('a "b".png', b"no image"))
    answer = _ask(address, CLASSIFY, body.replace(b'"a "b".png"', b'"a \\"b\\".png"'), headers)
    assert (answer.status, answer.json.keys()) == (400, {"error"})
    assert answer.json["error"].startswith("images[1] ('a \"b\".png'): not an image in a supported format")
    found = _ask(address, f"{CLASSIFY}?per_image_errors=true", *_json(b"no image", SEVEN)).json["images"]
    assert [image["label"] for image in found] == [-1, 7]
    assert found[0]["error"].startswith("not an image")
    assert "error" not in found[1]


FORM, FORM_HEADERS = _form(("7.png", SEVEN))
JSON_HEADERS = {"Content-Type": "application/json"}
REFUSED = {
    "no type": ("", SEVEN, {}, 415, "Content-Type must be image/*"),
    "curl's type": ("", SEVEN, {"Content-Type": "application/x-www-form-urlencoded"}, 415, "such as image/png"),
    "nothing": ("", b"", PNG, 400, "images[0]: "),
    "too large": ("", bytes(300_000), PNG, 413, "the body is larger than max"),
    "unknown parameter": ("?topk=1", SEVEN, PNG, 400, "'topk': unknown parameter; there are model_name"),
    "parameter of grpc": ("?raw_images=1", SEVEN, PNG, 400, "unknown parameter"),
    "given twice": ("?top_k=1&top_k=2", SEVEN, PNG, 400, "top_k: given twice"),
    "not a number": ("?top_k=all", SEVEN, PNG, 400, "top_k: must be a whole number from 0 on, not 'all'"),
    "below 0": ("?top_k=-1", SEVEN, PNG, 400, "top_k: must be a whole number from 0 on"),
    "beyond 64 bits": ("?model_version=99999999999999999999", SEVEN, PNG, 400, "model_version: must be a whole"),
    "a flag": ("?explain=yes", SEVEN, PNG, 400, "explain: must be true or false, not 'yes'"),
    "no probability": ("?min_confidence=NaN", SEVEN, PNG, 400, "min_confidence: must be between 0 and 1"),
    "another model": ("?model_name=resnet", SEVEN, PNG, 404, "resnet"),
    "another version": ("?model_version=7", SEVEN, PNG, 404, "7"),
    "no boundary": ("", FORM, {"Content-Type": "multipart/form-data"}, 400, "Content-Type: needs a boundary"),
    "another boundary": ("", FORM, {"Content-Type": "multipart/form-data; boundary=x"}, 400, "not in the body"),
    "cut form": ("", FORM[:-10], FORM_HEADERS, 400, "form: ends before its last boundary"),
    "a field": ("", FORM.replace(b'; filename="7.png"', b""), FORM_HEADERS, 400, "field 'file' is no file"),
    "no headers": ("", FORM.replace(b"\r\n\r\n", b"\r\n", 1), FORM_HEADERS, 400, "form[0]: "),
    "many parameters": ("", FORM.replace(b'7.png"', b'7.png"' + b';"' * 40), FORM_HEADERS, 400, "32 semicolons"),
    "many parameters of the body": ("", FORM, {"Content-Type": "multipart/form-data" + ";x" * 9000}, 400, "semicolons"),
    "encoded part": ("", FORM.replace(b"Content-Type", b"Content-Transfer-Encoding: base64\r\nX"), FORM_HEADERS, 400,
                     "without Content-Transfer-Encoding"),
    "empty form": ("", b"--a boundary--\r\n", FORM_HEADERS, 400, "images: must be at least one"),
    "too many files": ("", *_form(*[("x", b"")] * 41), 400, "images: 41 images, but at most 40 in a request"),
    "far too many files": ("", *_form(*[("x", b"")] * 1200), 400, "form: more than 1,064 parts"),
    "not JSON": ("", b"{", JSON_HEADERS, 400, "request: not JSON"),
    "not UTF-8": ("", b'{"images": "\xff"}', JSON_HEADERS, 400, "request: not JSON"),
    "deep JSON": ("", b"[" * 1000, JSON_HEADERS, 400, "request: not JSON"),
    "wide JSON": ("", b'{"images": [' + b"[]," * 2000 + b"1]}", JSON_HEADERS, 400, "more than 1,064 values"),
    "no list": ("", b'{"images": "AAAA"}', JSON_HEADERS, 400, "images: must be an array"),
    "no images": ("", b'{"images": []}', JSON_HEADERS, 400, "images: must be at least one"),
    "unknown member": ("", b'{"image": []}', JSON_HEADERS, 400, "unknown member 'image'"),
    "no base64": ("", b'{"images": ["AA=A"]}', JSON_HEADERS, 400, "images[0]: must be an image in base64"),
    "a number": ("", b'{"images": [7]}', JSON_HEADERS, 400, "images[0]: must be an image in base64"),
}  # fmt: skip


@pytest.mark.parametrize(("query", "body", "headers", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_said(
    address: str, query: str, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = _ask(address, CLASSIFY + query, body, headers, "POST")
    assert (answer.status, answer.json.keys()) == (status, {"error"})
    assert said in answer.json["error"]


def test_a_token_is_needed_and_the_page_says_nothing_without(start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    with start_server("--http-port", "0", "--token-file", str(tmp_path / "tokens")) as running:
        address = _http(running)
        for path, body in ((CLASSIFY, SEVEN), ("/v1/model", None), ("/openapi.json", None)):
            answer = _ask(address, path, body)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert _ask(address, path, body, {**PNG, "Authorization": f"Bearer {TOKEN}"}).status == 200
        assert _ask(address, "/").status == 200


@pytest.mark.parametrize(("origin", "allowed"), [(ORIGIN, True), ("https://other.example", False)])
def test_pages_of_other_origins_call_only_if_they_may(address: str, origin: str, allowed: bool) -> None:
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    asked = _ask(address, CLASSIFY, None, {"Origin": origin, **wanted}, "OPTIONS")
    answer = _ask(address, CLASSIFY, SEVEN, {**PNG, "Origin": origin})
    assert asked.status == (200 if allowed else 400)
    for each in (asked, answer):
        assert each.headers["access-control-allow-origin"] == (origin if allowed else None)
        assert each.headers["access-control-allow-credentials"] is None
    # A browser sends such a request without asking first, and says where the page is from.
    sent = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    unload = _ask(address, "/v2/repository/models/mnist_convnet/unload", b"", sent, "POST")
    assert (unload.status == 403, "may not call" in unload.json["error"]) == (not allowed, not allowed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--http-port", 0, "--cors-origin", "https://a.example/page"), "without a path"),
        (("--cors-origin", "https://a.example"), "needs"),
    ],
)
def test_an_origin_that_no_browser_sends_is_wrong_usage(command: Callable, options: tuple, said: str) -> None:
    done = command("digits-serve", *options)
    assert done.returncode == 2
    assert "--cors-origin" in done.stderr
    assert said in done.stderr


def test_calls_are_counted_like_those_of_grpc(address: str) -> None:
    def counted() -> dict[str, float]:
        text = _ask(address, "/metrics").body.decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    before = counted()
    _ask(address, CLASSIFY, *_json(SEVEN, FOUR))
    after = counted()
    (calls,) = [name for name in after if name.startswith("digits_requests_total{") and f'"POST {CLASSIFY}"' in name
                and 'code="OK"' in name]  # fmt: skip
    (images,) = [name for name in after if name.startswith("digits_images_total{")]
    assert after[calls] - before[calls] == 1
    assert after[images] - before[images] == 2


def test_the_description_has_the_parameters_and_members_that_there_are(address: str, description: dict) -> None:
    operation = description["paths"][CLASSIFY]["post"]
    fields = digits_pb2.ClassifyRequest.DESCRIPTOR.fields
    scalars = {field.name for field in fields if field.message_type is None}
    assert {parameter["name"] for parameter in operation["parameters"]} == scalars
    content = operation["responses"]["200"]["content"]["application/json"]["schema"]
    bad = _form(("7.png", SEVEN), ("x", b"no image"))
    query = "?per_image_errors=true&include_probabilities=true&explain=true"
    answer = _ask(address, CLASSIFY + query, *bad).json
    assert list(answer) == list(content["properties"])
    image = content["properties"]["images"]["items"]
    assert {name for each in answer["images"] for name in each} == image["properties"].keys()
    assert all(each.keys() >= set(image["required"]) for each in answer["images"])
    model = description["paths"]["/v1/model"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(_ask(address, "/v1/model").json) == list(model["properties"])


def test_the_description_has_every_path(address: str, description: dict) -> None:
    known = json.dumps(description)
    assert description["openapi"].startswith("3.1")
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"].endswith(".")
            assert {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"} == {
                *re.findall(r"\{(\w+)\}", path)
            }
            asked = path.replace("{name}", "mnist_convnet").replace("{version}", "1")
            answer = _ask(address, asked, None, {}, method.upper())
            assert answer.status != 405
            assert b"nothing at this path" not in answer.body
    for path in ("/v1/classify", "/v1/model", "/v2/models/{name}/infer", "/v2/repository/index", "/healthz"):
        assert f'"{path}"' in known


def test_the_commands_in_the_docs_work(server, address: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    script = block.replace("127.0.0.1:8000", address).replace("curl ", "curl -sSf -w '\\n' ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    *classified, model, described = map(json.loads, done.stdout.splitlines())
    assert [[image["label"] for image in answer["images"]] for answer in classified] == [[7], [7, 4], [7]]
    assert (model["model_name"], model["labels"]) == ("mnist_convnet", [*"0123456789"])
    assert CLASSIFY in described["paths"]


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_characters='"\\\r\n\0', codec="utf-8")), st.binary()), max_size=5)
)
@settings(max_examples=100, deadline=None)
def test_files_of_a_form_come_out_as_they_went_in(files: list[tuple[str, bytes]]) -> None:
    body, headers = _form(*files, boundary="0123456789abcdefghijklmn")
    assert list(files_of(body, headers["Content-Type"], max_files=5)) == files


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_form_is_refused_or_read_but_raises_nothing_else(data: st.DataObject) -> None:
    body = bytearray(FORM[:200] + FORM[-30:])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4)) or b"\r\n"
    with contextlib.suppress(InvalidRequest):
        uploads_of(bytes(body), FORM_HEADERS["Content-Type"], max_files=5)
