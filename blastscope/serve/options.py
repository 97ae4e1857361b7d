"""`ServeOptions`: where and how a server listens, what it lets through, and how long it waits."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blastscope.runtime.errors import DataError, UsageError

LEAST_TOKEN = 16  # letters


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server lets through. Whatever is above gets the status that is named.

    Attributes
    ----------
    body_bytes : int
        Of a request: 413, RESOURCE_EXHAUSTED.
    pixels, images : int
        Of all images of a request together, and their number: the same.
    requests : int
        At work or waiting at the same time: 429, RESOURCE_EXHAUSTED.
    queue : int
        Images of a model that wait: the same.
    connections : int
        Of HTTP, at the same time: those above are closed.
    timeout_s : float
        From a request's first byte to its answer, where the client names no shorter time: 504, DEADLINE_EXCEEDED.
    receive_s : float
        In which a request must have come in whole: 408.
    drain_s : float
        For what is under way when the server is told to end.
    batch_delay_s : float
        For which an image waits for others to share a batch with, where the engine prefers batches.
    """

    body_bytes: int = 64 << 20
    pixels: int = 100_000_000
    images: int = 256
    requests: int = 256
    queue: int = 1024
    connections: int = 1024
    timeout_s: float = 30.0
    receive_s: float = 20.0
    drain_s: float = 30.0
    batch_delay_s: float = 0.002


@dataclass(frozen=True)
class ServeOptions:
    """How a server is to run.

    Attributes
    ----------
    bundles : mapping of str to Path or None
        Bundles by the name that they are served under; None is the shipped one. The first is the default.
    host, port, grpc_port : str, int, int or None
        The address, and the ports for REST and gRPC; 0 takes any free one, None leaves gRPC out.
    tokens : Tokens, optional
        Who may ask. Demanded where the address isn't loopback.
    certificate, key : Path, optional
        PEM files for TLS. Demanded where the address isn't loopback.
    audit_log, audit_rotate_bytes, audit_sync : Path or None, int, bool
        Folder of the audit log, see `AuditLog`.
    session : mapping
        Words of `open_bundle`.
    limits : Limits
        What it lets through.

    Raises
    ------
    UsageError
        A server that others can reach has no token or no TLS; a bundle's name can't stand in an address.
    """

    bundles: Mapping[str, Path | None]
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = 8081
    tokens: Tokens | None = None
    certificate: Path | None = None
    key: Path | None = None
    audit_log: Path | None = None
    audit_rotate_bytes: int = 64 << 20
    audit_sync: bool = False
    session: Mapping[str, object] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.bundles:
            raise UsageError("no bundle is named: there is nothing to serve")
        for name in self.bundles:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                raise UsageError(f"bundle name '{name}': letters, digits, '-' and '_' only, as it stands in addresses")
        if (self.certificate is None) != (self.key is None):
            raise UsageError("TLS takes a certificate and its key: name both files")
        if not self.loopback:
            for missing, words in ((self.tokens, "a token (--token-file)"), (self.certificate, "TLS (--tls-cert, --tls-key)")):
                if missing is None:
                    raise UsageError(f"'{self.host}' can be reached from other machines, and demands {words}")

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def tls(self) -> ssl.SSLContext | None:
        """TLS for a server, from version 1.2 on. Raises `DataError` for files that can't be used."""
        if self.certificate is None or self.key is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise DataError(self.certificate, f"with '{self.key}' it is no certificate with its key: {error}") from error
        return context


class Tokens:
    """Who may ask: the digest of each token, with the client's name for the audit log.

    Parameters
    ----------
    tokens : mapping of str to str
        Tokens by client.

    Raises
    ------
    UsageError
        A token has fewer than 16 letters, or there is none.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        if not tokens:
            raise UsageError("no token is given")
        for name, token in tokens.items():
            if len(token) < LEAST_TOKEN:
                raise UsageError(f"the token of '{name}' has {len(token)} letters, at least {LEAST_TOKEN} are wanted")
        self._digests = {name: _digest(token) for name, token in tokens.items()}

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """The tokens of a file: a line for each client, its name and its token; a token alone is that of 'client'."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(path, f"the tokens can't be read: {error}") from error
        tokens: dict[str, str] = {}
        for line in lines:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            name = words[0] if len(words) == 2 else "client"
            if len(words) > 2 or name in tokens:
                raise DataError(path, "a line must be a client's name and its token, each name once")
            tokens[name] = words[-1]
        return cls(tokens)

    def client(self, authorization: str) -> str | None:
        """The name of the client whose header is `Bearer TOKEN`; None for a stranger. Takes the same time for each token."""
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        matches = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        return matches[0] if matches and scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
