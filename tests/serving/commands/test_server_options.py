"""Options of the server are made from its configuration: nothing is declared twice, and nothing is left out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from serving.commands import classify, serve
from serving.commands.server_options import server_options
from serving.commands.variables import doubtful_variables, variables_of
from serving.config import BatcherConfig, ConnectionConfig, EngineConfig, ServerConfig
from serving.errors import InvalidConfig
from serving.inference.processors import available_processors


@click.command(context_settings={"auto_envvar_prefix": "DIGITS"})
@click.option("--other")
@server_options
@click.pass_context
def _command(context: click.Context, *, config: ServerConfig, other: str | None) -> None:
    context.obj.append(config)


def _config(*options: str, env: dict[str, str] | None = None) -> ServerConfig:
    made: list[ServerConfig] = []
    done = CliRunner().invoke(_command, options, obj=made, env=env)
    assert done.exit_code == 0, done.output
    return made[0]


def _settings(part: Any) -> Iterator[dataclasses.Field[Any]]:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value)
        else:
            yield field


def test_without_options_the_configuration_is_the_default_one() -> None:
    assert _config() == ServerConfig()


def test_every_setting_is_an_option_but_for_those_that_say_so() -> None:
    names = {param.name for param in _command.params}
    settings = list(_settings(ServerConfig()))
    assert {field.name for field in settings if not field.metadata["option"]} == {
        *("max_batch_rows", "cpu_run_rows", "inline_s")
    }
    for field in settings:
        assert field.metadata["text"]
        if field.metadata["option"] and field.name != "watch_s":
            assert field.name in names, field.name


def test_options_reach_the_part_that_they_belong_to() -> None:
    config = _config(
        *("--port", "7", "--model", "one", "--model", "two", "--max-batch-rows", "5", "--no-reflection"),
        *("--model-control", "--provider", "cpu", "--max-image-pixels", "9", "--keepalive-s", "3"),
    )
    assert config == dataclasses.replace(
        ServerConfig(port=7, models=("one", "two"), model_control=True),
        engine=EngineConfig(provider="cpu", max_batch_rows=5),
        batcher=BatcherConfig(max_batch_rows=5),
        decoder=dataclasses.replace(ServerConfig().decoder, max_image_pixels=9),
        security=dataclasses.replace(ServerConfig().security, reflection=False),
        connections=ConnectionConfig(keepalive_s=3),
    )


def test_the_environment_sets_options_too() -> None:
    config = _config(env={"DIGITS_MODEL": "one two", "DIGITS_PORT": "9", "DIGITS_REFLECTION": "0"})
    assert (config.models, config.port, config.security.reflection) == (("one", "two"), 9, False)


def test_an_interval_alone_does_not_watch() -> None:
    assert _config("--watch-interval-s", "3").watch_s == 0
    assert _config("--watch").watch_s == 1
    assert _config("--watch", "--watch-interval-s", "3").watch_s == 3


def test_workers_are_as_many_as_processors_where_that_is_asked_for() -> None:
    assert _config("--workers", "auto", "--provider", "cpu").workers == available_processors()
    assert _config("--workers", "auto", "--provider", "cuda").workers == 1
    assert _config("--workers", "3").workers == 3


@pytest.mark.parametrize(
    "options",
    [
        *(
            ["--workers", "0"],
            ["--workers", "many"],
            ["--port", "-1"],
            ["--model-version", "0"],
            ["--max-wait-ms", "nan"],
        ),
        *(
            ["--keepalive-s", "0"],
            ["--access-log-share", "1.1"],
            ["--max-connections", "2000001"],
            ["--linger-s", "-1"],
        ),
    ],
)
def test_a_value_outside_its_limits_is_refused_by_name(options: list[str]) -> None:
    done = CliRunner().invoke(_command, options)
    assert done.exit_code == 2
    assert options[0] in done.output or options[0].removeprefix("--").replace("-", "_") in done.output


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ServerConfig(port=70_000), "port must be between 0 and 65535, not 70000"),
        (lambda: ServerConfig(workers=0), "workers must be between 1 and 1024, not 0"),
        (lambda: ServerConfig(watchdog_s=float("nan")), "watchdog_s must be at least 1, not nan"),
        (lambda: EngineConfig(provider="tpu"), "provider must be one of auto, cuda, cpu, not 'tpu'"),
        (lambda: ServerConfig(port=7, http_port=7), "http_port and port must differ, not both be 7"),
        (lambda: ServerConfig(models=("a", "b"), model_version=1), "model_version: of which model"),
        (lambda: ServerConfig(traces_endpoint="collector"), "traces_endpoint must be like http://host:4318"),
    ],
)
def test_a_configuration_checks_itself(make: Any, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        make()


def test_the_former_variable_of_the_version_is_refused() -> None:
    """A deployment that pins a version must not lose its pin without a word."""
    done = CliRunner().invoke(_command, [], obj=[], env={"DIGITS_VERSION": "3"})
    assert done.exit_code == 2
    assert "DIGITS_VERSION is now called DIGITS_MODEL_VERSION" in done.output


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        ([], {"DIGITS_PORT": "abc"}, "Invalid value for the variable DIGITS_PORT: 'abc' is not a valid integer."),
        ([], {"DIGITS_PROVIDER": "tpu"}, "Invalid value for the variable DIGITS_PROVIDER: 'tpu' is not one of"),
        ([], {"DIGITS_WORKERS": "many"}, "Invalid value for the variable DIGITS_WORKERS: 'many' is neither"),
        (["--port", "abc"], {"DIGITS_PORT": "7"}, "Invalid value for --port: 'abc' is not a valid integer."),
        (["--tls-certificate", "a"], {}, "Error: --tls-certificate and --tls-key need each other"),
        ([], {"DIGITS_TLS_KEY": "a"}, "Error: --tls-certificate and the variable DIGITS_TLS_KEY need each other"),
        (["--tls-client-ca", "a"], {}, "Error: --tls-client-ca needs --tls-certificate and --tls-key"),
        (["--http-port", "7"], {"DIGITS_PORT": "7"}, "--http-port and the variable DIGITS_PORT must differ, not both"),
        (["--max-queue-rows", "1"], {}, "--max-queue-rows must be at least --max-batch-rows"),
        (["--traces-endpoint", "here"], {}, "--traces-endpoint must be like http://host:4318, not 'here'"),
        (["--host", ""], {}, "--host must not be empty"),
        (["--model", "a", "--model", "b", "--model-version", "1"], {}, "--model-version: of which model? Name one"),
    ],
)
def test_an_error_names_the_options_and_variables_that_caused_it(
    options: list[str], env: dict[str, str], said: str
) -> None:
    done = CliRunner().invoke(_command, options, env=env)
    assert done.exit_code == 2
    assert said in done.output


# What Kubernetes sets in a namespace with the Services digits, with a port named grpc, and digits-http.
SERVICE_LINKS = {
    "DIGITS_SERVICE_HOST": "10.96.0.5",
    "DIGITS_SERVICE_PORT": "50051",
    "DIGITS_SERVICE_PORT_GRPC": "50051",
    "DIGITS_PORT": "tcp://10.96.0.5:50051",
    "DIGITS_PORT_50051_TCP": "tcp://10.96.0.5:50051",
    "DIGITS_PORT_50051_TCP_PROTO": "tcp",
    "DIGITS_PORT_50051_TCP_PORT": "50051",
    "DIGITS_PORT_50051_TCP_ADDR": "10.96.0.5",
    "DIGITS_HTTP_SERVICE_HOST": "10.96.0.6",
    "DIGITS_HTTP_SERVICE_PORT": "8000",
    "DIGITS_HTTP_PORT": "tcp://10.96.0.6:8000",
    "DIGITS_HTTP_PORT_8000_TCP": "tcp://10.96.0.6:8000",
    "DIGITS_DNS_PORT": "udp://10.96.0.7:53",
}


def test_variables_of_kubernetes_services_are_no_options() -> None:
    assert _config(env=SERVICE_LINKS) == ServerConfig()


def test_variables_without_effect_are_named() -> None:
    known = ["DIGITS_PORT", "DIGITS_HTTP_PORT", "DIGITS_MODEL_VERSION"]
    links, *others = doubtful_variables(
        {**SERVICE_LINKS, "DIGITS_MODEL_VERSON": "1", "DIGITS_ZZZ": "1", "DIGITS_TOKEN": "secret", "PORT": "1"}, known
    )
    assert links.startswith("ignored DIGITS_HTTP_PORT, DIGITS_PORT: Kubernetes sets such variables")
    assert "enableServiceLinks: false" in links
    assert others == [
        "unknown variable DIGITS_MODEL_VERSON; did you mean DIGITS_MODEL_VERSION?",
        "unknown variable DIGITS_ZZZ",
    ]
    assert list(doubtful_variables({"DIGITS_PORT": "7"}, known)) == []


def test_the_server_knows_its_variables_and_those_of_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [param for param in _command.params if param.name != "other"]
    for name in [*variables_of(*options), *variables_of(*(param for param in classify.main.params if param.envvar))]:
        monkeypatch.setenv(name, "1")
    for name in ("DIGITS_DEMO", "DIGITS_LOG_LEVEL", "DIGITS_TARGET", "DIGITS_TLS_CA", "DIGITS_TOKEN"):
        monkeypatch.setenv(name, "1")
    assert list(serve.doubts()) == []


def test_a_server_starts_beside_kubernetes_services_and_warns_once(start_server: Callable) -> None:
    environment = {**os.environ, **SERVICE_LINKS, "DIGITS_PROVIDR": "cpu"}
    with start_server("--workers", "2", env=environment) as server:
        code, stderr = server.stop()
    assert code == 0, stderr
    assert stderr.count("enableServiceLinks: false") == 1
    assert stderr.count("unknown variable DIGITS_PROVIDR; did you mean DIGITS_PROVIDER?") == 1
