"""Envoy's configuration in the kit: valid, and asks for what servers answer. `make balance` puts load on it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving.server.services.handlers import LOAD_FORMAT_KEY

CONFIG = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"


def test_it_asks_for_reports_with_the_metadata_that_servers_know() -> None:
    (listener,) = yaml.safe_load(CONFIG.read_text())["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    added = [each["header"] for each in manager["route_config"]["request_headers_to_add"]]
    assert added == [{"key": LOAD_FORMAT_KEY, "value": "bin"}]


def test_envoy_accepts_it() -> None:
    envoy = shutil.which("envoy", path=Path(sys.executable).parent) or shutil.which("envoy")
    if envoy is None:
        pytest.skip("needs envoy, which make balance installs")
    done = subprocess.run([envoy, "--mode", "validate", "-c", CONFIG], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
