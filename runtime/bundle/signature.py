"""Signs bundles, and checks signatures: OpenSSF model signing with keys that are kept offline.

A signature is a file beside the bundle, `c7.sig` for the folder `c7` and for its zip `c7.zip`. It lists the SHA-256 of
manifest.json and of every other file, signed with an elliptic-curve key (ECDSA on P-256, P-384 or P-521). The tool
`model_signing verify key` checks it as well.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from blastscope.runtime.bundle.archive import pack
from blastscope.runtime.bundle.manifest_io import MANIFEST
from blastscope.runtime.bundle.opening import read_bundle
from blastscope.runtime.bundle.reader import CHANGED, Bundle
from blastscope.runtime.bundle.trusted_keys import RequiredSignature, required_keys
from blastscope.runtime.errors import DataError, DigestMismatch, MissingLibrary, SignatureError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.own_files import open_plain

SIGNATURE_LIMIT = 1 << 20  # bytes; one of fifteen files has 4 kB
KEY_LIMIT = 1 << 16
_WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)  # a file that is no signature


def signature_path(path: Path | str) -> Path:
    """The path of a bundle's signature, beside the bundle.

    Parameters
    ----------
    path : Path or str
        The bundle's folder, or its zip.

    Returns
    -------
    Path
        `c7.sig` for `c7` and for `c7.zip`.
    """
    path = Path(path).absolute()
    return path.with_name(path.name.removesuffix(".zip") + ".sig")


def read_signed_bundle(path: Path | str, required: RequiredSignature, *, cache_dir: Path | None = None) -> Bundle:
    """The bundle in a folder or zip, verified as by `read_bundle`, once a required key is known to have signed it.

    Parameters
    ----------
    path : Path or str
        The bundle's folder, or its zip. Its signature lies at `signature_path(path)`.
    required : Path, str or iterable of these
        Public keys in PEM, one of which must have signed. 'trusted' stands for those that `blastscope trust` keeps.
    cache_dir : Path, optional
        As for `read_bundle`.

    Returns
    -------
    Bundle

    Raises
    ------
    SignatureError
        There is no signature, it is of another bundle, or none of the keys made it.
    BundleError
        As `read_bundle`.
    DataError
        A key can't be read.
    MissingLibrary
        'model-signing' is not installed.
    """
    keys = required_keys(required)
    bundle = read_bundle(path, cache_dir=cache_dir)
    check_signature(bundle, Path(path), keys)
    return bundle


def sign_bundle(bundle: Bundle, key: Path | str, path: Path | str) -> Path:
    """Signs a bundle, and returns the path of the signature.

    Parameters
    ----------
    bundle : Bundle
        As it was read.
    key : Path or str
        Private key in PEM, on the curve P-256, P-384 or P-521, without a password.
    path : Path or str
        The signature to write, usually `signature_path(...)`; a file that stands there is replaced.

    Returns
    -------
    Path

    Raises
    ------
    DataError
        The key can't be used.
    DigestMismatch
        The bundle was changed since it was read.
    MissingLibrary
        'model-signing' is not installed.
    WriteError
        The signature can't be written.
    """
    _library("signing")
    from model_signing import hashing, signing

    path = Path(path)
    everything = hashing.Config()  # type: ignore[no-untyped-call]
    everything.set_ignored_paths(paths=[], ignore_git_paths=False)
    config = signing.Config()  # type: ignore[no-untyped-call]
    config.set_hashing_config(everything)
    try:
        config.use_elliptic_key_signer(private_key=_key_file(Path(key)))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(key, f"is no private key in PEM on P-256, P-384 or P-521 without a password: {error}") from error
    with tempfile.TemporaryDirectory(prefix="blastscope-") as place:
        fresh = Path(place) / "bundle.sig"
        config.sign(bundle.path, fresh)
        content = fresh.read_bytes()
    if signed_digests(content).get(MANIFEST) != bundle.digest:
        raise DigestMismatch(bundle.path, MANIFEST, CHANGED)
    write_content(path, content)
    return path


def check_signature(bundle: Bundle, path: Path, keys: Sequence[Path]) -> Path:
    """Checks that a bundle is signed, with every byte of it, and returns the key that did.

    Parameters
    ----------
    bundle : Bundle
        As it was read from `path`.
    path : Path
        The bundle's folder or zip. A zip must be the very bytes that `pack` writes.
    keys : sequence of Path
        Public keys in PEM, one of which must have signed.

    Returns
    -------
    Path
        One of `keys`.

    Raises
    ------
    SignatureError
        There is no signature, it is of another bundle, or no key of `keys` made it.
    DataError
        One of `keys` is no public key.
    MissingLibrary
        'model-signing' is not installed.
    """
    _library("verifying")
    if not keys:
        raise SignatureError(path, "can't be checked, since no key is trusted: add one with 'blastscope trust add'")
    signature = _read_signature(path)
    try:
        if signed_digests(signature).get(MANIFEST) != bundle.digest:
            raise SignatureError(path, f"'{signature_path(path).name}' is the signature of another bundle: get both anew")
        canonical = _as_read(signature)
    except _WRONG as error:
        raise SignatureError(path, f"'{signature_path(path).name}' is no signature of a model: get it anew") from error
    reasons = []
    for key in keys:
        reason = _objection(bundle.path, canonical, key)
        if reason is None:
            if path.is_file():
                _check_packed(bundle, path)
            return key
        reasons.append(f"'{key.name}': {reason}")
    raise SignatureError(path, f"isn't signed by a key that is required ({'; '.join(reasons)}): ask who made it for their key")


def signed_digests(signature: bytes) -> dict[str, str]:
    """The SHA-256 in hex of each file that a signature names. Who signed is not checked.

    Parameters
    ----------
    signature : bytes
        Content of a signature's file.

    Returns
    -------
    dict of str to str

    Raises
    ------
    ValueError, KeyError, TypeError
        It is no such file.
    """
    statement = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"], validate=True))
    resources: Iterable[dict[str, str]] = statement["predicate"]["resources"]
    return {resource["name"]: resource["digest"] for resource in resources if resource["algorithm"] == "sha256"}


def _as_read(signature: bytes) -> bytes:
    """The signature with the parts that are read here and no others: the library takes a part under several names."""
    found = json.loads(signature)
    envelope: dict[str, Any] = {name: found["dsseEnvelope"][name] for name in ("payload", "payloadType")}
    envelope["signatures"] = [{"sig": one["sig"]} for one in found["dsseEnvelope"]["signatures"][:1]]
    hint = found["verificationMaterial"]["publicKey"]["hint"]
    if not isinstance(hint, str) or not hint:
        raise ValueError("it doesn't say by which key it was made")
    material = {"publicKey": {"hint": hint}, "tlogEntries": []}
    return json.dumps({"mediaType": found["mediaType"], "verificationMaterial": material, "dsseEnvelope": envelope}).encode()


def _objection(folder: Path, signature: bytes, key: Path) -> str | None:
    """Why this key doesn't vouch for the files in `folder`; None where it does."""
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    try:
        config = verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=_key_file(key))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(key, f"is no public key in PEM on P-256, P-384 or P-521: {error}") from error
    with tempfile.TemporaryDirectory(prefix="blastscope-") as place:
        copy = Path(place) / "bundle.sig"
        copy.write_bytes(signature)
        try:
            config.verify(folder, copy)
        except InvalidSignature:
            return "the signature was not made by it, or was changed"
        except (*_WRONG, OSError) as error:
            return str(error).strip().lower() or type(error).__name__
    return None


