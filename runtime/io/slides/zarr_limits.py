"""A Zarr's files and codecs with limits: a file that is none is refused, and no chunk unfolds to more than its shape.

zarr opens whatever stands in a chunk's place, and its codecs allocate what a chunk's own header asks for.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import math
import stat
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import zarr
from numcodecs.abc import Codec as Compressor
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec
from zarr.storage import LocalStore

from blastscope.runtime.io.slides.budget import PIECE_BYTES
from blastscope.runtime.io.slides.container import ZARR_METADATA
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Refusal

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype

MOST_METADATA = 1 << 24  # bytes of a description
SLACK = 1 << 16  # bytes by which what one codec hands to the next may be larger than the chunk
ZSTD_FRAME, ZSTD_SKIPPED = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
ZSTD_BLOCK = 1 << 17  # bytes that one block unfolds to at most
ZSTD_RAW, ZSTD_REPEATED = 0, 1  # blocks that say to how many


def _refuse(detail: str) -> ReadError:
    return ReadError(Refusal("undecodable", detail))


class CheckedStore(LocalStore):
    """The files of a folder, to be read only."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """See `zarr.abc.store.Store`. Raises `ReadError` for what is no file, such as a pipe, and for one that is too large."""
        try:
            status = (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise _refuse(f"'{key}' in the Zarr is not a file")
        most = MOST_METADATA if key.rpartition("/")[2] in ZARR_METADATA else PIECE_BYTES
        if byte_range is None and status.st_size > most:
            raise ReadError(Refusal("bomb", f"'{key}' in the Zarr holds {status.st_size} bytes, more than {most}"))
        return await super().get(key, prototype, byte_range)


def limit_chunks(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, whose chunks are refused where they would unfold to more than their shape. Raises `ReadError`."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 3:
        metadata = replace(metadata, codecs=_checked_codecs(metadata.codecs))
    elif metadata.filters:
        raise _refuse(f"chunks with the filter '{metadata.filters[0].codec_id}' aren't read: save the image without")
    elif metadata.compressor is not None:
        most = math.prod(array.chunks) * array.dtype.itemsize
        metadata = replace(metadata, compressor=_CheckedCompressor(metadata.compressor, most))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def _checked_codecs(codecs: Sequence[Codec]) -> tuple[Codec, ...]:
    return tuple(map(_checked_codec, codecs))


def _checked_codec(codec: Codec) -> Codec:
    if isinstance(codec, BytesCodec | Crc32cCodec | TransposeCodec):
        return codec
    if isinstance(codec, ShardingCodec):
        if not all(isinstance(one, BytesCodec | Crc32cCodec) for one in codec.index_codecs):
            raise _refuse("shards whose index is compressed aren't read: save the image without")
        return replace(codec, codecs=_checked_codecs(codec.codecs))
    name = _known(str(codec.to_dict().get("name")))
    assert isinstance(codec, BytesBytesCodec)
    return _CheckedCodec(codec, name)


class _CheckedCompressor(Compressor):  # type: ignore[misc]  # numcodecs has no types
    """A compressor of Zarr 2, whose chunks all have one size."""

    codec_id = "limit_chunks"

    def __init__(self, inner: Any, most: int) -> None:
        self._inner, self._most, self._name = inner, most, _known(str(inner.codec_id))

    def decode(self, buf: Any, out: Any = None) -> Any:
        """See `numcodecs.abc.Codec`."""
        return _unpack(self._name, memoryview(buf).cast("B"), self._most, self._inner.decode)

    def encode(self, buf: Any) -> Any:
        """See `numcodecs.abc.Codec`."""
        return self._inner.encode(buf)

    def get_config(self) -> dict[str, Any]:
        """See `numcodecs.abc.Codec`."""
        return dict(self._inner.get_config())


@dataclass(frozen=True)
class _CheckedCodec(BytesBytesCodec):
    """A compressor of Zarr 3, perhaps inside of a shard.

    Attributes
    ----------
    inner : BytesBytesCodec
        zarr's own.
    name : str
        As the metadata calls it.
    """

    inner: BytesBytesCodec
    name: str
    is_fixed_size = False

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        most = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize + SLACK
        data = memoryview(chunk_bytes.to_bytes())
        if self.name in STREAMS:
            return chunk_spec.prototype.buffer.from_bytes(await asyncio.to_thread(_unpack, self.name, data, most, bytes))
        _unpack(self.name, data, most, bytes)
        return await self.inner._decode_single(chunk_bytes, chunk_spec)

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """See `zarr.abc.codec.Codec`."""
        return replace(self, inner=self.inner.evolve_from_array_spec(array_spec))

    def to_dict(self) -> dict[str, Any]:
        """See `zarr.abc.codec.Codec`."""
        return dict(self.inner.to_dict())

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """See `zarr.abc.codec.Codec`."""
        return self.inner.compute_encoded_size(input_byte_length, chunk_spec)


def _known(name: str) -> str:
    if name not in STREAMS and name not in DECLARED:
        known = ", ".join(sorted((*STREAMS, *DECLARED)))
        raise _refuse(f"chunks compressed as '{name}' aren't read: save the image with one of {known}")
    return name


def _unpack(name: str, data: memoryview, most: int, decode: Callable[[Any], Any]) -> Any:
    """What the chunk `data` holds: `decode` of it where its header says how much that is. Raises `ReadError` beyond `most`."""
    if name in STREAMS:
        return _from_stream(STREAMS[name], bytes(data), most)
    try:
        said = DECLARED[name](data)
    except IndexError as error:
        raise _refuse("a chunk of the Zarr is truncated") from error
    if said > most:
        raise ReadError(Refusal("bomb", f"a chunk of the Zarr says that it holds {said} bytes, where {most} belong"))
    return decode(data)


class _Decompressor(Protocol):
    """As zlib, bz2 and lzma have them, apart from what zlib calls otherwise."""

    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _from_stream(start: Callable[[], _Decompressor], data: bytes, most: int) -> bytes:
    """What `data` unfolds to, in one stream or in several one after the other; never much more than `most` bytes of it."""
    unfolded, size = [], 0
    while data:
        stream = start()
        unfolded.append(stream.decompress(data, most + 1 - size))
        size += len(unfolded[-1])
        if size > most:
            raise ReadError(Refusal("bomb", f"a chunk of the Zarr unfolds to more than the {most} bytes that belong there"))
        if not stream.eof:
            raise _refuse("a chunk of the Zarr is truncated")
        data = stream.unused_data
    return b"".join(unfolded)


def _number(data: memoryview, at: int, count: int) -> int:
    if at + count > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + count], "little")


def _said_by_zstd(data: memoryview) -> int:
    """As its frames say it. Of those that don't only the blocks tell, and that at most: they count where it is too much."""
    at = said = 0
    while at < len(data):
        magic = _number(data, at, 4)
        if magic in ZSTD_SKIPPED:
            at += 8 + _number(data, at + 4, 4)
            continue
        if magic != ZSTD_FRAME:
            raise IndexError(at)
        flags = _number(data, at + 4, 1)
        alone = bool(flags & 0x20)
        at += 5 + (not alone) + (0, 1, 2, 4)[flags & 3]  # the window's size, the dictionary's number
        length = (int(alone), 2, 4, 8)[flags >> 6]
        content = _number(data, at, length) + 256 * (length == 2)
        at += length
        held, last = 0, False
        while not last:
            block = _number(data, at, 3)
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            held += size if kind in (ZSTD_RAW, ZSTD_REPEATED) else ZSTD_BLOCK
            at += 3 + (1 if kind == ZSTD_REPEATED else size)
        at += 4 * bool(flags & 4)  # a checksum
        said += content if length else held * (held > PIECE_BYTES)
    return said


STREAMS: dict[str, Callable[[], Any]] = {
    "bz2": bz2.BZ2Decompressor,
    "gzip": lambda: zlib.decompressobj(31),
    "lzma": lambda: lzma.LZMADecompressor(memlimit=PIECE_BYTES),
    "zlib": zlib.decompressobj,
}
DECLARED: dict[str, Callable[[memoryview], int]] = {
    "blosc": lambda data: _number(data, 4, 4),
    "lz4": lambda data: _number(data, 0, 4),
    "zstd": _said_by_zstd,
}
