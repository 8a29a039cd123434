"""The page on which one draws a digit, in a real browser that asks a real server."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, run_browser
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps

from serving.config import SAMPLES
from serving.repository.labels import Canary, Labels
from serving.repository.manifest import InputSpec
from serving.repository.repository import Repository, StoredModel

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

Start = Callable[..., object]

AXE = "axe-core@4.14.1"
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844, "touch": True}}
# Strokes as shares of the paper's sides.
THREE = [(0.3, 0.25), (0.4, 0.18), (0.55, 0.17), (0.66, 0.25), (0.64, 0.36), (0.5, 0.45), (0.42, 0.47), (0.5, 0.48),
         (0.66, 0.56), (0.68, 0.7), (0.58, 0.8), (0.42, 0.82), (0.3, 0.76)]  # fmt: skip
ONES = [[(0.2, 0.2), (0.2, 0.8)], [(0.8, 0.2), (0.8, 0.8)]]
CROSS = [[(0.15, 0.15), (0.85, 0.85)], [(0.85, 0.15), (0.15, 0.85)], [(0.5, 0.1), (0.5, 0.9)], [(0.1, 0.5), (0.9, 0.5)]]
SPOKEN = "document.querySelector('#spoken').textContent"
NAME, STATUS = "document.querySelector('.name').textContent", "document.querySelector('.status').textContent"


def _http(server) -> str:
    return re.fullmatch(r"http on (\S+)\n", server.process.stdout.readline())[1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, shipped: StoredModel) -> Path:
    """The shipped model twice, the second time as a canary; and a model that tells colours, 128 x 128."""
    made = Repository(tmp_path_factory.mktemp("models"))
    made.publish(shipped.content, shipped.manifest)
    made.publish(shipped.content, dataclasses.replace(shipped.manifest, accuracy=None))
    made.write_labels("mnist_convnet", Labels(stable=1, canary=Canary(version=2, share=0.5)))
    weights = np.tile(np.eye(3, dtype=np.float32), (128 * 128, 1)) / (128 * 128)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("logits", "probabilities")
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 128, 128, 3])
    graph = helper.make_graph(nodes, "tints", [images], outputs, [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    content = model.SerializeToString()
    manifest = dataclasses.replace(
        shipped.manifest,
        model_name="tints",
        sha256=hashlib.sha256(content).hexdigest(),
        labels=("crimson", "green", "blue"),
        input=InputSpec(height=128, width=128, channels=3, preparation="resize"),
        no_digit=None,
        validation=None,
    )
    made.publish(content, manifest)
    return made.root


@pytest.fixture(scope="module")
def url(start_server: Start, repository: Path) -> Iterator[str]:
    with start_server("--http-port", "0", "--provider", "cpu", "--repository", str(repository)) as running:
        yield _http(running)
        code, stderr = running.stop()
    assert code == 0, stderr


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with run_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, chromium: Browser, url: str) -> Browser:
    """The page, at two sizes; must not complain about anything in the end, nor be wider than its window."""
    chromium.open(url, **SIZES[request.param])
    chromium.until("document.querySelector('#facts div')")
    yield chromium
    assert not chromium.eval("document.documentElement.scrollWidth > innerWidth")
    assert chromium.problems == []


@pytest.fixture
def desktop(chromium: Browser, url: str) -> Browser:
    chromium.open(url, **SIZES["desktop"])
    chromium.until("document.querySelector('#facts div')")
    yield chromium
    assert chromium.problems == []


def _is_touched(page: Browser) -> bool:
    return page.eval("innerWidth") < 500


def _photo(path: Path, digit: int) -> Path:
    """A dark digit on gray paper, in light that falls off, lying on its side as its EXIF data say."""
    with Image.open(SAMPLES / f"{digit}.png") as sample:
        ink = np.asarray(ImageOps.expand(sample.convert("L"), 8).resize((440, 440)), np.float32) / 255
    light = np.linspace(220, 150, 440, dtype=np.float32)[np.newaxis]
    photo = Image.fromarray((light * (1 - 0.8 * ink)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return path


def test_a_drawn_three_is_a_three(page: Browser) -> None:
    page.eval("""(() => {  // counts requests, and how many are in flight at most
        const real = fetch;
        [window.calls, window.most] = [0, 0];
        let now = 0;
        window.fetch = async (...given) => {
          window.calls += 1;
          window.most = Math.max(window.most, ++now);
          try { return await real(...given); } finally { now -= 1; }
        };
    })()""")
    page.drag("#paper", THREE, touch=_is_touched(page))
    assert page.until(SPOKEN).startswith("3, ")
    assert page.eval(NAME) == "3"
    assert page.eval("document.querySelector('.status').hidden")
    rows = "[...document.querySelectorAll('.bars li')].map((row) => row.children[0].textContent)"
    assert page.eval(rows) == [*"0123456789"]
    assert page.eval("document.querySelector('.bars .top').children[0].textContent") == "3"
    assert page.eval("most") == 1
    # What the network saw is a picture, and so is what was drawn.
    for canvas in ("#seen", "#paper"):
        lit = f"""(({{width, height}}, pen) => pen.getImageData(0, 0, width, height).data.filter(
            (value, place) => place % 4 == 0 && value > 99).length / (width * height))(
            document.querySelector("{canvas}"), document.querySelector("{canvas}").getContext("2d"))"""
        assert 0.05 < page.eval(lit) < 0.95
    facts = page.eval("document.querySelector('#about').innerText")
    for shown in ("mnist_convnet", "99.5%", "e-", "CPU", "28 × 28", "0, 1, 2"):
        assert shown in facts
    page.eval("document.querySelector('#clear').click()")
    assert page.eval(f"{NAME} + {SPOKEN}") == "–"


@pytest.mark.parametrize(
    ("strokes", "status"), [(ONES, "several digits"), (CROSS, "no digit")], ids=("several", "no digit")
)
def test_what_is_no_single_digit_is_called_that(page: Browser, strokes: list, status: str) -> None:
    for stroke in strokes:
        page.drag("#paper", stroke, touch=_is_touched(page))
    page.until(f"{STATUS} === {status!r}")
    assert page.until(SPOKEN).startswith(f"{status}, ")
    side = "document.querySelector('%s').getBoundingClientRect().%s"
    assert page.eval(side % (".status", "right")) <= page.eval(side % (".bars", "left"))


def test_pictures_are_dropped_pasted_and_chosen(page: Browser, tmp_path: Path) -> None:
    photo, blank = _photo(tmp_path / "photo.jpg", 4), tmp_path / "blank.png"
    Image.new("RGB", (300, 200), "white").save(blank)
    data = {"items": [], "files": [str(photo)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.send("Input.dispatchDragEvent", type=kind, x=100, y=200, data=data)
    assert page.until(SPOKEN).startswith("4, ")
    page.choose("#file", blank)
    page.until(f"{STATUS} === 'no ink'")
    assert page.until(f"{SPOKEN} === 'no ink'")
    page.eval("""fetch("icon.svg").then(async () => {
        const drawn = document.createElement("canvas");
        drawn.width = drawn.height = 100;
        const pen = drawn.getContext("2d");
        pen.fillStyle = "white"; pen.fillRect(0, 0, 100, 100);
        pen.fillStyle = "black"; pen.fillRect(46, 20, 8, 60);
        const pasted = new DataTransfer();
        pasted.items.add(new File([await new Promise((done) => drawn.toBlob(done))], "one.png", {type: "image/png"}));
        dispatchEvent(new ClipboardEvent("paste", {clipboardData: pasted}));
    })""")
    page.until(f"{NAME} === '1'")
    page.drag("#paper", THREE, touch=_is_touched(page))  # takes the picture's place
    page.until(f"{NAME} === '3'")


def test_a_file_that_is_no_picture_is_named(desktop: Browser, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    desktop.choose("#file", tmp_path / "text.png")
    message = desktop.until("document.querySelector('#message').textContent")
    assert message.startswith("not an image in a supported format")
    desktop.until(f"{NAME} === '–'")
    assert len(desktop.problems) == 1  # the browser's own note of the status 400
    assert "400" in desktop.problems.pop()


def test_it_is_used_with_keys(desktop: Browser) -> None:
    desktop.eval("document.querySelector('#paper').focus()")
    desktop.press(" ", *["ArrowDown"] * 12)
    assert desktop.until(f"{SPOKEN}.includes('%') && {SPOKEN}").startswith("1, ")
    desktop.press("Escape")
    assert desktop.eval(NAME) == "–"


def test_a_canary_is_compared_if_one_asks(page: Browser) -> None:
    page.drag("#paper", THREE, touch=_is_touched(page))
    page.until(SPOKEN)
    assert "version 2" in page.eval("document.querySelector('#offer').innerText")
    page.eval("document.querySelector('#compare').click()")
    page.until("document.querySelectorAll('.column').length === 2")
    versions = page.eval("[...document.querySelectorAll('.version')].map((title) => title.innerText)")
    assert versions == ["Version 1, stable", "Version 2, canary"]
    assert page.eval("[...document.querySelectorAll('.name')].map((name) => name.innerText)") == ["3", "3"]
    assert page.until(f"{SPOKEN}.includes('canary') && {SPOKEN}").startswith("stable: 3, ")


def test_a_model_of_other_things_gets_pictures(page: Browser, tmp_path: Path) -> None:
    page.eval("""(() => { const models = document.querySelector("#models"); models.value = "tints";
        models.dispatchEvent(new Event("change")); })()""")
    page.until("document.title === 'Show a picture'")
    assert "128 × 128, colour" in page.eval("document.querySelector('#facts').innerText")
    page.drag("#paper", THREE, touch=_is_touched(page))  # draws nothing
    Image.new("RGB", (200, 300), (200, 0, 0)).save(tmp_path / "red.png")
    page.choose("#file", tmp_path / "red.png")
    assert page.until(SPOKEN).startswith("crimson, ")
    colour = "[...document.querySelector('#seen').getContext('2d').getImageData(64, 64, 1, 1).data]"
    assert page.eval(colour) == [200, 0, 0, 255]


def test_it_says_when_there_is_no_server_and_goes_on_when_there_is(desktop: Browser) -> None:
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    desktop.send("Network.emulateNetworkConditions", offline=True, **conditions)
    desktop.drag("#paper", THREE)
    desktop.until("document.querySelector('#message').textContent.includes('reached')")
    desktop.send("Network.emulateNetworkConditions", offline=False, **conditions)
    desktop.until(f"{NAME} === '3' && document.querySelector('#message').hidden")
    assert all("ERR_INTERNET_DISCONNECTED" in problem for problem in desktop.problems)
    desktop.problems.clear()


def test_a_token_is_asked_for_and_kept_in_memory_only(chromium: Browser, start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret-token-of-this-test\n")
    with start_server("--http-port", "0", "--token-file", str(tmp_path / "tokens")) as running:
        chromium.open(_http(running), **SIZES["desktop"])
        chromium.until("!document.querySelector('#login').hidden")
        assert chromium.eval("document.activeElement.id") == "token"
        use = """(() => { document.querySelector("#token").value = %r;
            document.querySelector("#login").requestSubmit(); })()"""
        chromium.eval(use % "wrong")
        chromium.until("document.querySelector('#note').textContent.includes('not accepted')")
        chromium.eval(use % "secret-token-of-this-test")
        chromium.until("document.querySelector('#login').hidden && document.querySelector('#facts div')")
        chromium.drag("#paper", THREE)
        chromium.until(f"{NAME} === '3'")
        kept = chromium.eval("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
        assert "secret" not in kept
        assert all("401" in problem for problem in chromium.problems)


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm's registry."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("needs npm, which fetches axe-core")
    done = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"npm could not fetch {AXE}: {done.stderr[-500:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        return package.extractfile("package/axe.min.js").read().decode()


@pytest.mark.parametrize("dark", [False, True], ids=("light", "dark"))
def test_axe_finds_nothing(page: Browser, axe: str, dark: bool) -> None:
    for stroke in ONES:  # with a status, so that all parts are there
        page.drag("#paper", stroke, touch=_is_touched(page))
    page.until(SPOKEN)
    touched = _is_touched(page)
    page.look(**SIZES["phone" if touched else "desktop"], dark=dark)
    page.eval(axe + "; 0")
    found = json.loads(page.eval("axe.run().then(({violations}) => JSON.stringify(violations))"))
    assert [(each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_the_files_are_small_closed_and_asked_for_anew(url: str) -> None:
    host, sizes = url.removeprefix("http://"), 0
    connection = http.client.HTTPConnection(host, timeout=20)
    for path in ("/", "/page.css", "/page.js", "/icon.svg"):
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        sizes += len(text)
        assert answer.status == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
        assert not re.search(r" on\w+=| style=|<script>|<style>", text)
        connection.request("GET", path, headers={"if-none-match": answer.headers["etag"]})
        again = connection.getresponse()
        assert (again.status, again.read()) == (304, b"")
    connection.close()
    assert sizes < 25_000


def test_it_can_be_left_out(start_server: Start) -> None:
    with start_server("--http-port", "0", "--no-page") as running:
        connection = http.client.HTTPConnection(_http(running).removeprefix("http://"), timeout=20)
        for path in ("/", "/page.js"):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())) == (404, {"error": "there is nothing at this path"})
        connection.close()
