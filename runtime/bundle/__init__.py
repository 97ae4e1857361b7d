"""Bundles: networks with everything needed to trust them, read, checked and packed.

`read_bundle` gives a verified `Bundle`; `write_bundle`, `update_bundle` and `pack` make one; `Golden`, `read_golden` and
`check_golden` hold an engine to the trained networks' answers. The rules stand in runtime/FORMAT.md.
"""

from blastscope.runtime.bundle.bundle import Bundle, read_bundle
from blastscope.runtime.bundle.digest import describe_file, file_sha256
from blastscope.runtime.bundle.golden import Golden, GoldenCheck, check_golden, golden_bytes, read_golden
from blastscope.runtime.bundle.manifest import FORMAT, Manifest
from blastscope.runtime.bundle.pack import pack, update_bundle, write_bundle

__all__ = [
    "FORMAT",
    "Bundle",
    "Golden",
    "GoldenCheck",
    "Manifest",
    "check_golden",
    "describe_file",
    "file_sha256",
    "golden_bytes",
    "pack",
    "read_bundle",
    "read_golden",
    "update_bundle",
    "write_bundle",
]
