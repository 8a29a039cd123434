"""Builds pretended CUDA libraries, under which the unmodified wheel of ONNX Runtime runs without a GPU.

build.py SITE HEADERS OUT: SITE contains the package onnxruntime-gpu; HEADERS nvidia-cuda-runtime and nvidia-cuda-crt,
of which only the header files are used; OUT gets the libraries. Needs gcc and nm.

What is written by hand is in the C files. Every other function that ONNX Runtime calls is only counted, and succeeds;
if its name says that it creates something, it returns a handle; those that describe an error return text.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
_PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
# By library: what its functions' names begin with, and the file that defines some of them.
_LIBRARIES = {
    "libcudart.so.13": ("cuda", "runtime.c"),
    "libcublasLt.so.13": ("cublasLt", None),
    "libcublas.so.13": ("cublas", None),
    "libcurand.so.10": ("curand", None),
    "libcudnn.so.9": ("cudnn", "cudnn.c"),
    "libcuda.so.1": ("cu", "driver.c"),
}


def build(site: Path, headers: Path, out: Path) -> None:
    """Compiles all libraries; see the module."""
    out.mkdir(parents=True, exist_ok=True)
    provider = site / _PROVIDER
    asked = subprocess.run(
        ["nm", "-D", "--undefined-only", provider], check=True, capture_output=True, text=True
    ).stdout
    linked = dict(re.findall(r" U (\w+)@(lib\w+\.so\.\d+)", asked))
    # cuDNN's functions are looked up by name
    loaded = {name.decode() for name in set(re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes()))}
    (include,) = headers.glob("nvidia/cu*/include")
    for library, (prefix, source) in _LIBRARIES.items():
        written = (HERE / source).read_text(encoding="utf-8") if source else ""
        names = loaded if prefix == "cudnn" else {name for name, home in linked.items() if home == library}
        stubs = out / f"{library}.c"
        stubs.write_text(_stubs(sorted(names - set(re.findall(r"\b(\w+)\(", written)))), encoding="utf-8")
        versions = out / f"{library}.map"
        versions.write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        sources = [stubs, *([HERE / source] if source else [])]
        others = [] if prefix in ("cuda", "cu") else [out / "libcudart.so.13"]
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-Wl,-Bsymbolic", f"-I{include}", f"-Wl,-soname,{library}"]
        command += [f"-Wl,--version-script={versions}", *map(str, [*sources, *others]), "-o", str(out / library)]
        subprocess.run([*command, "-lpthread"], check=True)


def _stubs(names: Iterable[str]) -> str:
    lines = ["int pretended_call(const char *name);", "void *malloc(unsigned long size);"]
    for name in names:
        if "Create" in name:
            lines.append(f'int {name}(void **handle) {{ *handle = malloc(4096); return pretended_call("{name}"); }}')
        elif name.endswith(("Name", "String")):
            lines.append(f'const char *{name}(void) {{ return "pretended error"; }}')
        else:
            lines.append(f'int {name}(void) {{ return pretended_call("{name}"); }}')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
