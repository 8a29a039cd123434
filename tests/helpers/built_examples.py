"""Builds the examples in Go and Java with what Debian packages, since their own registries can't be reached in CI.

Debian's releases of gRPC are years old. What the examples use of newer ones is added here, and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
GO = ROOT / "examples" / "go"
JAVA = ROOT / "examples" / "java" / "src" / "main" / "java"

_GO_PACKAGES = (
    "golang-go golang-google-grpc-dev golang-github-golang-protobuf-1-5-dev protobuf-compiler protoc-gen-go-1-5 "
    "protoc-gen-go-grpc"
)
_GO_PATH = Path("/usr/share/gocode")
_GO_GRPC = _GO_PATH / "src" / "google.golang.org" / "grpc"
# By the file in gRPC's sources: what is newer than Debian's 1.33.
_NEWER_IN_GO = {
    "new_client.go": """package grpc

func NewClient(target string, options ...DialOption) (*ClientConn, error) { return Dial(target, options...) }
""",
    "credentials/insecure/insecure.go": """package insecure

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
)

type plain struct{}

func NewCredentials() credentials.TransportCredentials { return plain{} }

func (plain) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, nil, nil
}
func (plain) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) { return c, nil, nil }
func (plain) Info() credentials.ProtocolInfo                                     { return credentials.ProtocolInfo{} }
func (p plain) Clone() credentials.TransportCredentials                          { return p }
func (plain) OverrideServerName(string) error                                    { return nil }
""",
}

_JAVA_PACKAGES = (
    "default-jdk-headless libgrpc-java libnetty-java libperfmark-java libprotobuf-java protobuf-compiler "
    "protobuf-compiler-grpc-java-plugin"
)
_JARS = Path("/usr/share/java")
_JAR_NAMES = (
    *(f"grpc-{name}" for name in ("api", "context", "core", "netty", "protobuf", "protobuf-lite", "stub")),
    *("geronimo-annotation-1.3-spec", "guava", "jsr305", "netty-all", "opencensus-api", "perfmark-api", "protobuf"),
    *(f"netty-{name}" for name in ("buffer", "codec", "codec-http", "codec-http2", "codec-socks", "common", "handler")),
    *("netty-handler-proxy", "netty-resolver", "netty-transport", "netty-transport-native-unix-common"),
)


def build_go(directory: Path) -> list[object]:
    """Generates the stubs as the example says, compiles; returns the command. Skips if something is missing."""
    tools = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    if not all(map(shutil.which, tools)) or not _GO_GRPC.is_dir():
        pytest.skip(f"needs Go and its gRPC: apt-get install {_GO_PACKAGES}")
    package = directory / "src" / "digits.example" / "classify"
    shutil.copytree(GO, package, ignore=lambda *_: {"go.mod", "go.sum", "digits", "classify"})
    (directory / "src" / "protos").symlink_to(ROOT / "protos")  # two levels up, as in a checkout
    added = {}
    for name, text in _NEWER_IN_GO.items():
        (directory / Path(name).name).write_text(text)
        added[str(_GO_GRPC / name)] = str(directory / Path(name).name)
    (directory / "overlay.json").write_text(json.dumps({"Replace": added}))
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": f"{directory}:{_GO_PATH}", "GOFLAGS": ""}
    _run("go", "generate", cwd=package, env=environment)
    _run("go", "build", "-overlay", directory / "overlay.json", "-o", "classify", cwd=package, env=environment)
    assert _run("gofmt", "-l", GO) == ""
    _run("go", "mod", "edit", "-json", cwd=GO, env={**os.environ, "GO111MODULE": "on"})
    return [package / "classify"]


def build_java(directory: Path) -> list[object]:
    """Generates the stubs and compiles; returns the command. Skips if something is missing."""
    jars = [_JARS / f"{name}.jar" for name in _JAR_NAMES]
    tools = ("java", "javac", "protoc", "grpc_java_plugin")
    if not all(map(shutil.which, tools)) or not all(jar.exists() for jar in jars):
        pytest.skip(f"needs a JDK and gRPC for Java: apt-get install {_JAVA_PACKAGES}")
    stubs, classes, path = directory / "stubs", directory / "classes", ":".join(map(str, jars))
    stubs.mkdir()
    plugin = f"--plugin=protoc-gen-grpc-java={shutil.which('grpc_java_plugin')}"
    into = (f"--java_out={stubs}", f"--grpc-java_out={stubs}")
    _run("protoc", f"--proto_path={ROOT}", plugin, *into, "protos/digits/v1/digits.proto")
    ElementTree.parse(JAVA.parents[2] / "pom.xml")
    sources = [*stubs.rglob("*.java"), *JAVA.rglob("*.java")]
    quick = ("-J-XX:TieredStopAtLevel=1", "-proc:none")
    _run("javac", *quick, "--release", "17", "-d", classes, "--class-path", path, *sources)
    return ["java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "--class-path", f"{classes}:{path}", "Classify"]


def _run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=300, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
