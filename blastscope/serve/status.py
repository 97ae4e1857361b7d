"""`RequestError`: what a client did wrong or met, with the status that REST and gRPC give it."""

from __future__ import annotations

from enum import Enum


class Code(Enum):
    """Why a request got no answer: the HTTP status, and the name of gRPC's status."""

    INVALID = (400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = (401, "UNAUTHENTICATED")
    FORBIDDEN = (403, "PERMISSION_DENIED")
    NOT_FOUND = (404, "NOT_FOUND")
    TOO_SLOW = (408, "DEADLINE_EXCEEDED")  # the client, in sending
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    UNSUPPORTED = (415, "UNIMPLEMENTED")
    BUSY = (429, "RESOURCE_EXHAUSTED")
    INTERNAL = (500, "INTERNAL")
    UNAVAILABLE = (503, "UNAVAILABLE")
    DEADLINE = (504, "DEADLINE_EXCEEDED")

    @property
    def http(self) -> int:
        """The status over HTTP."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """The name of the status over gRPC."""
        return self.value[1]


class RequestError(Exception):
    """A request that gets no answer.

    Attributes
    ----------
    code : Code
        The reason for programs.
    detail : str
        The reason for people: what is wrong, and the remedy.
    """

    def __init__(self, code: Code, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(detail)


class ClientGone(Exception):
    """The client went away before it got its answer."""


def invalid(detail: str) -> RequestError:
    """The error of a request that breaks the protocol or the model's contract."""
    return RequestError(Code.INVALID, detail)
