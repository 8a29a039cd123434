"""TLS, client certificates, tokens and reflection, as real clients of a real server meet them."""

from __future__ import annotations

import datetime
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import AsyncClient, CallFailed, Client, Credentials
from serving.config import SAMPLES
from serving.errors import InvalidConfig, UnusableFile

TOKEN, OTHER_TOKEN = "first-token-4711", "second-token-0815"
REFUSED = "the call carries no valid credentials"
Start = Callable[..., object]


class _Files:
    """A server's certificate and key on disk, and the authority that a client must trust."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key, self.ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        self.rotate()

    def rotate(self, **options: object) -> None:
        """Replaces all three by those of a new authority."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1", **options)
        _replace(self.key, issued.private_key_pem.bytes())
        _replace(self.certificate, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        _replace(self.ca, authority.cert_pem.bytes())

    @property
    def options(self) -> tuple[str, ...]:
        return ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))

    @property
    def trusting(self) -> Credentials:
        return Credentials(root_certificates=self.ca)


def _replace(path: Path, content: bytes) -> None:
    (path.parent / "new").write_bytes(content)
    (path.parent / "new").replace(path)


def _client_pair(folder: Path, authority: trustme.CA, **options: object) -> dict[str, Path]:
    issued = authority.issue_cert("client@example.org", **options)
    folder.mkdir()
    issued.private_key_pem.write_to_path(folder / "key")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(folder / "certificate", append=True)
    return {"certificate": folder / "certificate", "key": folder / "key"}


def _asks(address: str, credentials: Credentials) -> str:
    """The status of one call on a connection of its own, without retries; empty where it was answered."""
    with credentials.endpoint(address, []).channel() as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        try:
            stub.GetModel(digits_pb2.GetModelRequest(), timeout=20, metadata=credentials.metadata)
        except grpc.RpcError as error:
            return error.code().name
    return ""


def _classifies(address: str, credentials: Credentials, digits: tuple) -> None:
    with Client(address, credentials=credentials) as client:
        assert (client.classify(digits[0][:100]).labels == digits[1][:100]).mean() > 0.95


@pytest.fixture
def files(tmp_path: Path) -> _Files:
    return _Files(tmp_path / "tls")


@pytest.mark.grpcio
def test_only_clients_that_trust_the_server_reach_it(start_server: Start, digits: tuple, files: _Files) -> None:
    with start_server(*files.options) as server:
        _classifies(server.address, files.trusting, digits)
        _classifies(server.address, Credentials(root_certificates=files.certificate), digits)  # pinned
        assert _asks(server.address, Credentials()) == "UNAVAILABLE"
        assert _asks(server.address, Credentials(tls=True)) == "UNAVAILABLE"
        assert _asks(server.address, _Files(files.ca.parent / "other").trusting) == "UNAVAILABLE"
        name = Credentials(root_certificates=files.ca, server_name="digits.example")
        assert _asks(server.address, name) == "UNAVAILABLE"
        name = Credentials(root_certificates=files.ca, server_name="localhost")
        assert _asks(server.address, name) == ""
        _classifies(server.address, files.trusting, digits)
        code, stderr = server.stop()
    assert code == 0
    assert "Traceback" not in stderr


def test_a_tls_client_finds_no_plain_text_server(server, digits: tuple, files: _Files) -> None:
    assert _asks(server.address, files.trusting) == "UNAVAILABLE"
    _classifies(server.address, Credentials(), digits)


@pytest.mark.grpcio
def test_an_expired_server_certificate_is_the_client_s_to_refuse(
    start_server: Start, digits: tuple, files: _Files
) -> None:
    files.rotate(not_after=datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC))
    with start_server(*files.options) as server:
        assert _asks(server.address, files.trusting) == "UNAVAILABLE"
        files.rotate()
        _classifies(server.address, files.trusting, digits)


