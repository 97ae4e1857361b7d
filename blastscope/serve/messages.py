"""The gRPC messages of the Open Inference Protocol, as classes made at run time from inference.binpb.

The compiled description is read into a pool of its own: every version of protobuf that is supported takes it, and another
client of the protocol in the same process can bring messages of the same names. `python -m blastscope.serve.messages` compiles
it anew.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
COMPILED = "inference.binpb"


@cache
def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    described = descriptor_pb2.FileDescriptorSet.FromString((files(__package__) / COMPILED).read_bytes())
    for file in described.file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """The class of a message.

    Parameters
    ----------
    name : str
        Its name in inference.proto, without the package.
    """
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, tuple[Any, Any]]:
    """The classes of request and response of each method of the service, by the method's name."""
    described = _pool().FindServiceByName(SERVICE)
    return {method.name: (message(method.input_type.name), message(method.output_type.name)) for method in described.methods}


def compile_messages() -> bytes:
    """What protoc, of the package grpcio-tools, makes of inference.proto: a serialised FileDescriptorSet."""
    from grpc_tools import protoc

    source = Path(str(files(__package__) / "inference.proto"))
    with TemporaryDirectory() as folder:
        compiled = Path(folder, COMPILED)
        words = ["protoc", f"--proto_path={source.parent}", f"--descriptor_set_out={compiled}", source.name]
        if protoc.main(words) != 0:
            raise RuntimeError(f"protoc refuses '{source}'")
        return compiled.read_bytes()


if __name__ == "__main__":
    from blastscope.runtime.io.atomic import write_content

    write_content(Path(str(files("blastscope.serve") / COMPILED)), compile_messages())
