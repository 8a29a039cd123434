"""Dashboard and alerts: every metric, label and value that they name is on a real server's /metrics.

Where Debian's package prometheus is installed, its promtool runs the alerts' unit tests, and a real Prometheus scrapes
the server and answers every expression.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families

from serving.client import CallFailed, Client
from serving.config import PRETRAINED

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
SAMPLE = Path(__file__).parents[2] / "serving" / "samples" / "3.png"
RULES = [rule for group in yaml.safe_load((COMPOSE / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((COMPOSE / "grafana" / "dashboard.json").read_text())
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
# A metric with its matchers, and the labels that a result is grouped by.
_SELECTOR = re.compile(r"\b((?:digits|process)_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)(=~|=|!=)"([^"]*)"')
_GROUPS = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")
# Prometheus adds these itself; le is the histograms'.
_ADDED = {"job", "instance", "le"}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="needs apt-get install prometheus"
)


@contextlib.contextmanager
def _load(address: str) -> Iterator[None]:
    """Calls of all kinds, one after the other: good ones, unsure ones and wrong ones."""
    stop = threading.Event()

    def call() -> None:
        with Client(address) as client, Client(address, model_version=9) as wrong:
            while not stop.wait(0.01):
                client.classify(np.zeros((3, 28, 28, 1), np.uint8))
                client.classify_encoded([SAMPLE.read_bytes()], min_confidence=1)
                with contextlib.suppress(CallFailed):
                    wrong.get_model()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


@pytest.fixture(scope="module")
def metrics(start_server: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server with two workers, under load, shows its metrics; it refuses the second of two versions."""
    models = tmp_path_factory.mktemp("models")
    for version in "12":
        shutil.copytree(PRETRAINED / "mnist_convnet" / "1", models / "mnist_convnet" / version)
    (models / "mnist_convnet" / "2" / "model.onnx").write_bytes(b"damaged")
    options = ("--workers", "2", "--metrics-port", "0", "--repository", str(models))
    with start_server(*options) as server:
        line = next(line for line in server.process.stderr if "metrics on" in line)
        with _load(server.address):
            yield re.search(r"http://(\S+)/metrics", line)[1]
        assert server.stop()[0] == 0


@pytest.fixture(scope="module")
def shown(metrics: str) -> dict[str, list[dict[str, str]]]:
    """The labels of every series that the server shows, by the name of its metric."""
    found: dict[str, list[dict[str, str]]] = {}
    ends = time.monotonic() + 30
    while not found.get("digits_statuses_total") or not found.get("digits_request_duration_seconds_bucket"):
        assert time.monotonic() < ends
        text = urllib.request.urlopen(f"http://{metrics}/metrics").read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize("expression", [*ALERTS.values(), *PANELS.values()], ids=[*ALERTS, *PANELS])
def test_what_an_expression_names_is_on_the_metrics_of_a_real_server(expression: str, shown: dict) -> None:
    named = _SELECTOR.findall(expression)
    assert named
    known = set(_ADDED)
    for name, matchers in named:
        if name == "up":  # Prometheus's own
            continue
        assert name in shown, "no such metric"
        labels = {label for series in shown[name] for label in series}
        known |= labels
        for label, operator, value in _MATCHER.findall(matchers):
            assert label in labels | _ADDED, f"{name} has no label {label}"
            if label not in _ADDED | {"code"} and operator != "!=" and value != "$model":  # not every code occurs here
                assert set(value.split("|")) <= {series[label] for series in shown[name]}, f"{name}: {label}"
    grouped = {label for group in _GROUPS.findall(expression) for label in group.split(", ")}
    assert grouped <= known


def test_every_alert_says_what_it_means_and_operators_find_what_to_do() -> None:
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in RULES)
    page = (COMPOSE.parents[1] / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^\| `(Digits\w+)` \|", page, re.MULTILINE)) == ALERTS.keys()


def test_the_compose_file_mounts_what_exists() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    assert services.keys() == {"server", "prometheus", "grafana"}
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    assert all((COMPOSE / path).is_file() for path in mounted if path.startswith("./"))
    assert {path.name for path in COMPOSE.rglob("*") if path.is_file()} - {Path(path).name for path in mounted} == {
        *("compose.yaml", "alerts_test.yml")
    }
    stays = int(services["server"]["stop_grace_period"].removesuffix("s"))
    assert stays > 10 + 5  # --grace-s, and what a stop takes beyond it


@needs_prometheus
@pytest.mark.parametrize(
    "arguments", ["check config prometheus.yml", "check rules --lint-fatal alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool_is_content(arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments.split()], cwd=COMPOSE, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def prometheus(metrics: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with our rules, which scrapes the server instead of the names of the compose file."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    (scraped,) = config["scrape_configs"]
    del scraped["dns_sd_configs"]
    scraped["static_configs"] = [{"targets": [metrics]}]
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(COMPOSE / path) for path in config["rule_files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    process = subprocess.Popen(
        ["prometheus", *options, f"--web.listen-address={address}"], stderr=subprocess.PIPE, text=True
    )
    try:
        line = next((line for line in process.stderr if "ready to receive web requests" in line), None)
        assert line is not None, "it did not start"
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for a reader
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _ask(address: str, path: str) -> dict:
    answer = json.load(urllib.request.urlopen(f"http://{address}/api/v1/{path}", timeout=30))
    assert answer["status"] == "success"
    assert not answer.get("warnings")
    return answer["data"]


def _query(address: str, expression: str) -> list:
    for variable, value in (("$__rate_interval", "1m"), ("$model", ".*")):
        expression = expression.replace(variable, value)
    return _ask(address, f"query?{urllib.parse.urlencode({'query': expression})}")["result"]


def _rules(address: str) -> dict[str, dict]:
    return {rule["name"]: rule for group in _ask(address, "rules")["groups"] for rule in group["rules"]}


@needs_prometheus
def test_a_real_prometheus_answers_every_expression(prometheus: str) -> None:
    ends = time.monotonic() + 60
    while not _query(prometheus, 'sum(rate(digits_statuses_total[1m])) > 0 and sum(up{job="digits"}) == 1'):
        assert time.monotonic() < ends
        time.sleep(0.1)
    for title, expression in PANELS.items():
        assert [series for series in _query(prometheus, expression) if series["value"][1] != "NaN"], title
    for expression in ALERTS.values():
        _query(prometheus, expression)
    told = _rules(prometheus)
    while not told["DigitsModelRefused"]["alerts"]:
        assert time.monotonic() < ends
        told = _rules(prometheus)
    assert told.keys() == ALERTS.keys()
    assert {rule["health"] for rule in told.values()} == {"ok"}
    assert {name for name, rule in told.items() if rule["alerts"]} == {"DigitsModelRefused"}