@pytest.mark.grpcio
def test_mutual_tls_accepts_only_clients_of_its_authority(
    start_server: Start, digits: tuple, files: _Files, tmp_path: Path
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    ca = tmp_path / "client-ca.crt"
    authority.cert_pem.write_to_path(ca)
    good = _client_pair(tmp_path / "good", authority)
    past = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    expired = _client_pair(tmp_path / "expired", authority, not_after=past)
    foreign = _client_pair(tmp_path / "foreign", other)
    with start_server(*files.options, "--tls-client-ca", str(ca)) as server:
        held = Client(server.address, credentials=Credentials(root_certificates=files.ca, **good))
        assert held.classify(digits[0][:9]).labels.shape == (9,)
        for shown in ({}, expired, foreign):
            assert _asks(server.address, Credentials(root_certificates=files.ca, **shown)) == "UNAVAILABLE", shown
        _classifies(server.address, Credentials(root_certificates=files.ca, **good), digits)
        other.cert_pem.write_to_path(ca)
        assert _asks(server.address, Credentials(root_certificates=files.ca, **foreign)) == ""
        assert _asks(server.address, Credentials(root_certificates=files.ca, **good)) == "UNAVAILABLE"
        assert held.classify(digits[0][:9]).labels.shape == (9,)
        held.close()


@pytest.mark.grpcio
@pytest.mark.parametrize("links", [False, True], ids=["replaced", "linked as by Kubernetes"])
def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    start_server: Start, digits: tuple, tmp_path: Path, links: bool
) -> None:
    files = _Files(tmp_path / "v1")
    old_ca = tmp_path / "old-ca.crt"
    old_ca.write_bytes(files.ca.read_bytes())
    served = tmp_path / "served"
    served.mkdir()
    (served / "..data").symlink_to(tmp_path / "v1")
    for name in ("tls.crt", "tls.key"):
        (served / name).symlink_to(Path("..data", name))
    options = ("--tls-certificate", str(served / "tls.crt"), "--tls-key", str(served / "tls.key"))
    with (
        start_server(*options) as server,
        Client(server.address, credentials=Credentials(root_certificates=old_ca)) as connected,
    ):
        assert len(connected.classify(digits[0]).labels) == 500
        if links:
            files = _Files(tmp_path / "v2")
            (served / "new").symlink_to(tmp_path / "v2")
            (served / "new").replace(served / "..data")
        else:
            files.rotate()
        _classifies(server.address, files.trusting, digits)
        assert _asks(server.address, Credentials(root_certificates=old_ca)) == "UNAVAILABLE"
        assert len(connected.classify(digits[0]).labels) == 500
        _, stderr = server.stop()
    assert stderr.count("reloaded after a change") == 1
    assert "stays in use" not in stderr


