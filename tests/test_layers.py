"""Who may import whom: the rooms of the house, kept apart by reading every import statement."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

CORE = {
    "addresses",
    "batch_observer",
    "batcher",
    "buckets",
    "config",
    "cuda",
    "decoder",
    "deployment",
    "deployments",
    "engine",
    "errors",
    "images",
    "ink",
    "inference",
    "inventory",
    "keeper",
    "labels",
    "manifest",
    "model_directory",
    "move",
    "onnx_file",
    "ordered_stream",
    "pending",
    "preparation",
    "processors",
    "repository",
    "request_id",
    "rollout",
    "rollout_controller",
    "rollout_planner",
    "routing_table",
    "shared_number",
    "statistics",
    "tensors",
    "tls_files",
    "tokens",
    "version_shelf",
    "verification",
    "watched_files",
}
GRPC_SIDE = {
    "boundary",
    "digits_messages",
    "digits_service",
    "guard",
    "inference_description",
    "inference_service",
    "status",
}
# What HTTP sees of the core, beside and by way of gRPC's side.
HTTP = {
    "http_body",
    "http_call",
    "http_errors",
    "http_inference",
    "http_service",
    "json_numbers",
    "message_json",
}
PROCESS = {
    "__main__",
    "config_options",
    "crew",
    "demo",
    "doctor",
    "event_loop",
    "examination",
    "finding",
    "fronts",
    "health",
    "lifecycle",
    "logs",
    "metrics",
    "model_options",
    "models",
    "models_table",
    "orphans",
    "port",
    "rehearsal",
    "serve",
    "server",
    "server_options",
    "summed_metrics",
    "supervisor",
    "traces",
    "worker",
    "worker_messages",
    "worker_process",
}
BENCH = {"bench"}
SCORE = {"score"}
CLIENT = {
    "answer_row",
    "array_batch",
    "async_client",
    "call_errors",
    "caller",
    "channel_options",
    "classification",
    "classify",
    "client",
    "client_options",
    "conversation",
    "credentials",
    "encoded_batch",
    "encoded_contents",
    "image_sources",
    "known_models",
    "request_batch",
}

GRPC = {"grpc", "google", "protos", "grpc_health", "grpc_reflection"}


def _modules() -> list[Path]:
    return sorted(path for room in ("training", "export", "serving") for path in (ROOT / room).rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, wherever in the module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _allowed_outside(path: Path) -> set[str]:
    """Top-level packages beyond the standard library that a module may import."""
    package, room = path.relative_to(ROOT).parts[0], _room(path)
    if package == "training":
        own = {"evaluation": {"sklearn"}, "charts": {"matplotlib"}, "report": {"matplotlib", "jinja2"}}
        return {"training", "serving", "keras", "tensorflow", "numpy", "PIL", "click", "pooch"} | own.get(room, set())
    if package == "export":
        return {"export", "training", "serving", "keras", "tensorflow", "tf2onnx", "onnx", "numpy", "click"}
    if room in CORE:
        own = {"engine": {"onnxruntime"}, "images": {"PIL"}}
        return {"serving", "numpy"} | own.get(room, set())
    if room in GRPC_SIDE:
        return {"serving", "numpy"} | GRPC
    if room in HTTP:
        own = {name: {"starlette"} for name in ("http_body", "http_call", "http_service")}
        return {"serving", "numpy"} | GRPC | own.get(room, set())
    if room in CLIENT:
        return {"serving", "numpy", "click", "grpc", "google", "protos"}
    if room in BENCH:
        own = {"plot": {"matplotlib"}, "command": {"click", "tqdm"}, "target": {"psutil"}}
        return {"serving", "numpy", "grpc", "google", "protos"} | own.get(path.stem, set())
    if room in SCORE:
        own = {
            "command": {"click", "tqdm", "pyarrow"},
            "tables": {"pyarrow"},
            "formats": {"pyarrow"},
            "ray_actors": {"ray"},
        }
        return {"serving", "numpy", "grpc", "protos"} | own.get(path.stem, set())
    own = {
        "metrics": {"prometheus_client"},
        "summed_metrics": {"prometheus_client"},
        "event_loop": {"uvloop"},
        "fronts": {"h11", "uvicorn"},
        "examination": {"numpy"},
        "serve": {"prometheus_client"},
        "logs": {"pythonjsonlogger"},
        "traces": {"opentelemetry"},
    }
    return {"serving", "click"} | GRPC | own.get(room, set())


def _allowed_within(path: Path) -> set[str]:
    """Modules of `serving` that a module may import."""
    package, room = path.relative_to(ROOT).parts[0], _room(path)
    if package == "training":
        return {"images", "errors"}
    if package == "export" or room in CORE:
        return CORE
    if room in GRPC_SIDE:
        return CORE | GRPC_SIDE
    if room in HTTP:
        return CORE | HTTP | {"boundary", "guard", "status"}
    if room in CLIENT:
        return CLIENT | {"addresses", "errors", "images", "preparation"}
    if room in BENCH:
        return CORE | CLIENT | BENCH
    if room in SCORE:
        own = {"local": {"config", "engine", "processors", "repository"}, "ray_actors": {"processors", "repository"}}
        return CLIENT | SCORE | {"errors", "preparation"} | own.get(path.stem, set())
    return CORE | GRPC_SIDE | HTTP | PROCESS


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    names = _imports(path)
    outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert outside <= _allowed_outside(path)
    within = {name.split(".")[1] for name in names if name.startswith("serving.")}
    assert within <= _allowed_within(path)
    if path.relative_to(ROOT).parts[0] == "export":
        from_training = {".".join(name.split(".")[:2]) for name in names if name.startswith("training.")}
        assert from_training <= {"training.datasets", "training.tensorflow_log"}


def test_nothing_on_the_client_s_side_holds_symbols_that_other_clients_bring() -> None:
    """tritonclient and KServe have stubs of the Open Inference Protocol, and a process can hold one copy only."""
    for path in _modules():
        if _room(path) in CLIENT | BENCH:
            assert not [name for name in _imports(path) if name.startswith("protos.inference")], path


def test_every_module_of_serving_has_a_room() -> None:
    rooms = {_room(path) for path in _modules() if path.relative_to(ROOT).parts[0] == "serving"}
    assert rooms - {"__init__"} == CORE | GRPC_SIDE | HTTP | PROCESS | CLIENT | BENCH | SCORE


@pytest.mark.parametrize("absent", ["onnxruntime", "pyarrow", "ray", "serving.engine"])
def test_scoring_through_a_server_needs_only_what_the_client_does(absent: str, server, tmp_path: Path) -> None:
    """What the engine, Parquet and Ray need is imported only when they are asked for."""
    np.save(tmp_path / "blank.npy", np.zeros((3, 28, 28), np.uint8))
    program = f"""
import sys
sys.modules[{absent!r}] = None
sys.argv = ["digits-score", "blank.npy", "--out", "scores.csv", "--target", {server.address!r}]
from serving.__main__ import score
score()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 images, 0 without an answer" in done.stdout
