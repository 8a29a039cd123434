"""A worker: an object in its own process, whose methods are called through a pipe.

The process is in its own session, so that only the command receives Ctrl-C, and it ends with the command.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from serving.bench.measurement import BenchFailed

_CLASSES = {
    "grpcio": ("serving.bench.generator", "Generator"),
    "h2load": ("serving.bench.h2load", "H2load"),
    "in_process": ("serving.bench.in_process", "InProcess"),
}
_ENDING_S = 5.0


class Worker:
    """One object in its own process.

    Args:
        name: `grpcio` or `h2load`, which generate load, or `in_process`.
        arguments: Arguments of the constructor. The object has a method `close`, called when the process ends.
    """

    def __init__(self, name: str, *arguments: object) -> None:
        self._name = name
        self._arguments = arguments
        self._connection: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts the process and has it create the object, without waiting."""
        self._connection, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "serving.bench.worker", str(number)],
                pass_fds=[number],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
        self._connection.send((self._name, self._arguments))
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the process."""
        self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(0.0 if any(exception) else _ENDING_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)  # it may be in the middle of a scenario, with a child
                self._process.wait()

    def send(self, method: str, *arguments: object) -> None:
        """Calls a method without waiting; `receive` returns its result."""
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise self._ended() from error

    def receive(self) -> Any:
        """Returns the result of the next method.

        Raises:
            BenchFailed: The method raised an error, or the process ended.
        """
        try:
            done, result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if not done:
            raise BenchFailed(result)
        return result

    def call(self, method: str, *arguments: object) -> Any:
        """Calls a method and returns its result; raises like `receive`."""
        self.send(method, *arguments)
        return self.receive()

    def _ended(self) -> BenchFailed:
        return BenchFailed(f"the process {self._name} ended; its output is above")


def _answer(connection: Any) -> None:
    name, arguments = connection.recv()
    module, attribute = _CLASSES[name]
    failed, served = "", None
    try:
        served = getattr(importlib.import_module(module), attribute)(*arguments)
    except Exception as error:  # noqa: BLE001 - reported to the first call
        failed = _message(error)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:  # the command ended
            break
        try:
            answer = (False, failed) if failed else (True, getattr(served, method)(*arguments))
        except Exception as error:  # noqa: BLE001 - reported to the caller
            answer = (False, _message(error))
        connection.send(answer)
    if served is not None:
        served.close()


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
        return "onnxruntime is not installed; install the extra cpu or gpu, or measure --layers echo,wire of a --target"
    return str(error) or type(error).__name__


if __name__ == "__main__":
    _answer(Connection(int(sys.argv[1])))