@pytest.mark.grpcio
def test_a_broken_pair_on_disk_leaves_the_old_one_in_use(start_server: Start, digits: tuple, files: _Files) -> None:
    good = {path: path.read_bytes() for path in (files.certificate, files.key)}
    old_ca = files.ca.parent / "old-ca.crt"
    old_ca.write_bytes(files.ca.read_bytes())
    old = Credentials(root_certificates=old_ca)
    with start_server(*files.options) as server:
        for path, content in good.items():
            path.write_bytes(content[: len(content) // 2])  # in place, as a copy that is not done yet
            assert _asks(server.address, old) == _asks(server.address, old) == ""
            path.write_bytes(content)
            assert _asks(server.address, old) == ""
        files.certificate.unlink()
        assert _asks(server.address, old) == ""
        files.rotate()
        new = {path: path.read_bytes() for path in (files.certificate, files.key)}
        files.key.write_bytes(good[files.key])
        assert _asks(server.address, old) == ""
        assert _asks(server.address, files.trusting) == "UNAVAILABLE"
        files.key.write_bytes(new[files.key])
        _classifies(server.address, files.trusting, digits)
        assert _asks(server.address, old) == "UNAVAILABLE"
        code, stderr = server.stop()
    assert code == 0
    assert stderr.count(f"{files.certificate} contains no complete certificate in PEM form") == 1
    assert stderr.count(f"{files.key} contains no unencrypted private key in PEM form") == 1
    assert stderr.count(f"can't read {files.certificate}: No such file or directory") == 1
    assert stderr.count(f"the key in {files.key} does not match the certificate in {files.certificate}") == 1
    assert "PRIVATE KEY" not in stderr


def _missing(files: _Files) -> tuple[Path, str]:
    files.key.unlink()
    return files.key, "No such file"


def _a_directory(files: _Files) -> tuple[Path, str]:
    files.key.unlink()
    files.key.mkdir()
    return files.key, "is a directory"


def _mismatched(files: _Files) -> tuple[Path, str]:
    key = files.key.read_bytes()
    files.rotate()
    files.key.write_bytes(key)
    return files.key, "does not match the certificate in"


def _swapped(files: _Files) -> tuple[Path, str]:
    files.certificate.write_bytes(files.key.read_bytes())
    return files.certificate, "contains no complete certificate"


def _no_authority(files: _Files) -> tuple[Path, str]:
    files.ca.write_bytes(b"")
    return files.ca, "contains no complete certificate"


@pytest.mark.grpcio
@pytest.mark.parametrize("damage", [_missing, _a_directory, _mismatched, _swapped, _no_authority])
def test_files_that_can_not_work_stop_the_start(command: Callable, files: _Files, damage: Callable) -> None:
    path, said = damage(files)
    done = command("digits-serve", "--port", 0, *files.options, "--tls-client-ca", files.ca, timeout=20)
    assert done.returncode in {1, 2} if damage is _a_directory else done.returncode == 1
    assert str(path) in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "contains no token"),
        (b"# nothing\n\n  \n", "contains no token"),
        (b"# ok\nfine\nsecret phrase\n", "line 3: a token must be printable ASCII without spaces"),
        ("# ok\nsecr\u00e9t\n".encode(), "line 2: a token must be printable ASCII without spaces"),
    ],
)
def test_a_token_file_without_tokens_stops_the_start(
    command: Callable, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    done = command("digits-serve", "--port", 0, "--token-file", path, timeout=20)
    assert done.returncode == 1
    assert f"{path}" in done.stderr
    assert said in done.stderr
    assert "secr" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-certificate", "c"], "--tls-certificate and --tls-key need each other"),
        (["--tls-key", "k"], "--tls-certificate and --tls-key need each other"),
        (["--tls-client-ca", "c"], "--tls-client-ca needs --tls-certificate"),
    ],
)
def test_options_that_need_each_other_are_named(command: Callable, options: list[str], said: str) -> None:
    done = command("digits-serve", "--port", 0, *options, timeout=20)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# two callers\n\n  {TOKEN}  \n{OTHER_TOKEN}\n")
    return path


@pytest.fixture
def guarded(start_server: Start, token_file: Path) -> Iterator[object]:
    """A server that wants a token; whatever was done to it, it must answer right, stop cleanly and tell no token."""
    with start_server("--token-file", str(token_file)) as server:
        yield server
        with Client(server.address, credentials=Credentials(token=OTHER_TOKEN)) as client:
            assert client.classify(np.zeros((3, 28, 28), np.uint8)).labels.shape == (3,)
        code, stderr = server.stop()
    assert code == 0
    assert "Traceback" not in stderr
    for token in (TOKEN, OTHER_TOKEN, "Bearer", "rubbish"):
        assert token not in stderr


