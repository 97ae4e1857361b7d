"""Bundles: networks with everything needed to trust them, read, checked and packed.

`read_bundle` gives a verified `Bundle`; `write_bundle`, `update_bundle` and `pack` make one; `sign_bundle` signs it, and
`read_signed_bundle` asks for the signature. `Golden` and `read_golden` give the trained networks' answers that an engine is
held to. The rules stand in runtime/FORMAT.md.
"""

from blastscope.runtime.bundle.archive import pack, update_bundle, write_bundle
from blastscope.runtime.bundle.golden import Golden, golden_bytes, read_golden
from blastscope.runtime.bundle.manifest import FORMAT, Manifest, describe_file
from blastscope.runtime.bundle.opening import read_bundle
from blastscope.runtime.bundle.reader import Bundle
from blastscope.runtime.bundle.signature import read_signed_bundle, sign_bundle, signature_path
from blastscope.runtime.io.hashing import file_sha256

__all__ = [
    "FORMAT",
    "Bundle",
    "Golden",
    "Manifest",
    "describe_file",
    "file_sha256",
    "golden_bytes",
    "pack",
    "read_bundle",
    "read_golden",
    "read_signed_bundle",
    "sign_bundle",
    "signature_path",
    "update_bundle",
    "write_bundle",
]
