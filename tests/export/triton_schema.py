"""Makes triton_schema.json: the messages of Triton's model configuration that we write, from the wheel of its client.

Run by `make api-names`. The client itself can't be installed beside this project's libraries: it pins an older ml_dtypes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

SCHEMA = Path(__file__).with_suffix(".json")
WHEEL = "tritonclient==2.73.0"
KEPT = {
    *("ModelConfig", "ModelInput", "ModelOutput", "ModelTensorReshape", "ModelDynamicBatching", "ModelQueuePolicy"),
    *("ModelWarmup", "ModelParameter"),
}
PARTS = {"name", "backend", "max_batch_size", "input", "output", "dynamic_batching", "model_warmup", "parameters"}


def main() -> None:
    """Downloads the wheel and writes the schema."""
    with TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, WHEEL], check=True)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            source = archive.read("tritonclient/grpc/model_config_pb2.py").decode()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    schema = {"wheel": path.name, "sha256": digest, "file": json_format.MessageToDict(_pruned(_descriptor(source)))}
    SCHEMA.write_text(json.dumps(schema, separators=(",", ":")) + "\n", encoding="utf-8")


def _descriptor(source: str) -> FileDescriptorProto:
    """The one long bytes constant of the generated module, which is read and not run."""
    longest = max((node.value for node in ast.walk(ast.parse(source)) if _is_bytes(node)), key=len)
    return FileDescriptorProto.FromString(longest)


def _is_bytes(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bytes)


def _pruned(file: FileDescriptorProto) -> FileDescriptorProto:
    messages = [message for message in file.message_type if message.name in KEPT]
    del file.message_type[:]
    for message in messages:
        fields = [field for field in message.field if _is_kept(message, field.type_name) and _is_part(message, field.name)]
        del message.field[:]
        message.field.extend(fields)
        file.message_type.append(message)
    enums = [enum for enum in file.enum_type if enum.name == "DataType"]
    del file.enum_type[:]
    file.enum_type.extend(enums)
    return file


def _is_part(message: DescriptorProto, field: str) -> bool:
    return message.name != "ModelConfig" or field in PARTS


def _is_kept(message: DescriptorProto, kind: str) -> bool:
    steps = kind.removeprefix(".inference.").split(".")
    return not kind or steps[0] in {*KEPT, "DataType"} or steps[0] == message.name


if __name__ == "__main__":
    main()