def _refusal(call: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        for _ in call():
            pass
    return refused.value


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer rubbish",),
        (TOKEN,),
        (f"Basic {TOKEN}",),
        (f"Bearer {TOKEN}x",),
        (f"Bearer {TOKEN[:-1]}",),
        (f"Bearer {TOKEN.upper()}",),
        (f"Bearer {TOKEN} {TOKEN}",),
        ("Bearer # two callers",),
        ("Bearer " + "rubbish" * 1000,),
        ("Bearer rubbish", f"Bearer {TOKEN}"),
        (f"Bearer {TOKEN}", "Bearer rubbish"),
    ],
)
def test_without_one_of_the_tokens_no_method_of_any_service_is_called(guarded, authorization: tuple[str, ...]) -> None:
    """The server itself lists the methods. The request does not parse, which an unknown caller must not learn."""
    known = (("authorization", f"Bearer {TOKEN}"),)
    with grpc.insecure_channel(guarded.address) as channel:
        with_token = grpc.intercept_channel(channel, _Adds(known))
        database = ProtoReflectionDescriptorDatabase(with_token)
        pool = descriptor_pool.DescriptorPool(database)
        methods = [method for name in database.get_services() for method in pool.FindServiceByName(name).methods]
        assert {method.containing_service.name for method in methods} >= {"DigitClassifierService", "ServerReflection"}
        for method in methods:
            if method.containing_service.name == "Health" or method.name in ("ServerLive", "ServerReady"):
                continue  # what asks about health, in either protocol
            error = _refusal(
                lambda method=method: channel.stream_stream(f"/{method.containing_service.full_name}/{method.name}")(
                    iter([b"\xff\xff"]), timeout=20, metadata=[("authorization", value) for value in authorization]
                )
            )
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, method.full_name
            assert error.details() == REFUSED
            assert b"oken" not in repr(error.trailing_metadata()).encode()


class _Adds(grpc.StreamStreamClientInterceptor):
    def __init__(self, metadata: tuple) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation, details, requests):
        class Details(grpc.ClientCallDetails):
            method, timeout, credentials = details.method, details.timeout, details.credentials
            metadata, wait_for_ready, compression = self._metadata, None, None

        return continuation(Details(), requests)


