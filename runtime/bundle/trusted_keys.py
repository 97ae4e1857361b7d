"""The public keys that a user trusts, and new keys for signing.

Each key is a file `NAME.pub` in a folder of the user's configuration that nobody else may write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from blastscope.runtime.errors import DataError, MissingLibrary, UsageError
from blastscope.runtime.io.atomic import check_place, write_content
from blastscope.runtime.io.own_files import Unusable, make_private_folder, read_own
from blastscope.runtime.io.paths import default_config_dir

KEY_LIMIT = 1 << 16  # bytes
TRUSTED: Literal["trusted"] = "trusted"  # in place of a key's path: any of the user's
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

RequiredSignature = Path | str | Iterable[Path | str]


def trusted_keys_dir() -> Path:
    """The folder of the user's trusted keys.

    Returns
    -------
    Path
        It need not exist.
    """
    return default_config_dir() / "trusted-keys"


def trusted_keys(folder: Path | None = None) -> list[Path]:
    """The keys that the user trusts, by name.

    Parameters
    ----------
    folder : Path, optional
        By default `trusted_keys_dir()`.

    Returns
    -------
    list of Path
        None where there is no folder.

    Raises
    ------
    DataError
        A key belongs to somebody else, or others may write it.
    """
    found = sorted((folder or trusted_keys_dir()).glob("*.pub"))
    for key in found:
        try:
            read_own(key, KEY_LIMIT)
        except Unusable as error:
            raise DataError(key, f"is no key to trust: {error}") from error
    return found


def trust_key(key: Path | str, name: str | None = None, folder: Path | None = None) -> Path:
    """Adds a public key to the trusted ones, and returns its place there.

    Parameters
    ----------
    key : Path or str
        Public key in PEM, on the curve P-256, P-384 or P-521.
    name : str, optional
        Letters, digits and `. _ @ -`; by default the file's name.
    folder : Path, optional
        By default `trusted_keys_dir()`.

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        A name that can't be one.
    DataError
        The file is no such key, or another key has the name.
    MissingLibrary
        'cryptography' is not installed.
    """
    key, folder = Path(key), folder or trusted_keys_dir()
    name = key.stem if name is None else name
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} can't be a key's name: letters, digits and . _ @ - only, and at most 64")
    content, place = public_key_text(key), folder / f"{name}.pub"
    if place.exists() and place.read_text(encoding="utf-8") != content:
        raise DataError(place, "is another key of this name: remove it with 'blastscope trust remove', or give --name")
    make_private_folder(folder)
    write_content(place, content, private=True)
    return place


def distrust_key(name: str, folder: Path | None = None) -> Path:
    """Removes a key from the trusted ones, and returns where it was.

    Parameters
    ----------
    name : str
        As `trusted_keys` gives it, without `.pub`.
    folder : Path, optional
        By default `trusted_keys_dir()`.

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        No trusted key has the name.
    """
    known = {key.stem: key for key in (folder or trusted_keys_dir()).glob("*.pub")}
    if name not in known:
        raise UsageError(f"no trusted key is named '{name}'; there are: {', '.join(sorted(known)) or 'none'}")
    known[name].unlink()
    return known[name]


def required_keys(required: RequiredSignature) -> list[Path]:
    """The public keys that `require_signature` names, one of which must have signed.

    Parameters
    ----------
    required : Path, str or iterable of these
        Paths of keys. The word 'trusted' stands for those of `trusted_keys`.

    Returns
    -------
    list of Path

    Raises
    ------
    UsageError
        It names nothing, or something that is no path.
    DataError
        A trusted key may be written by others.
    """
    words = [required] if isinstance(required, Path | str) else list(required) if isinstance(required, Iterable) else []
    if not words or not all(isinstance(word, Path | str) and str(word) for word in words):
        raise UsageError(f"require_signature is {required!r}: it must name public keys, or be 'trusted'")
    keys: list[Path] = []
    for word in words:
        keys += trusted_keys() if word == TRUSTED else [Path(word)]
    return keys


def make_key(path: Path | str) -> tuple[Path, Path]:
    """Makes a new key on P-256 for signing bundles, and returns the paths of its two halves.

    Parameters
    ----------
    path : Path or str
        The private half to write, such as `lab.pem`: in PEM, readable by its owner alone. The public half, `lab.pub`, lies
        beside it.

    Returns
    -------
    Path, Path
        Private and public.

    Raises
    ------
    UsageError
        One of the files is there already: a key is never overwritten.
    DataError
        `path` is a folder, or can't be written.
    MissingLibrary
        'cryptography' is not installed.
    WriteError
        They can't be written.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = Path(path)
    check_place(path)
    public = path.with_suffix(".pub")
    if path == public:
        raise UsageError(f"'{path}' is the name of the public half: name the private one, '{path.with_suffix('.pem')}'")
    for file in (path, public):
        if file.exists():
            raise UsageError(f"'{file}' is there already, and a key is never overwritten: name another file")
        check_place(file)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_content(path, secret, private=True)
    write_content(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path, public


def public_key_text(key: Path) -> str:
    """A public key in PEM, as it is written by every program.

    Parameters
    ----------
    key : Path
        Its file.

    Returns
    -------
    str

    Raises
    ------
    DataError
        It is no public key on P-256, P-384 or P-521.
    MissingLibrary
        'cryptography' is not installed.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        with key.open("rb") as stream:
            loaded = serialization.load_pem_public_key(stream.read(KEY_LIMIT))
    except OSError as error:
        raise DataError(key, f"can't be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(key, "is no public key in PEM") from error
    if not isinstance(loaded, ec.EllipticCurvePublicKey) or loaded.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise DataError(key, "is no key on P-256, P-384 or P-521, which alone can sign bundles")
    text = loaded.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return text.decode("ascii")


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingLibrary("cryptography", "signing") from error
