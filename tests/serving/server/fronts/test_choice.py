"""Which front end serves: what was asked for, or a line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.config import ConnectionConfig, SecurityConfig, ServerConfig
from serving.errors import InvalidConfig

ONLY_GRPCIO = {
    "tls_certificate": {"security": SecurityConfig(tls_certificate=Path("server.crt"), tls_key=Path("server.key"))},
    "max_connections": {"connections": ConnectionConfig(max_connections=5)},
    "max_connection_age_s": {"connections": ConnectionConfig(max_connection_age_s=300)},
    "handshake_timeout_s": {"connections": ConnectionConfig(handshake_timeout_s=5)},
    "traces_endpoint": {"traces_endpoint": "http://127.0.0.1:4318"},
}


@pytest.mark.parametrize("name", ONLY_GRPCIO)
def test_what_native_can_not_do_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidConfig, match=f"front: native can't do {name}; use grpcio") as refused:
        ServerConfig(front="native", **ONLY_GRPCIO[name])
    assert refused.value.fields == ("front", name)
    assert ServerConfig(front="auto", **ONLY_GRPCIO[name]).needs_grpcio == (name,)


def test_the_command_names_the_options(command: Callable) -> None:
    done = command("digits-serve", "--port", "0", "--front", "native", "--max-connections", "5", timeout=60)
    assert done.returncode == 2
    assert done.stderr.endswith("Error: --front: native can't do --max-connections; use grpcio\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "front end: native\n"),
        (("--max-connections", "5"), "front end: grpcio, since max_connections needs it\n"),
    ],
)
def test_auto_takes_native_unless_an_option_needs_grpcio(command: Callable, options: tuple, said: str) -> None:
    """The port is taken, so the server ends after it has chosen."""
    done = command("digits-serve", "--host", "192.0.2.1", "--port", "1", "--front", "auto", *options, timeout=60)
    assert done.returncode == 1
    assert said in done.stderr
    assert "can't listen on 192.0.2.1:1" in done.stderr
    assert ("refused for its size only once it has arrived" in done.stderr) == ("native" in said)  # not a loopback
