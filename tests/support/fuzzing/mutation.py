"""Changes valid inputs by chance: bits, numbers, lengths, pieces of other inputs. The same seed gives the same changes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

EXTREMES = (0, 1, 7, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
DIGITS = re.compile(rb"-?\d+(\.\d+)?")
WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b"4294967296",
    b"9223372036854775807",
    b"1.0e-320",
)
MOST_BYTES = 4 << 20


def mutate(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of `seeds` with one to eight changes, at most `MOST_BYTES` long.

    Parameters
    ----------
    seeds : sequence of bytes
        Valid inputs.
    chance : random.Random
        Decides.

    Returns
    -------
    bytes
    """
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        _CHANGES[chance.randrange(len(_CHANGES))](data, seeds, chance)
    return bytes(data[:MOST_BYTES])


def _flip(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[min(_place(data, chance), len(data) - 1)] ^= 1 << chance.randrange(8)


def _number(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    value = chance.choice(EXTREMES) & ((1 << 8 * size) - 1)
    start = _place(data, chance)
    data[start : start + size] = value.to_bytes(size, chance.choice(("little", "big")))


def _cut(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    start = _place(data, chance)
    del data[start : start + _length(chance)]


def _truncate(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _repeat(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    start = _place(data, chance)
    piece = bytes(data[start : start + _length(chance)])
    data[start:start] = piece * chance.choice((1, 2, 16))


def _splice(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(seeds)
    start, source = _place(data, chance), chance.randrange(len(other) + 1)
    size = _length(chance)
    data[start : start + size] = other[source : source + size]


def _noise(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    start = _place(data, chance)
    size = min(_length(chance), len(data) - start)
    data[start : start + size] = chance.randbytes(size)


def _word(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    """Replaces a number that is written in digits, as in JSON, TOML, CSV or a request."""
    start = _place(data, chance)
    found = DIGITS.search(data, start, start + 400)
    if found:
        data[found.start() : found.end()] = chance.choice(WORDS)


def _place(data: bytearray, chance: random.Random) -> int:
    """Where to change, the end included; headers, which decide most, as often as all the rest."""
    return chance.randrange((min(len(data), 600) if chance.random() < 0.5 else len(data)) + 1)


def _length(chance: random.Random) -> int:
    return chance.choice((1, 2, 4, 8, 32, 256, 4096))


_CHANGES = (_flip, _flip, _number, _number, _cut, _truncate, _repeat, _splice, _noise, _word)
