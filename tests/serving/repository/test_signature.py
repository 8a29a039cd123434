"""Signatures, in both directions with the library that defines their format, and everything that must break one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from keys import KeyPair, make_key_pair
from model_signing import hashing, signing, verifying

from serving.config import PRETRAINED
from serving.errors import ModelRejected, UnusableFile
from serving.repository.repository import Repository, StoredModel
from serving.repository.signature import SigningKey, TrustedKeys

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def ours(folder: Path) -> KeyPair:
    return make_key_pair(folder, "ours")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> KeyPair:
    return make_key_pair(folder, "theirs")


@pytest.fixture
def signed(tmp_path: Path, ours: KeyPair) -> Path:
    """The directory of a signed version of the shipped model, in both precisions."""
    shipped = Repository(PRETRAINED).load("mnist_convnet", 1)
    repository = Repository(tmp_path / "models", signing_key=SigningKey.read(ours.private))
    version = repository.publish(shipped.content, shipped.manifest, shipped.precisions)
    return repository.root / "mnist_convnet" / str(version)


def _load(directory: Path, *keys: KeyPair) -> StoredModel:
    """Reads version 1 as a server does that trusts these keys."""
    trusted = [key.public for key in keys]
    return Repository(directory.parent.parent, trusted_keys=trusted).load("mnist_convnet", 1)


def _sign_with_the_library(directory: Path, key: KeyPair, hashed: hashing.Config | None = None) -> None:
    """Signs as `model_signing sign key` does, with the signature beside the files."""
    signature = directory / "model.sig"
    signature.unlink(missing_ok=True)
    hashed = (hashed or hashing.Config()).set_ignored_paths(paths=[signature])
    made = signing.Config().use_elliptic_key_signer(private_key=key.private).set_hashing_config(hashed)
    made.sign(directory, signature)


@pytest.mark.parametrize("curve", CURVES)
def test_the_library_and_we_accept_each_other_s_signatures(
    curve: str, signed: Path, tmp_path: Path, shipped: StoredModel
) -> None:
    key = make_key_pair(tmp_path, "key", ec.generate_private_key(CURVES[curve]))
    _sign_with_the_library(signed, key)
    assert _load(signed, key).content == shipped.content
    theirs = (signed / "model.sig").read_text()
    Repository(signed.parent.parent).sign("mnist_convnet", 1, SigningKey.read(key.private))
    assert (signed / "model.sig").read_text() != theirs
    assert _load(signed, key).content == shipped.content
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=key.public)
    verifier.verify(signed, signed / "model.sig")
    (signed / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"Hash mismatch for 'manifest\.json'"):
        verifier.verify(signed, signed / "model.sig")


def test_any_of_several_keys_may_have_signed(signed: Path, ours: KeyPair, theirs: KeyPair) -> None:
    assert _load(signed, theirs, ours)
    with pytest.raises(ModelRejected, match=r"model\.sig: not made by a trusted key"):
        _load(signed, theirs)


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx", "manifest.json"])
@pytest.mark.parametrize("place", [0, 1000, -1])
def test_no_byte_of_a_file_may_change(signed: Path, ours: KeyPair, file: str, place: int) -> None:
    _flip(signed / file, place)
    with pytest.raises(ModelRejected, match=rf"{file}: was changed after the version was signed"):
        _load(signed, ours)
    _flip(signed / file, place)
    assert _load(signed, ours)


def test_no_byte_of_the_signature_may_change(tmp_path: Path, ours: KeyPair) -> None:
    """Not even one that means nothing, such as the hint at the key, which nobody needs, or white space."""
    (tmp_path / "model.onnx").write_bytes(b"content")
    _sign_with_the_library(tmp_path, ours)
    signature, trusted = tmp_path / "model.sig", TrustedKeys([ours.public])
    text = signature.read_bytes()
    changes = [text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :] for place in range(len(text))]
    for changed in (*changes, text + b"\n", text + b"\0", text[:-1], b" " + text):
        signature.write_bytes(changed)
        with pytest.raises(ModelRejected, match=r"model\.sig: "):
            trusted.check(tmp_path, {})
    signature.write_bytes(text)
    trusted.check(tmp_path, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda at: (at / "model.sig").unlink(), "model.sig: no such file, and only signed versions are served here"),
        (lambda at: (at / "model.sig").write_text("{}"), "model.sig: not a signature"),
        (lambda at: (at / "model.sig").write_text("[" * 100_000), "model.sig: not a signature"),
        (lambda at: (at / "model.sig").write_bytes(b"\xff"), "model.sig: not a signature"),
        (lambda at: (at / "README.md").write_text("new"), "README.md: was added after"),
        (lambda at: (at / ".gitignore").touch(), ".gitignore: was added after"),
        (lambda at: (at / "folder").mkdir(), "folder: was added after"),
        (lambda at: (at / "link").symlink_to(at.parent), "link: was added after"),
    ],
)
def test_what_else_breaks_a_signature(signed: Path, ours: KeyPair, change: Callable[[Path], object], said: str) -> None:
    change(signed)
    with pytest.raises(ModelRejected) as refused:
        _load(signed, ours)
    assert said in refused.value.message


def test_other_files_may_be_signed_too_and_must_stay(signed: Path, ours: KeyPair) -> None:
    notes = signed / "notes.txt"
    notes.write_text("as it was")
    Repository(signed.parent.parent).sign("mnist_convnet", 1, SigningKey.read(ours.private))
    assert _load(signed, ours)
    notes.write_text("as it is")
    with pytest.raises(ModelRejected, match=r"notes\.txt: was changed"):
        _load(signed, ours)
    notes.unlink()
    with pytest.raises(ModelRejected, match=r"notes\.txt: was removed"):
        _load(signed, ours)


def test_the_bytes_that_were_read_count_not_those_on_the_disk(signed: Path, ours: KeyPair) -> None:
    """Whoever exchanges a file for the moment of the check gains nothing."""
    trusted = TrustedKeys([ours.public])
    trusted.check(signed, {"model.onnx": (signed / "model.onnx").read_bytes()})
    with pytest.raises(ModelRejected, match=r"model\.onnx: was changed"):
        trusted.check(signed, {"model.onnx": b"another"})
    with pytest.raises(ModelRejected, match=r"more\.onnx: was added"):
        trusted.check(signed, {"more.onnx": b"was there a moment ago"})


@pytest.mark.parametrize(
    "hashed",
    [
        hashing.Config().use_file_serialization(hashing_algorithm="blake3"),
        hashing.Config().use_shard_serialization(),
    ],
)
def test_other_kinds_of_digests_are_refused(signed: Path, ours: KeyPair, hashed: hashing.Config) -> None:
    _sign_with_the_library(signed, ours, hashed)
    with pytest.raises(ModelRejected, match=r"model\.sig: signs something else than files by SHA-256"):
        _load(signed, ours)


def test_what_can_not_be_served_is_not_signed(signed: Path, ours: KeyPair) -> None:
    _flip(signed / "model.onnx", 0)
    before = (signed / "model.sig").read_text()
    with pytest.raises(ModelRejected, match="the file was changed or damaged"):
        Repository(signed.parent.parent).sign("mnist_convnet", 1, SigningKey.read(ours.private))
    assert (signed / "model.sig").read_text() == before


def test_unusable_keys(folder: Path, signed: Path, ours: KeyPair) -> None:
    garbage = folder / "garbage"
    garbage.write_text("-----BEGIN PUBLIC KEY-----\nno\n-----END PUBLIC KEY-----\n")
    encrypted = make_key_pair(folder, "encrypted", password=b"secret").private
    ed = make_key_pair(folder, "ed", ed25519.Ed25519PrivateKey.generate())
    rsa_key = make_key_pair(folder, "rsa", rsa.generate_private_key(65537, 2048))
    curve = make_key_pair(folder, "k1", ec.generate_private_key(ec.SECP256K1()))
    for path, said in (
        (folder / "absent", "absent: No such file or directory"),
        (garbage, "garbage: not a public key in PEM"),
        (ours.private, r"ours\.pem: not a public key in PEM"),
        *((pair.public, "P-256, P-384 or P-521, as model signing needs") for pair in (ed, rsa_key, curve)),
    ):
        with pytest.raises(UnusableFile, match=said):
            Repository(signed.parent.parent, trusted_keys=[path]).load("mnist_convnet", 1)
    for path, said in (
        (encrypted, "not a private key in PEM, without a password"),
        (ours.public, "not a private key in PEM, without a password"),
        (ed.private, "not an elliptic curve key"),
    ):
        with pytest.raises(UnusableFile, match=said):
            SigningKey.read(path)


def test_without_the_extra_the_error_says_what_to_install(signed: Path, ours: KeyPair) -> None:
    program = f"""
import sys
from pathlib import Path
sys.modules["cryptography"] = None
from serving.repository.repository import Repository
Repository(Path({str(signed.parent.parent)!r})).load("mnist_convnet", 1)
Repository(Path({str(signed.parent.parent)!r}), trusted_keys=[Path({str(ours.public)!r})]).load("mnist_convnet", 1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "signatures need the extra signing: pip install '.[signing]'" in done.stderr
    assert "line 7" in done.stderr  # and not before
