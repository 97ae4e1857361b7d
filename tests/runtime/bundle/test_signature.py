"""Signed bundles: each byte is covered, other keys are refused, and OpenSSF's own tool agrees."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app
from blastscope.runtime.bundle import pack, read_bundle, read_signed_bundle, sign_bundle, signature_path
from blastscope.runtime.bundle.manifest_io import parse_manifest
from blastscope.runtime.bundle.signature import check_signature, signed_digests
from blastscope.runtime.bundle.trusted_keys import distrust_key, make_key, required_keys, trust_key, trusted_keys
from blastscope.runtime.errors import BundleError, DataError, SignatureError, UsageError
from blastscope.runtime.io.hashing import bytes_sha256

if TYPE_CHECKING:
    from conftest import TinyBundle

pytest.importorskip("model_signing", reason="model-signing is not installed")
from model_signing import hashing, signing, verifying


class Signed:
    """A signed bundle, its two keys, and another's public key."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder = folder / "c7"
        shutil.copytree(made, self.folder)
        self.key, self.public = make_key(folder / "lab.pem")
        self.stranger = make_key(folder / "stranger.pem")[1]
        self.signature = sign_bundle(read_bundle(self.folder), self.key, signature_path(self.folder))


@pytest.fixture
def signed(tiny_bundle: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed"), tiny_bundle.make())


def test_a_signed_bundle_opens_with_the_key_that_signed(signed: Signed, tiny_bundle: TinyBundle) -> None:
    assert signed.signature == signed.folder.with_name("c7.sig")
    with blastscope.open_bundle(signed.folder, require_signature=signed.public) as scope:
        assert scope.classify(tiny_bundle.cell()).label in ("hem", "all")
        scope.reopen()
    with blastscope.open_bundle(signed.folder, require_signature=[signed.stranger, str(signed.public)]) as scope:
        assert scope.bundle.digest == signed_digests(signed.signature.read_bytes())["manifest.json"]
    with pytest.raises(SignatureError, match=r"isn't signed by a key that is required \('stranger.pub': key mismatch"):
        blastscope.open_bundle(signed.folder, require_signature=signed.stranger)


def test_the_tool_of_openssf_verifies_our_signature_and_we_its_own(signed: Signed) -> None:
    tool = [sys.executable, "-m", "model_signing", "verify", "key", str(signed.folder), "--signature", str(signed.signature)]
    assert subprocess.run([*tool, "--public_key", str(signed.public)], check=False).returncode == 0
    verifying.Config().use_elliptic_key_verifier(public_key=signed.public).verify(signed.folder, signed.signature)
    with pytest.raises(ValueError, match="Key mismatch"):
        verifying.Config().use_elliptic_key_verifier(public_key=signed.stranger).verify(signed.folder, signed.signature)
    signed.signature.unlink()
    signing.Config().use_elliptic_key_signer(private_key=signed.key).sign(signed.folder, signed.signature)
    assert read_signed_bundle(signed.folder, signed.public).manifest.name == "tiny"


def test_every_single_bit_of_the_manifest_is_covered(signed: Signed) -> None:
    """Those that make another manifest, which would open under another digest, are refused for their signature."""
    file = signed.folder / "manifest.json"
    data, good = file.read_bytes(), read_bundle(signed.folder)
    keys, opened = [signed.public], 0
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            manifest = parse_manifest(bytes(changed), signed.folder)
        except BundleError:
            continue  # no opening gets as far as the signature
        opened += 1
        other = type(good)(good.path, manifest, bytes_sha256(bytes(changed)))
        with pytest.raises(SignatureError, match="is the signature of another bundle"):
            check_signature(other, signed.folder, keys)
    assert opened > 100  # the law is about something
    assert check_signature(good, signed.folder, keys) == signed.public


def test_a_flipped_bit_of_the_manifest_that_opens_unsigned_is_refused(signed: Signed) -> None:
    file = signed.folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"linear"', b'"lineas"'))
    assert read_bundle(signed.folder).manifest.backbone == "lineas"
    with pytest.raises(SignatureError, match="another bundle"):
        blastscope.open_bundle(signed.folder, require_signature=signed.public)


def test_no_byte_of_a_file_can_change_nor_a_file_be_added(signed: Signed) -> None:
    graph = signed.folder / "fp32" / "ensemble.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError):
        read_signed_bundle(signed.folder, signed.public)
    graph.write_bytes(data)
    (signed.folder / ".gitignore").write_text("stowaway")
    with pytest.raises(BundleError, match="doesn't list"):
        read_signed_bundle(signed.folder, signed.public)


@given(place=st.floats(0, 1), bit=st.integers(0, 7))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_bit_of_a_packed_bundle_is_covered(signed: Signed, place: float, bit: int) -> None:
    packed = signed.folder.with_suffix(".zip")
    data = bytearray(pack(read_bundle(signed.folder), packed).read_bytes())
    assert signature_path(packed) == signed.signature
    data[min(int(place * len(data)), len(data) - 1)] ^= 1 << bit
    packed.write_bytes(data)
    with pytest.raises(BundleError):
        read_signed_bundle(packed, signed.public, cache_dir=signed.folder.parent / "cache")


def test_what_a_zip_holds_beside_its_files_is_covered_too(signed: Signed) -> None:
    packed = pack(read_bundle(signed.folder), signed.folder.with_suffix(".zip"))
    cache = signed.folder.parent / "cache"
    assert read_signed_bundle(packed, signed.public, cache_dir=cache).manifest.name == "tiny"
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"a word"
    assert read_bundle(packed, cache_dir=cache).manifest.name == "tiny"
    with pytest.raises(SignatureError, match="pack the bundle anew"):
        read_signed_bundle(packed, signed.public, cache_dir=cache)


def test_a_signature_that_covers_the_files_but_not_the_manifest_fails(signed: Signed) -> None:
    """As of a signer who leaves files out, which OpenSSF's library allows."""
    part = hashing.Config().set_ignored_paths(paths=["manifest.json"])
    config = signing.Config().use_elliptic_key_signer(private_key=signed.key).set_hashing_config(part)
    config.sign(signed.folder, signed.signature)
    verifying.Config().use_elliptic_key_verifier(public_key=signed.public).verify(signed.folder, signed.signature)
    with pytest.raises(SignatureError, match="another bundle"):
        read_signed_bundle(signed.folder, signed.public)


def test_a_payload_under_a_second_name_decides_nothing(signed: Signed) -> None:
    """The library takes `dsse_envelope` for `dsseEnvelope`: a true envelope there must not vouch for a false one here."""
    found = json.loads(signed.signature.read_bytes())
    statement = json.loads(base64.b64decode(found["dsseEnvelope"]["payload"]))
    file = signed.folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"linear"', b'"lineas"'))
    for resource in statement["predicate"]["resources"]:
        if resource["name"] == "manifest.json":
            resource["digest"] = bytes_sha256(file.read_bytes())
    false = {**found["dsseEnvelope"], "payload": base64.b64encode(json.dumps(statement).encode()).decode()}
    for order in ("dsseEnvelope", "dsse_envelope"), ("dsse_envelope", "dsseEnvelope"):
        forged = {name: {"dsseEnvelope": false, "dsse_envelope": found["dsseEnvelope"]}[name] for name in order}
        signed.signature.write_text(json.dumps({**found, **forged}))
        with pytest.raises(SignatureError):
            read_signed_bundle(signed.folder, signed.public)


@given(place=st.floats(0, 1), byte=st.integers(0, 255))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_signature_vouches_for_nothing_else(signed: Signed, place: float, byte: int) -> None:
    data = bytearray(signed.folder.with_name("c7.sig").read_bytes())
    data[min(int(place * len(data)), len(data) - 1)] = byte
    copy = signed.folder.with_name("copy")
    if not copy.exists():
        shutil.copytree(signed.folder, copy)
    copy.with_name("copy.sig").write_bytes(data)
    with suppress(SignatureError):
        assert read_signed_bundle(copy, signed.public).digest == read_bundle(signed.folder).digest


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"dsseEnvelope": 3}', b"[" * 100_000, b" " * (1 << 21)])
def test_what_is_no_signature_is_refused(signed: Signed, content: bytes) -> None:
    signed.signature.write_bytes(content)
    with pytest.raises(SignatureError, match="no signature"):
        read_signed_bundle(signed.folder, signed.public)


