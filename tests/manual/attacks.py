"""Messages made to cost more than they weigh, one after the other, while a polite caller waits; `make attacks` runs it.

The attacks on gRPC come from the interfaces themselves: for every method, each field of its request, however deep, is
repeated until the message is full, and so are fields that nobody knows; each text and each list is made as long as a
message. For HTTP they are bodies of the same size. Prints the worst of each method, and with --all each attack.
Exits with code 1 if the server failed, took longer, took more memory or kept the polite caller waiting longer than
allowed, or gave a wrong answer.
"""

from __future__ import annotations

import gzip
import http.client
import json
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import click
import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from protos.digits.v1 import digits_pb2
from protos.inference import inference_pb2
from serving.client import Client
from training.synthetic import draw_digits

INFER = "/v2/models/mnist_convnet/infer"
# Each service with the name under which it is served.
SERVICES = [
    (service.full_name, service)
    for file in (digits_pb2, inference_pb2, health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]
SERVICES += [(name.replace("v1alpha", "v1"), service) for name, service in SERVICES if "v1alpha" in name]
# The volley is of messages for these.
METHODS = [
    digits_pb2.DESCRIPTOR.services_by_name["DigitClassifierService"].methods_by_name["Classify"],
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name["ModelInfer"],
]
CALLERS = 16
# What an attack may be answered with. Anything else means that the server failed.
ANSWERS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "200", "400", "404", "413", "501"}
FIXED = {
    FieldDescriptor.TYPE_FLOAT: (5, bytes(4)),
    FieldDescriptor.TYPE_FIXED32: (5, bytes(4)),
    FieldDescriptor.TYPE_SFIXED32: (5, bytes(4)),
    FieldDescriptor.TYPE_DOUBLE: (1, bytes(8)),
    FieldDescriptor.TYPE_FIXED64: (1, bytes(8)),
    FieldDescriptor.TYPE_SFIXED64: (1, bytes(8)),
}
DELIMITED = {FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack.

    Attributes:
        method: The gRPC method or the HTTP path.
        name: What it does.
        refusal: Words of the sentence with which it must be refused; empty if an answer is fine too.
        send: Sends it; returns the status and the sentence.
    """

    method: str
    name: str
    refusal: str = ""
    send: Callable[[], tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What it did to the server.

    Attributes:
        attack: The attack.
        status: The answer's status.
        said: The error's sentence.
        seconds: How long the answer took.
        megabytes: By how much the server's memory rose above what it was before.
        delay_s: The longest time that the polite caller waited for an answer.
    """

    attack: Attack
    status: str
    said: str
    seconds: float
    megabytes: float
    delay_s: float


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes((*encoded, number))


def delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def smallest(field: FieldDescriptor) -> bytes:
    """A field with the shortest value that there is."""
    if field.type in DELIMITED:
        return delimited(field.number, b"")
    kind, value = FIXED.get(field.type, (0, b"\0"))
    return varint(field.number << 3 | kind) + value


def paths(message: Descriptor, before: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Every field of a message and of those in it."""
    for field in message.fields:
        yield (*before, field)
        if field.message_type is not None:
            yield from paths(field.message_type, (*before, field))


def named_model(message: Descriptor) -> bytes:
    """The fields that name the model, where a message has one."""
    for field in message.fields:
        if field.name in ("name", "model_name"):
            return delimited(field.number, b"mnist_convnet")
        if field.name == "request":
            return delimited(field.number, named_model(field.message_type))
    return b""


def messages(message: Descriptor, size: int) -> Iterator[tuple[str, bytes]]:
    """Attacks on one type of messages, each with its name."""
    for path in paths(message):
        field, name = path[-1], ".".join(each.name for each in path)

        def within(content: bytes, parents: tuple[FieldDescriptor, ...] = path[:-1]) -> bytes:
            for parent in reversed(parents):
                content = delimited(parent.number, content)
            return content

        one = smallest(field)
        yield f"{name} by the million", within(one * (size // len(one)))
        if field.type in DELIMITED and field.message_type is None:
            yield f"{name} as long as the message", within(delimited(field.number, bytes(size)))
        elif field.is_repeated and field.message_type is None:
            yield f"{name}, one long list", within(delimited(field.number, bytes(size)))
            yield f"{name}, a thousand lists", within(delimited(field.number, bytes(size // 1000))) * 1000
    yield "unknown numbers", b"\xf8\x3f\x00" * (size // 3)
    yield "unknown texts", b"\xfa\x3f\x00" * (size // 3)
    yield "groups", b"\xfb\x3f" * (size // 2)
    yield "zeros", bytes(size)
    yield "ends in the middle", b"\x2a" + varint(2 * size) + bytes(size)


def grpc_attacks(channel: grpc.Channel, size: int) -> Iterator[Attack]:
    for service_name, service in SERVICES:
        for method in service.methods:
            # So that the service gets to the rest. Nobody shall unload the model, though.
            named = b"" if method.name == "RepositoryModelUnload" else named_model(method.input_type)
            for name, content in messages(method.input_type, size):
                yield Attack(
                    method=f"{service_name}/{method.name}",
                    name=name,
                    refusal="more than" if name.endswith("million") or name.startswith("unknown") else "",
                    send=partial(_send, channel, service_name, method, named + content),
                )


def _send(channel: grpc.Channel, service: str, method: MethodDescriptor, content: bytes) -> tuple[str, str]:
    path = f"/{service}/{method.name}"
    try:
        if method.client_streaming:
            answers = channel.stream_stream(path)(iter([content]), timeout=120)
        elif method.server_streaming:
            answers = channel.unary_stream(path)(content, timeout=120)
        else:
            channel.unary_unary(path)(content, timeout=120)
            return "OK", ""
        next(answers)
        answers.cancel()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def bodies(size: int) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Attacks on HTTP, each with its name and its headers."""
    tensor = '{"name": "images", "datatype": "%s", "shape": %s, "data": %s}'

    def request(data: str, datatype: str = "UINT8", shape: str = "[1, 28, 28, 1]") -> bytes:
        return ('{"inputs": [' + tensor % (datatype, shape, data) + "]}").encode()

    yield "brackets", b"[" * size, {}
    yield "braces", b'{"a":' * (size // 5), {}
    yield "empty inputs", b'{"inputs": [' + b"{}," * (size // 3) + b"{}]}", {}
    yield "inputs in 200 kB", b'{"inputs": [' + b'{"name":"","datatype":"","shape":[],"data":[]},' * 4000 + b"{}]}", {}
    yield "outputs in 200 kB", b'{"outputs": [' + b'{"name":""},' * 16_000 + b'{"name":""}]}', {}
    keys = ",".join(f'"{number}":0' for number in range(size // 12))
    yield "keys", f"{{{keys}}}".encode(), {}
    yield "keys in 200 kB", f"{{{keys[:200_000].rpartition(',')[0]}}}".encode(), {}
    yield "parameters in 200 kB", f'{{"parameters": {{{keys[:200_000].rpartition(",")[0]}}}}}'.encode(), {}
    yield "a long text", json.dumps({"id": "x" * size}).encode(), {}
    yield "a long number", b'{"id": ' + b"9" * size + b"}", {}
    yield "data of zeros", request("[" + "0," * (size // 2) + "0]"), {}
    yield "data of floats", request("[" + "0.5," * (size // 4) + "0.5]", "FP32"), {}
    yield "a long float in data", request("[0." + "1" * size + "]", "FP32"), {}
    yield "a long exponent in data", request("[1e-" + "1" * size + "]", "FP32"), {}
    yield "data of brackets", request("[" * (size // 2) + "]" * (size // 2)), {}
    yield "data of lists", request("[" + "[]," * (size // 3) + "[]]", shape=f"[{size // 3 + 1}, 0]"), {}
    yield "data like its shape", request("[" + "[0]," * (size // 4) + "[0]]", shape=f"[{size // 4 + 1}, 1]"), {}
    yield "data of spaces", request("[" + " " * size + "0]"), {}
    yield "texts in data", request('["' + '","' * (size // 3) + '"]', "BYTES"), {}
    yield "data without end", b'{"data":[1],' * 63 + b'"data":[' + b"1" * size, {}
    yield "many times data", b'{"data":[1],' * (size // 12), {}
    yield "data without lists", b'{"data":1,' * (size // 10), {}
    yield "bytes after the JSON", b"{}" + bytes(size), {"Inference-Header-Content-Length": "2"}
    yield "zipped zeros", gzip.compress(bytes(size)), {"Content-Encoding": "gzip"}
    yield "a zipped bomb", gzip.compress(bytes(16 * size), 1), {"Content-Encoding": "gzip"}


def http_attacks(address: str, size: int) -> Iterator[Attack]:
    load = "/v2/repository/models/mnist_convnet/load"
    for path in (INFER, "/v2/repository/index", load):
        for name, body, headers in bodies(size):
            yield Attack(
                method=f"POST {path}",
                name=name,
                send=lambda path=path, body=body, headers=headers: _post(address, path, body, headers),
            )


def _post(address: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[str, str]:
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return str(response.status), response.read().decode()[:2000]
    finally:
        connection.close()


def polite(address: str, pipe: Connection) -> None:
    """Classifies an image and asks for health, again and again; tells the longest wait whenever it is asked."""
    images, labels = draw_digits(1, seed=4)
    longest = 0.0
    with Client(address) as client, grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            for ask in (
                lambda: client.classify(images, timeout_s=120).labels[0] == labels[0],
                lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=120).status == 1,
            ):
                started = time.perf_counter()
                if not ask():
                    longest = float("inf")
                longest = max(longest, time.perf_counter() - started)
            if pipe.poll(0.002):
                if pipe.recv() == "end":
                    return
                pipe.send(longest)
                longest = 0.0


def volley(channel: grpc.Channel, size: int) -> None:
    """Bad requests of many kinds, many at a time."""
    kinds = (
        (method.containing_service.full_name, method, content)
        for method in METHODS
        for _, content in messages(method.input_type, size)
    )
    lock = threading.Lock()

    def send_all() -> None:
        while True:
            with lock:
                kind = next(kinds, None)
            if kind is None:
                return
            _send(channel, *kind)

    callers = [threading.Thread(target=send_all) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


class Memory:
    """The resident memory of a process, in megabytes."""

    def __init__(self, process: int) -> None:
        self._process = Path("/proc", str(process))

    def now(self, which: str = "VmRSS") -> float:
        return int(re.search(rf"{which}:\s+(\d+) kB", (self._process / "status").read_text())[1]) / 1000

    def forget_peak(self) -> None:
        (self._process / "clear_refs").write_text("5")

    def peak(self) -> float:
        return self.now("VmHWM")

    def settled(self) -> float:
        """The memory once it has stopped to fall."""
        lowest, until = self.now(), time.monotonic() + 2
        while time.monotonic() < until:
            time.sleep(0.1)
            if self.now() < lowest - 1:
                lowest, until = self.now(), time.monotonic() + 2
        return self.now()


def measure(attack: Attack, memory: Memory, caller: Connection) -> Result:
    """Runs one attack."""
    caller.send("longest")
    caller.recv()
    memory.forget_peak()
    before, started = memory.now(), time.perf_counter()
    status, said = attack.send()
    seconds = time.perf_counter() - started
    caller.send("longest")
    delay_s = caller.recv()
    return Result(
        attack=attack,
        status=status,
        said=said,
        seconds=seconds,
        megabytes=memory.peak() - before,
        delay_s=delay_s,
    )


def show(results: list[Result]) -> None:
    click.echo(f"{'method and attack':72} {'status':18} {'s':>6} {'MB':>6} {'polite ms':>9}  sentence")
    for each in results:
        click.echo(
            f"{f'{each.attack.method}: {each.attack.name}':72} {each.status:18} {each.seconds:6.2f} "
            f"{each.megabytes:6.0f} {each.delay_s * 1000:9.0f}  {each.said[:90]}"
        )


@click.command()
@click.option("--megabytes", default=16.0, help="Size of each message.")
@click.option("--only", default="", help="Only attacks whose method or name contains this.")
@click.option("--all", "show_all", is_flag=True, help="Show each attack, not the worst of each method.")
@click.option("--max-seconds", default=0.5, help="How long the answer to an attack may take.")
@click.option("--max-megabytes", default=150.0, help="Memory that an attack may take, beyond the size of its message.")
@click.option("--max-delay", default=0.3, help="How long the polite caller may wait, in seconds.")
@click.option("--max-left", default=60.0, help="Memory that may stay taken after the volley, in megabytes.")
def main(
    megabytes: float,
    only: str,
    show_all: bool,
    max_seconds: float,
    max_megabytes: float,
    max_delay: float,
    max_left: float,
) -> None:
    """Attacks a server of its own."""
    size = int(megabytes * 1e6)
    command = [sys.executable, "-m", "serving", "serve", "--port", "0", "--http-port", "0", "--log-level", "error"]
    server = subprocess.Popen([*command, "--model-control"], stdout=subprocess.PIPE, text=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    results: list[Result] = []
    caller = None
    try:
        address = re.search(r" on (\S+) with ", server.stdout.readline())[1]
        url = re.search(r"http://(\S+)", server.stdout.readline())[1]
        caller = context.Process(target=polite, args=(address, theirs), daemon=True)
        caller.start()
        memory = Memory(server.pid)
        ours.send("longest")
        ours.recv()  # it has begun
        at_first = memory.now()
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(address, options) as channel:
            for attacks in (grpc_attacks(channel, size), http_attacks(url, size)):
                for attack in attacks:
                    if only in f"{attack.method}: {attack.name}":
                        results.append(measure(attack, memory, ours))
            after_attacks = memory.now()
            memory.forget_peak()
            volley(channel, size)
            peak = memory.peak()
            at_last = memory.settled()
        ours.send("end")
        caller.join(30)
    finally:
        if caller is not None:
            caller.kill()
        server.terminate()
        server.wait(30)
    if not results:
        raise click.UsageError(f"no attack is called {only!r}")
    worst: dict[str, Result] = {}
    for each in results:
        known = worst.setdefault(each.attack.method, each)
        if each.seconds > known.seconds:
            worst[each.attack.method] = each
    show(results if show_all else list(worst.values()))
    click.echo(
        f"{len(results)} attacks of {megabytes:g} MB: at most {max(each.seconds for each in results):.2f} s, "
        f"{max(each.megabytes for each in results):.0f} MB of memory, and a polite caller waited at most "
        f"{max(each.delay_s for each in results):.2f} s"
    )
    click.echo(
        f"memory in MB: {at_first:.0f} before, {after_attacks:.0f} after, at most {peak:.0f} in a volley of {CALLERS} "
        f"at a time, {at_last:.0f} once it was over"
    )
    failed = [
        each
        for each in results
        if each.status not in ANSWERS
        or each.attack.refusal not in each.said
        or each.seconds > max_seconds
        or each.megabytes > max_megabytes + megabytes
        or each.delay_s > max_delay
    ]
    if failed:
        show(failed)
        raise click.ClickException(f"{len(failed)} attacks hurt more than they may")
    if at_last > at_first + max_left:
        raise click.ClickException("the memory that the volley took was not given back")


if __name__ == "__main__":
    main()