def _check_packed(bundle: Bundle, path: Path) -> None:
    """What a zip holds beside its files (comments, times, gaps) isn't signed: so it must be what `pack` writes."""
    with tempfile.TemporaryDirectory(prefix="blastscope-") as place:
        if file_sha256(pack(bundle, Path(place) / "again.zip")) != file_sha256(path):
            raise SignatureError(path, "isn't the zip that 'blastscope pack' makes of its files: pack the bundle anew")


def _read_signature(path: Path) -> bytes:
    place = signature_path(path)
    try:
        stream, _ = open_plain(place)
        with stream:
            content = stream.read(SIGNATURE_LIMIT + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SignatureError(path, f"is not signed: '{place}' can't be read, {reason}") from error
    if len(content) > SIGNATURE_LIMIT:
        raise SignatureError(path, f"'{place.name}' is larger than {SIGNATURE_LIMIT} bytes, so it is no signature")
    return content


def _key_file(key: Path) -> Path:
    """The key's path, once it is known to be a small plain file."""
    try:
        stream, found = open_plain(key)
        stream.close()
    except OSError as error:
        raise DataError(key, f"can't be read: {(error.strerror or str(error)).lower()}") from error
    if found.st_size > KEY_LIMIT:
        raise DataError(key, f"has {found.st_size} bytes, so it is no key")
    return key


def _library(part: str) -> None:
    from importlib import import_module

    try:
        import_module(f"model_signing.{part}")
    except ModuleNotFoundError as error:
        raise MissingLibrary("model-signing", "signing") from error