def test_a_bundle_without_a_signature_says_which_file_is_missing(signed: Signed) -> None:
    signed.signature.unlink()
    with pytest.raises(SignatureError, match=r"is not signed: '.*c7.sig' can't be read, no such file"):
        read_signed_bundle(signed.folder, signed.public)


@pytest.mark.parametrize("required", ["", [], [""], 3, [None]])
def test_a_requirement_that_names_no_key_is_refused(required: object) -> None:
    with pytest.raises((UsageError, TypeError)):
        required_keys(required)  # type: ignore[arg-type]


def test_what_is_no_key_is_named_with_its_file(signed: Signed, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pub"
    wrong.write_text("no key")
    with pytest.raises(DataError, match=r"wrong\.pub': is no public key in PEM"):
        read_signed_bundle(signed.folder, wrong)
    with pytest.raises(DataError, match=r"wrong\.pub': is no private key in PEM"):
        sign_bundle(read_bundle(signed.folder), wrong, tmp_path / "c7.sig")
    with pytest.raises(DataError, match=r"missing\.pub': can't be read"):
        read_signed_bundle(signed.folder, tmp_path / "missing.pub")
    with pytest.raises(DataError, match="is no public key in PEM"):
        trust_key(wrong, folder=tmp_path / "keys")


def test_a_key_is_trusted_by_name_until_it_is_removed(signed: Signed, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert trusted_keys(folder) == []
    kept = trust_key(signed.public, folder=folder)
    assert trust_key(signed.public, folder=folder) == kept == folder / "lab.pub"
    assert trusted_keys(folder) == [kept]
    with pytest.raises(DataError, match="is another key of this name"):
        trust_key(signed.stranger, "lab", folder=folder)
    with pytest.raises(UsageError, match="can't be a key's name"):
        trust_key(signed.public, "../lab", folder=folder)
    kept.chmod(0o666)
    with pytest.raises(DataError, match="may be written by others"):
        trusted_keys(folder)
    assert distrust_key("lab", folder) == kept
    with pytest.raises(UsageError, match="no trusted key is named 'lab'; there are: none"):
        distrust_key("lab", folder)


def test_a_key_is_made_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    private, public = make_key(tmp_path / "lab.pem")
    assert private.stat().st_mode & 0o777 == 0o600
    checked = subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout"], capture_output=True, text=True, check=True)
    assert checked.stdout == public.read_text()
    with pytest.raises(UsageError, match="never overwritten"):
        make_key(private)


def test_the_command_line_signs_trusts_and_requires(signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == code, done.stderr
        return done.stderr if code else done.stdout.strip()

    public = run("trust", "new", tmp_path / "mine.pem")
    signed.signature.unlink()
    told = run("inspect", signed.folder, "--require-signature", "trusted", code=3)
    assert "no key is trusted: add one with 'blastscope trust add'" in told
    assert run("sign", signed.folder, "--key", tmp_path / "mine.pem") == str(signed.signature)
    assert Path(run("trust", "add", public)).parent == tmp_path / "config" / "blastscope" / "trusted-keys"
    assert [row["name"] for row in json.loads(run("trust", "list", "--json"))] == ["mine"]
    assert "tiny" in run("inspect", signed.folder, "--require-signature", "trusted")
    assert "is required" in run("inspect", signed.folder, "--require-signature", signed.stranger, code=3)
    assert "no trusted key is named 'other'; there are: mine" in run("trust", "remove", "other", code=2)
    run("trust", "remove", "mine")
    assert run("trust", "list") == ""
