"""libblastscope requires signatures as Python does: what is signed opens, and what isn't, or was changed, is refused alike."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from blastscope.benchmarks.libblastscope import NativeError, NativeLibrary, Options
from blastscope.runtime.bundle import pack, read_bundle, read_signed_bundle, sign_bundle, signature_path
from blastscope.runtime.bundle.trusted_keys import make_key, trust_key, trusted_keys_dir
from blastscope.runtime.errors import BlastscopeError

pytest.importorskip("model_signing", reason="model-signing is not installed")
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from model_signing import hashing, signing

Json = Any
PEM, SPKI = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
KIND = "application/vnd.in-toto+json"


class Signed:
    """A signed bundle, its two keys, another's public key, and what Python and the library say of it."""

    def __init__(self, folder: Path, made: Path, native: NativeLibrary) -> None:
        self.place, self.native = folder, native
        self.folder = folder / "c7"
        shutil.copytree(made, self.folder)
        self.key, self.public = make_key(folder / "lab.pem")
        self.stranger = make_key(folder / "stranger.pem")[1]
        self.signature = sign_bundle(read_bundle(self.folder), self.key, signature_path(self.folder))

    def verdict(self, *keys: Path | str, path: Path | None = None) -> str:
        """The exception's name, or 'Ok': the library's, which is Python's."""
        ours = self.native_says(keys or (self.public,), path or self.folder)
        try:
            read_signed_bundle(path or self.folder, keys or self.public, cache_dir=self.place / "cache")
            theirs = "Ok"
        except BlastscopeError as error:
            theirs = type(error).__name__
        assert ours == theirs
        return ours

    def native_says(self, keys: Iterable[Path | str], path: Path) -> str:
        """What the library alone says."""
        required = "\n".join(map(str, keys))
        try:
            with self.native.opened(path, cache_dir=self.place / "cache", measure=0, require_signature=required):
                return "Ok"
        except NativeError as error:
            self.message = error.message
            return error.name