def _http2_answer(address: str, authorization: bytes) -> bytes:
    """What the server answers to one call of GetModel made by hand, since grpcio sends no such header."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/digits.v1.DigitClassifierService/GetModel",
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"authorization": authorization,
    }
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in headers.items())
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        connection.sendall(frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
        answer = b""
        while b"grpc-status" not in answer or len(answer.split(b"grpc-status", 1)[1]) < 3:
            received = connection.recv(65536)
            assert received, answer
            answer += received
    return answer.split(b"grpc-status", 1)[1][1:]  # after the length of the value


@pytest.mark.grpcio
@pytest.mark.parametrize(
    "authorization",
    [
        b"\xff",
        b"Bearer \xff\xfe rubbish",
        b"Bearer \xed\xa0\x80",
        b"Bearer rubbish\x00",
        b"Bearer a\r\nx: " + TOKEN.encode(),
        b"Bearer " + TOKEN.encode() + b"\xe9",
    ],
)
def test_headers_that_are_not_text_are_refused_and_not_logged(guarded, authorization: bytes) -> None:
    assert _http2_answer(guarded.address, f"Bearer {TOKEN}".encode()).startswith(b"0")
    assert _http2_answer(guarded.address, authorization).startswith(b"16")


@pytest.mark.grpcio
def test_a_header_beyond_grpc_s_limit_is_grpc_s_to_refuse(guarded) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetModel(
                digits_pb2.GetModelRequest(), timeout=20, metadata=[("authorization", "Bearer " + "x" * 1_000_000)]
            )
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_each_token_in_the_file_is_good_and_the_scheme_s_case_is_none(guarded, digits: tuple) -> None:
    for token in (TOKEN, OTHER_TOKEN):
        _classifies(guarded.address, Credentials(token=token), digits)
    with grpc.insecure_channel(guarded.address) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        metadata = [("authorization", f"bearer {TOKEN}")]
        assert stub.GetModel(digits_pb2.GetModelRequest(), timeout=20, metadata=metadata).model_name
        stream = stub.ClassifyStream(iter([digits_pb2.ClassifyStreamRequest()]), timeout=20, metadata=metadata)
        assert next(stream).error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_the_async_client_sends_its_token_too(guarded, digits: tuple) -> None:
    async with AsyncClient(guarded.address, credentials=Credentials(token=TOKEN)) as client:
        await client.wait_until_serving(20)
        assert len((await client.classify(digits[0][:5])).labels) == 5
    async with AsyncClient(guarded.address) as client:
        with pytest.raises(CallFailed, match=f"UNAUTHENTICATED: {REFUSED}"):
            await client.classify(digits[0][:5])


def test_tokens_change_with_the_file(start_server: Start, token_file: Path, digits: tuple) -> None:
    first, other = Credentials(token=TOKEN), Credentials(token="third-token")
    with start_server("--token-file", str(token_file)) as server, Client(server.address, credentials=first) as client:
        assert len(client.classify(digits[0][:5]).labels) == 5
        for broken in (b"", b"no token at all\n"):
            token_file.write_bytes(broken)
            assert len(client.classify(digits[0][:5]).labels) == 5
            assert _asks(server.address, other) == "UNAUTHENTICATED"
        token_file.unlink()
        assert len(client.classify(digits[0][:5]).labels) == 5
        token_file.write_text("third-token\n")
        with pytest.raises(CallFailed, match="UNAUTHENTICATED"):
            client.classify(digits[0][:5])
        _classifies(server.address, other, digits)
        _, stderr = server.stop()
    assert stderr.count(f"{token_file} contains no token; the previous content stays in use") == 1
    assert stderr.count("line 1: a token must be printable") == 1
    assert stderr.count("No such file") == 1
    assert stderr.count("reloaded after a change") == 1


def test_health_is_open_unless_told_otherwise(start_server: Start, token_file: Path) -> None:
    with start_server("--token-file", str(token_file)) as server, Client(server.address) as client:
        client.wait_until_serving(20)
    with start_server("--token-file", str(token_file), "--no-open-health") as server:
        with Client(server.address) as client, pytest.raises(CallFailed, match="UNAUTHENTICATED"):
            client.wait_until_serving(20)
        with Client(server.address, credentials=Credentials(token=TOKEN)) as client:
            client.wait_until_serving(20)


def test_reflection_is_off_where_it_is_not_wanted(start_server: Start, digits: tuple) -> None:
    with start_server("--no-reflection") as server:
        with grpc.insecure_channel(server.address) as channel:
            for version in ("v1", "v1alpha"):
                path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
                error = _refusal(lambda path=path: channel.stream_stream(path)(iter([b""]), timeout=20))
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        _classifies(server.address, Credentials(), digits)


def test_a_token_goes_to_other_machines_only_over_tls() -> None:
    for address in ("digits.example:50051", "203.0.113.1:50051", "dns:///digits.example:1", "[2001:db8::1]:50051"):
        with pytest.raises(InvalidConfig, match="plain text"):
            Client(address, credentials=Credentials(token=TOKEN))
        with pytest.raises(InvalidConfig, match="plain text"):
            AsyncClient(address, credentials=Credentials(token=TOKEN))
        Client(address, credentials=Credentials(token=TOKEN, tls=True)).close()
        Client(address, credentials=Credentials(token=TOKEN, allow_insecure_token=True)).close()
    for address in ("localhost:1", "127.0.0.9:1", "[::1]:1", "unix:/nowhere"):
        Client(address, credentials=Credentials(token=TOKEN)).close()


def test_credentials_keep_their_token_to_themselves_and_refuse_what_can_not_work(tmp_path: Path) -> None:
    assert TOKEN not in repr(Credentials(token=TOKEN))
    for token in (f"{TOKEN}\n", "two words", "é"):
        with pytest.raises(InvalidConfig) as refused:
            Credentials(token=token)
        assert token not in str(refused.value)
    with pytest.raises(InvalidConfig, match="need each other"):
        Credentials(certificate=tmp_path)
    with pytest.raises(UnusableFile, match=r"can't read .*absent: No such file"):
        Client("127.0.0.1:1", credentials=Credentials(root_certificates=tmp_path / "absent"))


@pytest.mark.grpcio
def test_the_commands_take_certificates_and_tokens(
    start_server: Start, command: Callable, files: _Files, token_file: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "client-ca.crt")
    pair = _client_pair(tmp_path / "client", authority)
    options = (*files.options, "--tls-client-ca", tmp_path / "client-ca.crt", "--token-file", token_file)
    with start_server(*map(str, options), "--no-open-health") as server:
        target = ("--target", server.address)
        shown = ("--tls-ca", files.ca, "--tls-certificate", pair["certificate"], "--tls-key", pair["key"])
        done = command("digits-classify", *target, *shown, "--token-file", token_file, SAMPLES / "7.png")
        assert done.stdout.split()[1:2] == ["7"], done.stderr
        environment = {**os.environ, "DIGITS_TOKEN": OTHER_TOKEN}
        done = command("digits-classify", *target, *shown, SAMPLES / "7.png", env=environment)
        assert done.stdout.split()[1:2] == ["7"], done.stderr
        done = command("digits-classify", *target, *shown, SAMPLES / "7.png")
        assert done.returncode == 1
        assert f"UNAUTHENTICATED: {REFUSED}" in done.stderr
        # A health check beside the server: its own variables do, and the client's pair.
        environment = {
            **os.environ,
            "DIGITS_TARGET": server.address,
            "DIGITS_TLS_CERTIFICATE": str(files.certificate),
            "DIGITS_TLS_CLIENT_CERTIFICATE": str(pair["certificate"]),
            "DIGITS_TLS_CLIENT_KEY": str(pair["key"]),
            "DIGITS_TOKEN_FILE": str(token_file),
        }
        done = command("python", "-m", "serving", "health", env=environment)
        assert done.stdout == "SERVING\n", done.stderr


@pytest.mark.grpcio
def test_the_commands_expect_the_name_that_they_are_told(start_server: Start, command: Callable, files: _Files) -> None:
    with start_server(*files.options) as server:
        for name, code in (("localhost", 0), ("digits.example", 1)):
            told = ("--target", server.address, "--tls-ca", files.ca, "--tls-server-name", name)
            assert command("digits-classify", *told, SAMPLES / "7.png").returncode == code
            environment = {
                **os.environ,
                "DIGITS_TARGET": server.address,
                "DIGITS_TLS_CERTIFICATE": "absent",  # the server's, which a health check trusts unless told otherwise
                "DIGITS_TLS_CA": str(files.ca),
                "DIGITS_TLS_SERVER_NAME": name,
            }
            done = command("python", "-m", "serving", "health", env=environment)
            assert (done.returncode, done.stdout) == (code, "" if code else "SERVING\n"), done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--token-file", "absent"], "can't read absent: No such file"),
        (["--tls-ca", "absent"], "can't read absent: No such file"),
        (["--tls-certificate", "absent"], "a client certificate and its key need each other"),
        (["--target", "203.0.113.1:1"], "in plain text"),
    ],
)
def test_wrong_client_options_get_an_error_of_one_line(command: Callable, options: list[str], said: str) -> None:
    environment = {**os.environ, "DIGITS_TOKEN": TOKEN}
    done = command("digits-classify", *options, SAMPLES / "7.png", env=environment, timeout=20)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert TOKEN not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.grpcio
def test_the_demo_works_with_certificate_and_token(start_server: Start, files: _Files, token_file: Path) -> None:
    with start_server(*files.options, "--token-file", str(token_file), "--demo") as server:
        patience = threading.Timer(60, server.process.kill)
        patience.start()
        shown = []
        for line in server.process.stdout:
            shown.append(line)
            if "still serving" in line:
                break
        patience.cancel()
        code, stderr = server.stop()
    assert code == 0, stderr
    assert "█" in "".join(shown)


def test_tokens_in_plain_text_on_a_network_are_warned_of(token_file: Path) -> None:
    """Without a model to serve, so that nothing listens on the network."""
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from serving.config import *; from serving.server.process.server import Server\n"
        "config = ServerConfig(host=sys.argv[1], repository=Path('/nowhere'),\n"
        "                      security=SecurityConfig(token_file=Path(sys.argv[2])))\n"
        "asyncio.run(Server(config).start())"
    )
    for host, warned in (("0.0.0.0", True), ("localhost", False), ("::1", False)):
        done = subprocess.run(
            [sys.executable, "-c", program, host, token_file], capture_output=True, text=True, check=False, timeout=60
        )
        assert ("plain text" in done.stderr) is warned, done.stderr
