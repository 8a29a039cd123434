"""Signatures: who made a version, and that no file of it was changed, added or removed since.

The file `model.sig` has the format of OpenSSF Model Signing, so the library `model-signing` makes and verifies it too
(https://github.com/sigstore/model-transparency): a Sigstore bundle (https://docs.sigstore.dev/about/bundle/) around a
DSSE envelope (https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md), whose payload is an in-toto
statement of the files' digests. We wrote our own because the library brings Sigstore's client with it, which
a server that only verifies with a key has no use for. Needs the extra `signing`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import ModelRejected, UnusableFile, install_hint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey

SIGNATURE_FILE = "model.sig"

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
# The curves that the format allows, and the hash that each is used with.
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


class SigningKey:
    """A private key that signs versions.

    Args:
        key: The key, on one of the curves P-256, P-384 and P-521.
    """

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Reads a private key, PEM, not encrypted.

        Raises:
            UnusableFile: It can't be read or is no such key, or the package `cryptography` is missing.
        """
        return cls(_read_key(path, "private", lambda library, content: library.load_pem_private_key(content, None)))

    def sign(self, name: str, digests: Mapping[str, str]) -> str:
        """Signs files.

        Args:
            name: Name of the model, only informative.
            digests: SHA-256 of each file, in hexadecimal, by its name.

        Returns:
            The text of `model.sig`.
        """
        files = sorted(digests.items())
        whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in files)).hexdigest()
        statement = {
            "_type": _STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": whole}}],
            "predicateType": _PREDICATE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [SIGNATURE_FILE],
                },
                "resources": [{"name": file, "algorithm": "sha256", "digest": digest} for file, digest in files],
            },
        }
        payload = json.dumps(statement).encode()
        public = self._key.public_key()
        return _dump(_bundle(payload, self._key.sign(_signed_bytes(payload), _ecdsa(public)), public))


class TrustedKeys:
    """The public keys of those whose versions may be served. Their files are read once, when first needed.

    Args:
        paths: A file for each key, PEM; at least one.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def check(self, directory: Path, read: Mapping[str, bytes]) -> None:
        """Checks that one of the keys has signed exactly the files of a version.

        Args:
            directory: The version's directory.
            read: The files that were read already, by their names. Exactly these bytes are checked, so that nobody can
                exchange a file after its check. The others are read here.

        Raises:
            ModelRejected: There is no signature, another key made it, or a file was changed, added or removed since.
            UnusableFile: A file of the keys can't be used.
        """
        signed = self._signed_digests(directory / SIGNATURE_FILE)
        names = _file_names(directory) | read.keys()
        for name in sorted(names | signed.keys()):
            if name not in signed:
                raise ModelRejected(f"{directory / name}: was added after the version was signed")
            if name not in names:
                raise ModelRejected(f"{directory / name}: was removed after the version was signed")
            if (digest_of(read[name]) if name in read else _file_digest(directory / name)) != signed[name]:
                raise ModelRejected(f"{directory / name}: was changed after the version was signed")

    @functools.cached_property
    def _keys(self) -> list[EllipticCurvePublicKey]:
        return [
            _read_key(path, "public", lambda library, content: library.load_pem_public_key(content))
            for path in self._paths
        ]

    def _signed_digests(self, path: Path) -> dict[str, str]:
        """Returns the SHA-256 of each file that the signature is about, after checking who made it."""
        keys = self._keys
        try:
            text = path.read_text(encoding="ascii")
        except FileNotFoundError as error:
            raise ModelRejected(f"{path}: no such file, and only signed versions are served here") from error
        except OSError as error:
            raise ModelRejected(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ModelRejected(f"{path}: not a signature") from error
        try:
            bundle = json.loads(text)
            envelope = bundle["dsseEnvelope"]
            payload = base64.b64decode(envelope["payload"])
            signature = base64.b64decode(envelope["signatures"][0]["sig"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ModelRejected(f"{path}: not a signature", detail=str(error)) from error
        key = next((key for key in keys if _verifies(key, payload, signature)), None)
        if key is None:
            raise ModelRejected(f"{path}: not made by a trusted key, or changed since")
        # Even a change that means nothing is refused: of white space, or of a field that nobody reads.
        if bundle != _bundle(payload, signature, key) or text != _dump(bundle):
            raise ModelRejected(f"{path}: was changed after the version was signed")
        try:
            return _digests_in(json.loads(payload))
        except (ValueError, LookupError, TypeError) as error:
            raise ModelRejected(f"{path}: signs something else than files by SHA-256", detail=str(error)) from error


def file_digests(directory: Path) -> dict[str, str]:
    """Returns the SHA-256 of all files in a version's directory but its signature, in hexadecimal, by their names.

    Raises:
        ModelRejected: A file can't be read, or there is something else than files.
    """
    return {name: _file_digest(directory / name) for name in _file_names(directory)}


def digest_of(content: bytes) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _file_names(directory: Path) -> set[str]:
    try:
        return {entry.name for entry in directory.iterdir()} - {SIGNATURE_FILE}
    except OSError as error:
        raise ModelRejected(f"{directory}: {error.strerror}") from error


def _file_digest(path: Path) -> str:
    try:
        if not path.is_file():
            raise ModelRejected(f"{path}: not a file; a signature is only about files")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelRejected(f"{path}: {error.strerror}") from error


def _digests_in(statement: Any) -> dict[str, str]:
    predicate = statement["predicate"]
    kinds = statement["_type"], statement["predicateType"], predicate["serialization"]["method"]
    if kinds != (_STATEMENT, _PREDICATE, "files"):
        raise ValueError(f"{kinds}")
    for resource in predicate["resources"]:
        if resource["algorithm"] != "sha256":
            raise ValueError(f"{resource['name']}: {resource['algorithm']}")
    return {resource["name"]: resource["digest"] for resource in predicate["resources"]}


def _bundle(payload: bytes, signature: bytes, key: EllipticCurvePublicKey) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


def _dump(bundle: Any) -> str:
    return json.dumps(bundle, separators=(",", ":"))


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode() + payload


def _verifies(key: EllipticCurvePublicKey, payload: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _signed_bytes(payload), _ecdsa(key))
    except InvalidSignature:
        return False
    return True


def _ecdsa(key: EllipticCurvePublicKey) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, _HASHES[key.curve.name])())


def _read_key(path: Path, kind: str, load: Callable[[Any, bytes], Any]) -> Any:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError as error:
        hint = install_hint("signing")
        raise UnusableFile(f"cryptography is not installed; signatures need the extra signing: {hint}") from error
    try:
        key = load(serialization, path.read_bytes())
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise UnusableFile(f"{path}: not a {kind} key in PEM, without a password") from error
    if getattr(getattr(key, "curve", None), "name", None) not in _HASHES:
        raise UnusableFile(f"{path}: not an elliptic curve key on P-256, P-384 or P-521, as model signing needs")
    return key