@pytest.fixture
def signed(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> Signed:
    return Signed(tmp_path, tiny_bundle.make(), native)


def changed_bit(path: Path) -> bytes:
    """The file's former content; one bit of its last byte is another one now."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return data


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(PEM, SPKI)


def test_a_signed_bundle_opens_and_others_keys_dont_open_it(signed: Signed) -> None:
    assert signed.verdict() == "Ok"
    assert signed.verdict(signed.stranger, signed.public) == "Ok"
    assert signed.verdict(signed.stranger) == "SignatureError"
    assert signed.message.endswith(
        "isn't signed by a key that is required ('stranger.pub': another key made it): ask who made it for their key"
    )
    with signed.native.opened(signed.folder, cache_dir=signed.place / "cache", measure=0) as scope:  # none is required
        assert scope.audit["bundle"] == read_bundle(signed.folder).digest


def test_one_bit_of_any_file_and_a_file_more_are_refused(signed: Signed) -> None:
    files = sorted(path for path in signed.folder.rglob("*") if path.is_file())
    assert len(files) > 2
    for path in files:
        former = changed_bit(path)
        assert signed.verdict() in ("BundleError", "DigestMismatch", "SignatureError"), path
        path.write_bytes(former)
    added = signed.folder / ".gitignore"
    added.write_text("stowaway")
    assert signed.verdict() == "BundleError"
    added.unlink()
    assert signed.verdict() == "Ok"


def test_a_manifest_that_opens_unsigned_is_refused(signed: Signed) -> None:
    file = signed.folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"linear"', b'"lineas"'))
    assert read_bundle(signed.folder).manifest.backbone == "lineas"
    assert signed.verdict() == "SignatureError"
    assert "'c7.sig' is the signature of another bundle" in signed.message


def test_a_missing_signature_and_what_is_none_are_refused(signed: Signed) -> None:
    for content in (b"", b"{}", b"[1]", b"\xff", b'{"dsseEnvelope": 3}', b"[" * 100_000, b" " * (1 << 21)):
        signed.signature.write_bytes(content)
        assert signed.verdict() == "SignatureError"
        assert "no signature" in signed.message
    signed.signature.unlink()
    assert signed.verdict() == "SignatureError"
    assert f"is not signed: '{signed.signature}' can't be read, no such file" in signed.message
    signed.signature.mkdir()
    assert signed.verdict() == "SignatureError"


def test_a_damaged_signature_vouches_for_nothing(signed: Signed) -> None:
    """A byte of its file at a time: the library refuses it, or the change says nothing else, and Python takes it as well."""
    good, chance, refused = signed.signature.read_bytes(), random.Random(5), 0
    for place in chance.sample(range(len(good)), 150):
        data = bytearray(good)
        data[place] = chance.choice(b'A9"{ ')
        signed.signature.write_bytes(data)
        if signed.native_says([signed.public], signed.folder) == "Ok":
            assert signed.verdict() == "Ok"
        else:
            refused += data != good
    assert refused > 100


def test_a_zip_is_held_to_the_bytes_that_pack_writes(signed: Signed) -> None:
    packed = pack(read_bundle(signed.folder), signed.folder.with_suffix(".zip"))
    assert signed.verdict(path=packed) == "Ok"
    good = packed.read_bytes()
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"a word"
    assert signed.verdict(path=packed) == "SignatureError"
    assert "pack the bundle anew" in signed.message
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in signed.folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(signed.folder))
    assert signed.verdict(path=packed) == "SignatureError"
    chance = random.Random(6)
    for place in chance.sample(range(len(good)), 60):
        packed.write_bytes(good[:place] + bytes([good[place] ^ 1 << chance.randrange(8)]) + good[place + 1 :])
        assert signed.native_says([signed.public], packed) in ("BundleError", "DigestMismatch", "SignatureError"), place


def test_the_shipped_bundle_as_a_zip_is_held_to_it_too(native: NativeLibrary, tmp_path: Path) -> None:
    from blastscope import SHIPPED_BUNDLE

    signed = Signed(tmp_path, SHIPPED_BUNDLE, native)
    assert signed.verdict() == "Ok"
    assert signed.verdict(path=pack(read_bundle(signed.folder), tmp_path / "c7.zip")) == "Ok"


def test_the_users_trusted_keys_are_taken_by_one_word(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(signed.place / "config"))
    assert signed.verdict("trusted") == "SignatureError"
    assert "no key is trusted" in signed.message
    trust_key(signed.stranger)
    assert signed.verdict("trusted") == "SignatureError"
    kept = trust_key(signed.public)
    assert kept.parent == trusted_keys_dir()
    assert signed.verdict("trusted") == "Ok"
    kept.chmod(0o666)
    assert signed.verdict("trusted") == "DataError"
    assert signed.verdict(signed.public) == "Ok"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_each_curve_is_read_and_a_compressed_point_too(signed: Signed, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    private = signed.place / "own.pem"
    plain = (PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(*plain))
    sign_bundle(read_bundle(signed.folder), private, signed.signature)
    whole, short = signed.place / "own.pub", signed.place / "short.pub"
    whole.write_bytes(public_pem(key))
    assert signed.verdict(whole) == "Ok"
    if shutil.which("openssl") is None:
        pytest.skip("openssl's command is not installed")
    words = ["openssl", "ec", "-pubin", "-in", str(whole), "-conv_form", "compressed", "-pubout", "-out", str(short)]
    subprocess.run(words, check=True, capture_output=True)
    assert len(short.read_bytes()) < len(whole.read_bytes())
    assert signed.verdict(short) == "Ok"


def test_what_is_no_key_is_named_with_its_file(signed: Signed) -> None:
    wrong = signed.place / "wrong.pub"
    contents = [
        b"", b"no key", signed.key.read_bytes(), b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"-" * 70_000,
        public_pem(rsa.generate_private_key(65537, 2048)), public_pem(ec.generate_private_key(ec.SECP256K1())),
    ]  # fmt: skip
    for content in contents:
        wrong.write_bytes(content)
        assert signed.verdict(wrong) == "DataError"
        assert str(wrong) in signed.message
        assert signed.verdict(signed.public, wrong) == "Ok"  # it isn't read once a key before it fits
    assert signed.verdict(signed.place / "missing.pub") == "DataError"
    assert signed.verdict(signed.place) == "DataError"


def test_a_requirement_without_a_key_and_a_later_option_are_refused(signed: Signed) -> None:
    for required in ("", "\n", f"{signed.public}\n", f"\n{signed.public}"):
        assert signed.native_says([required], signed.folder) == "UsageError", repr(required)

    class Later(ctypes.Structure):
        _fields_ = (("known", Options), ("unknown", ctypes.c_void_p))

    later, handle = Later(), ctypes.c_uint64()
    for value, wanted in ((None, "Ok"), (1, "UsageError")):
        signed.native.c.blastscope_options_init(ctypes.byref(later), ctypes.sizeof(later))
        later.known.cache_dir, later.known.measure = str(signed.place / "cache").encode(), 0
        later.unknown = value
        status = signed.native.c.blastscope_open(str(signed.folder).encode(), ctypes.byref(later), ctypes.byref(handle))
        assert signed.native.c.blastscope_status_name(status).decode() == wanted
        assert (handle.value > 0) == (wanted == "Ok")
        signed.native.c.blastscope_close(handle)


def test_a_program_of_before_signatures_still_opens(signed: Signed) -> None:
    former, handle = Options.require_signature.offset, ctypes.c_uint64()
    record = Options()
    signed.native.c.blastscope_options_init(ctypes.byref(record), former)
    assert record.struct_size == former == 80
    record.cache_dir, record.measure, record.require_signature = (
        str(signed.place / "cache").encode(),
        0,
        b"not the library's to read",
    )
    assert signed.native.c.blastscope_open(str(signed.folder).encode(), ctypes.byref(record), ctypes.byref(handle)) == 0
    signed.native.c.blastscope_close(handle)


def test_the_tool_of_openssf_signs_for_the_library(signed: Signed) -> None:
    signed.signature.unlink()
    signing.Config().use_elliptic_key_signer(private_key=signed.key).sign(signed.folder, signed.signature)
    assert signed.verdict() == "Ok"
    part = hashing.Config().set_ignored_paths(paths=["fp32"])
    signing.Config().use_elliptic_key_signer(private_key=signed.key).set_hashing_config(part).sign(
        signed.folder, signed.signature
    )
    assert signed.verdict() == "Ok"  # the manifest, which is signed, has the digests of what was left out
    part = hashing.Config().set_ignored_paths(paths=["manifest.json"])
    signing.Config().use_elliptic_key_signer(private_key=signed.key).set_hashing_config(part).sign(
        signed.folder, signed.signature
    )
    assert signed.verdict() == "SignatureError"


def without_a_file(statement: Json) -> None:
    statement["predicate"]["resources"].pop()


def with_a_file_more(statement: Json) -> None:
    statement["predicate"]["resources"].append({"name": "zz", "algorithm": "sha256", "digest": "0" * 64})


def with_another_digest(statement: Json) -> None:
    resources = statement["predicate"]["resources"]
    next(one for one in resources if one["name"] != "manifest.json")["digest"] = "0" * 64


def in_another_order(statement: Json) -> None:
    statement["predicate"]["resources"].reverse()


def ignoring_what_it_lists(statement: Json) -> None:
    statement["predicate"]["serialization"]["ignore_paths"] = ["fp32/"]


def ignoring_all(statement: Json) -> None:
    statement["predicate"]["serialization"]["ignore_paths"] = ["."]


def of_another_type(statement: Json) -> None:
    statement["_type"] = "https://in-toto.io/Statement/v0"


def of_another_predicate(statement: Json) -> None:
    statement["predicateType"] = "https://slsa.dev/provenance/v1"


def of_two_models(statement: Json) -> None:
    statement["subject"] *= 2


def of_no_model(statement: Json) -> None:
    del statement["subject"]


def by_another_hash(statement: Json) -> None:
    statement["predicate"]["serialization"]["hash_type"] = "blake3"


def in_shards(statement: Json) -> None:
    statement["predicate"]["serialization"]["method"] = "shards"


def with_a_remark(statement: Json) -> None:
    statement["predicate"]["remark"] = "for Ward 7"


CHANGES: dict[Callable[[Json], None], str] = {
    **dict.fromkeys((in_another_order, with_a_remark), "Ok"),
    **dict.fromkeys(
        (without_a_file, with_a_file_more, with_another_digest, ignoring_what_it_lists, ignoring_all), "SignatureError"
    ),
    **dict.fromkeys(
        (of_another_type, of_another_predicate, of_two_models, of_no_model, by_another_hash, in_shards), "SignatureError"
    ),
}


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_another_statement_by_the_right_key_is_judged_alike(
    signed: Signed, change: Callable[[Json], None], consistent: bool
) -> None:
    found = json.loads(signed.signature.read_bytes())
    statement = json.loads(base64.b64decode(found["dsseEnvelope"]["payload"]))
    change(statement)
    listed = b"".join(bytes.fromhex(one["digest"]) for one in statement["predicate"]["resources"])
    whole = hashlib.sha256(listed).hexdigest()
    of_all = statement.get("subject", [{"digest": {"sha256": whole}}])[0]["digest"]
    same_files = of_all["sha256"] == whole
    if consistent:
        of_all["sha256"] = whole
    payload = json.dumps(statement).encode()
    key = serialization.load_pem_private_key(signed.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    message = f"DSSEv1 {len(KIND)} {KIND} {len(payload)} ".encode() + payload
    found["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    found["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA256()))).decode()
    signed.signature.write_text(json.dumps(found))
    assert signed.verdict() == (CHANGES[change] if consistent or same_files else "SignatureError")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("mediaType",), "application/vnd.dev.sigstore.bundle.v0.1+json"), (("dsseEnvelope", "payloadType"), "text/plain"),
        (("verificationMaterial", "publicKey", "hint"), ""), (("verificationMaterial", "publicKey", "hint"), "0" * 64),
        (("dsseEnvelope", "signatures"), []), (("dsseEnvelope", "signatures", 0, "sig"), ""),
        (("dsseEnvelope", "signatures", 0, "sig"), "AAAA"), (("dsseEnvelope", "payload"), "e30="),
    ],
)  # fmt: skip
def test_an_envelope_that_says_something_else_is_refused(signed: Signed, place: tuple[Any, ...], value: Json) -> None:
    found = json.loads(signed.signature.read_bytes())
    table = found
    for step in place[:-1]:
        table = table[step]
    table[place[-1]] = value
    signed.signature.write_text(json.dumps(found))
    assert signed.verdict() == "SignatureError"


def test_a_payload_under_a_second_name_or_twice_decides_nothing(signed: Signed) -> None:
    found = json.loads(signed.signature.read_bytes())
    true = json.dumps(found["dsseEnvelope"])
    file = signed.folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"linear"', b'"lineas"'))
    statement = json.loads(base64.b64decode(found["dsseEnvelope"]["payload"]))
    for resource in statement["predicate"]["resources"]:
        if resource["name"] == "manifest.json":
            resource["digest"] = hashlib.sha256(file.read_bytes()).hexdigest()
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    false = json.dumps({**found["dsseEnvelope"], "payload": payload})
    rest = json.dumps({name: value for name, value in found.items() if name != "dsseEnvelope"})[1:]
    for names in (("dsseEnvelope", "dsse_envelope"), ("dsse_envelope", "dsseEnvelope"), ("dsseEnvelope", "dsseEnvelope")):
        for parts in ((true, false), (false, true)):
            pairs = ", ".join(f'"{name}": {part}' for name, part in zip(names, parts, strict=True))
            signed.signature.write_text(f"{{{pairs}, {rest}")
            assert signed.verdict() == "SignatureError"
