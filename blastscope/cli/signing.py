"""`blastscope sign` and `blastscope trust`: signatures of bundles, and the keys that they are checked with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blastscope.cli.options import Json, bundle_at
from blastscope.cli.terminal import echo, say
from blastscope.runtime.io.printable import printable


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder or zip.")],
    *,
    key: Annotated[Path, typer.Option(help="Private key in PEM, without a password: see `blastscope trust new`.")],
    out: Annotated[Path | None, typer.Option(help="The signature to write. Default: beside the bundle, NAME.sig.")] = None,
) -> None:
    """Sign a bundle, and print where the signature lies. It holds for the folder and for the zip that `pack` makes of it."""
    from blastscope.runtime.bundle import sign_bundle, signature_path

    echo(sign_bundle(bundle_at(bundle), key, out or signature_path(bundle)))


trust = typer.Typer(no_args_is_help=True, help="Keys of people whose bundles are trusted, and new keys for signing.")


@trust.command()
def add(
    key: Annotated[Path, typer.Argument(help="Public key in PEM.")],
    *,
    name: Annotated[str | None, typer.Option(help="What to call it. Default: the file's name.")] = None,
) -> None:
    """Trust a public key, and print where it is kept. Compare it with its owner's by another way than it came."""
    from blastscope.runtime.bundle.trusted_keys import trust_key

    echo(trust_key(key, name))


@trust.command(name="list")
def list_keys(*, as_json: Json = False) -> None:
    """Print the keys that are trusted, by name, with the SHA-256 of each key's file."""
    from blastscope.runtime.bundle.trusted_keys import trusted_keys
    from blastscope.runtime.io.hashing import file_sha256

    keys = {key: file_sha256(key) for key in trusted_keys()}
    if as_json:
        echo(json.dumps([{"name": key.stem, "path": str(key), "sha256": digest} for key, digest in keys.items()], indent=2))
        return
    for key, digest in keys.items():
        echo(f"{digest}  {printable(key.stem)}")


@trust.command()
def remove(name: Annotated[str, typer.Argument(help="As `list` prints it.")]) -> None:
    """Trust a key no longer, and print which."""
    from blastscope.runtime.bundle.trusted_keys import distrust_key

    echo(distrust_key(name))


@trust.command()
def new(
    path: Annotated[Path, typer.Argument(help="The private key to write, lab.pem; lab.pub lies beside it.")],
) -> None:
    """Make a key for signing, and print the path of its public half, which others trust. Keep the private one offline."""
    from blastscope.runtime.bundle.trusted_keys import make_key

    private, public = make_key(path)
    say(f"written: {private}, for you alone")
    echo(public)


VERBS = (sign,)
GROUPS = {"trust": trust}
