"""Who may import whom: the rooms of the house, kept apart by reading every import statement."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

GRPC = {"grpc", "google", "protos"}


@dataclass(frozen=True, kw_only=True)
class Room:
    """One room of `serving` and what its modules may import beyond the standard library.

    Attributes:
        rooms: Other rooms, each listed above this one in `ROOMS`, so that imports only go down.
        packages: Packages that every module of the room may import.
        some: Packages that only one module may import, by its name.
    """

    rooms: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    some: dict[str, set[str]] = field(default_factory=dict)


CORE = {"config", "errors", "images", "inference", "repository", "rollout"}

# From the ground up: a room may import only rooms that stand above it in this table.
ROOMS = {
    "errors": Room(),
    "config": Room(rooms={"errors"}),
    "images": Room(
        rooms={"config", "errors"},
        packages={"numpy"},
        some={"decoding": {"PIL"}, "geometry": {"PIL"}, "heic": {"PIL", "pillow_heif"}, "transparency": {"PIL"}},
    ),
    "images.tables": Room(rooms={"errors", "images"}, packages={"numpy"}, some={"parquet_table": {"pyarrow"}}),
    "inference": Room(rooms={"config", "errors"}, packages={"numpy"}, some={"sessions": {"onnxruntime"}}),
    "repository": Room(
        rooms={"config", "errors", "inference"}, packages={"numpy"}, some={"signature": {"cryptography"}}
    ),
    "rollout": Room(rooms=CORE - {"rollout"}, packages={"numpy"}),
    "client": Room(rooms={"config", "errors", "images"}, packages={"numpy"} | GRPC),
    "server.security": Room(rooms={"config", "errors"}),
    "server.telemetry": Room(
        rooms=CORE,
        some={
            "metrics": {"numpy", "prometheus_client"},
            "answer_metrics": {"numpy", "prometheus_client"},
            "aggregated_metrics": {"prometheus_client"},
            "metrics_server": {"prometheus_client"},
            "processes": {"prometheus_client"},
            "logs": {"pythonjsonlogger"},
            "traces": {"opentelemetry"},
        },
    ),
    "server.services": Room(
        rooms=CORE | {"server.security", "server.telemetry"},
        packages={"numpy"} | GRPC,
        some={"health": {"grpc_health"}, "reflection": {"grpc_reflection"}},
    ),
    "server.http": Room(
        rooms=CORE | {"server.security", "server.telemetry", "server.services"},
        packages={"numpy"} | GRPC,
        some={name: {"starlette"} for name in ("app", "body", "classify", "handlers", "openapi", "page_files")},
    ),
    "server.fronts": Room(
        rooms={"config", "errors", "server.security", "server.http"},
        some={
            **{name: {"grpc"} for name in ("choice", "direct", "grpcio", "native_context")},
            "native": {"grpc", "pygrpc_native"},
            "http": {"h11", "uvicorn"},
        },
    ),
    "server.process": Room(
        rooms=CORE | {f"server.{name}" for name in ("security", "telemetry", "services", "http", "fronts")},
        some={"event_loop": {"uvloop"}},
    ),
    "score": Room(
        rooms={"client", "config", "errors", "images", "images.tables", "inference", "repository"},
        packages={"numpy", "grpc", "protos"},
        some={"batch_classifier": {"pyarrow"}, "formats": {"pyarrow"}, "ray_actors": {"ray"}},
    ),
    "bench": Room(
        rooms=CORE | {"client"},
        packages={"numpy"} | GRPC,
        some={"plot": {"matplotlib"}, "target": {"psutil"}},
    ),
    "commands.variables": Room(packages={"click"}),
    "commands.cli": Room(rooms={"config", "errors", "commands.variables"}, packages={"click", "cloup"}),
    "commands": Room(
        rooms=CORE
        | {"images.tables", "client", "score", "bench", "commands.cli", "commands.variables"}
        | {f"server.{name}" for name in ("security", "telemetry", "fronts", "process")},
        packages={"click", "cloup", "numpy"},
        some={
            "bench": {"tqdm"},
            "score_run": {"pyarrow", "tqdm"},
            "serve": {"prometheus_client"},
        },
    ),
    "__main__": Room(rooms={"commands.cli"}, packages={"click", "cloup"}),
}

# Of `serving`, the importing packages beside it may use these rooms only.
TRAINING = Room(
    rooms={"images", "images.tables", "errors", "commands.cli"},
    packages={"keras", "tensorflow", "numpy", "PIL", "click", "cloup", "pooch"},
    some={
        "evaluation": {"sklearn"},
        "lettering": {"matplotlib"},  # its fonts
        "charts": {"matplotlib"},
        "report": {"matplotlib", "jinja2"},
    },
)
EXPORT = Room(
    rooms=CORE,
    packages={"training", "keras", "tensorflow", "tf2onnx", "onnx", "numpy", "click", "cloup"},
    some={"no_digit_gate": {"sklearn"}},
)
FROM_TRAINING = {
    f"training.{name}"
    for name in (
        "architectures",
        "command_line",
        "datasets",
        "evaluation",
        "non_digits",
        "sending",
        "styles",
        "synthetic",
    )
}


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _room(dotted: str) -> str | None:
    """The room that a name below `serving` is in, or None where it is in none."""
    inner = dotted.removeprefix("serving.")
    found = [room for room in ROOMS if inner == room or inner.startswith(f"{room}.")]
    return max(found, key=len, default=None)


def _imports(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, wherever in the module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _check(path: Path, room: Room, *, own: str) -> set[str]:
    """Checks a module against its room; returns the names that it imports."""
    names = _imports(path)
    allowed = room.packages | room.some.get(path.stem, set()) | {"serving", own} | set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name in names} <= allowed
    return names


def _rooms_of(names: set[str]) -> set[str | None]:
    return {_room(name) for name in names if name.startswith("serving.") and name != "serving.__version__"}


@pytest.mark.parametrize("path", _modules("serving"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_serving_imports_only_what_its_room_may(path: Path) -> None:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if dotted in ("serving.__init__", "serving.server.__init__"):
        assert not _imports(path)
        return
    room = _room(dotted)
    assert room is not None, "no room of the table"
    names = _check(path, ROOMS[room], own="serving")
    assert _rooms_of(names) <= ROOMS[room].rooms | {room}


@pytest.mark.parametrize("path", _modules("training"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_training_imports_only_what_training_may(path: Path) -> None:
    assert _rooms_of(_check(path, TRAINING, own="training")) <= TRAINING.rooms


@pytest.mark.parametrize("path", _modules("export"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_export_imports_only_what_export_may(path: Path) -> None:
    names = _check(path, EXPORT, own="export")
    assert _rooms_of(names) <= EXPORT.rooms
    assert {".".join(name.split(".")[:2]) for name in names if name.startswith("training.")} <= FROM_TRAINING


def test_imports_only_go_down() -> None:
    """The table itself has no arrow that runs back up."""
    floors = list(ROOMS)
    for number, (name, room) in enumerate(ROOMS.items()):
        assert room.rooms <= set(floors[:number]), name


def test_every_room_says_its_purpose_and_its_imports() -> None:
    for name in ROOMS:
        path = ROOT / "serving" / Path(*name.split(".")) / "__init__.py"
        if path.parent.is_dir():
            documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert documentation, name
            assert "\nImports " in documentation or " Imports " in documentation, name


def test_no_circle_within_a_room() -> None:
    """Modules of one room may import each other, but not in a circle; what is imported late or for types counts too."""
    for name in ROOMS:
        folder = ROOT / "serving" / Path(*name.split("."))
        arrows = {}
        for path in folder.glob("*.py") if folder.is_dir() else ():
            prefix = f"serving.{name}."
            inside = {
                imported.removeprefix(prefix).split(".")[0]
                for imported in _imports(path)
                if imported.startswith(prefix)
            }
            arrows[path.stem] = inside - {path.stem}
        while leaves := {stem for stem, inside in arrows.items() if not inside & arrows.keys()}:
            arrows = {stem: inside for stem, inside in arrows.items() if stem not in leaves}
        assert not arrows, f"{name}: a circle among {', '.join(sorted(arrows))}"


def test_a_newcomer_can_take_the_folder_in_at_a_glance() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "serving"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert len({Path(name).parts[1] for name in tracked}) <= 16


def test_nothing_on_the_client_s_side_holds_symbols_that_other_clients_bring() -> None:
    """tritonclient and KServe have stubs of the Open Inference Protocol, and a process can hold one copy only."""
    for room in ("client", "bench"):
        for path in (ROOT / "serving" / room).rglob("*.py"):
            assert not [name for name in _imports(path) if name.startswith("protos.inference")], path


@pytest.mark.parametrize("absent", ["onnxruntime", "pyarrow", "ray", "tqdm", "serving.inference.engine"])
def test_scoring_through_a_server_needs_only_what_the_client_does(absent: str, server, tmp_path: Path) -> None:
    """What the engine, Parquet and Ray need is imported only when they are asked for."""
    assert not absent.startswith("serving") or importlib.util.find_spec(absent), absent
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
