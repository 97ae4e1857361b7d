"""The golden set: a few crops with the trained networks' probabilities, which every engine must reproduce."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from blastscope.runtime.bundle.reader import Bundle
from blastscope.runtime.errors import BundleError
from blastscope.runtime.types import CLASSES, VOTERS

MAX_CROPS = 16
_SUM_TOLERANCE = 1e-4  # a float32 softmax of two is within 2e-7 of 1, one computed from bf16 logits in fp32 too
_HEADER_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """A few crops and the probabilities that the trained networks gave them.

    Attributes
    ----------
    crops : (n, S, S, 3) uint8 array, RGB
        1 to 16 crops.
    probabilities : (n, 3, 2) float32 array
        Of each voter (a, b, combined) and class (hem, all).
    novelty : (n,) float32 array, or None
        Distance from the cells of the training; None where the graphs don't measure it.

    Raises
    ------
    ValueError
        An array has another shape or dtype, a pair of probabilities lies outside 0 to 1 or doesn't sum to 1, or a novelty is
        negative or not a finite number.
    """

    crops: NDArray[np.uint8]  # (n, S, S, 3) RGB
    probabilities: NDArray[np.float32]  # (n, 3, 2)
    novelty: NDArray[np.float32] | None = None  # (n,); None: the graphs measure none

    def __post_init__(self) -> None:
        count = len(self.crops) if self.crops.ndim == 4 else 0
        if not 1 <= count <= MAX_CROPS or self.crops.dtype != np.uint8:
            raise ValueError(f"golden crops are {self.crops.dtype} {self.crops.shape}, not uint8 (1 to {MAX_CROPS}, S, S, 3)")
        if self.crops.shape[1] != self.crops.shape[2] or self.crops.shape[3] != 3:
            raise ValueError(f"golden crops are {self.crops.shape}, not (n, S, S, 3)")
        wanted = (count, len(VOTERS), len(CLASSES))
        if self.probabilities.dtype != np.float32 or self.probabilities.shape != wanted:
            found = f"{self.probabilities.dtype} {self.probabilities.shape}"
            raise ValueError(f"golden probabilities are {found}, not float32 {wanted}")
        inside = (self.probabilities >= 0) & (self.probabilities <= 1)  # False for NaN
        sums = self.probabilities.sum(axis=2, dtype=np.float64)
        if not inside.all() or np.abs(sums - 1).max() > _SUM_TOLERANCE:
            raise ValueError("golden probabilities are not probabilities: each pair lies within 0 to 1 and sums to 1")
        if self.novelty is not None:
            if self.novelty.dtype != np.float32 or self.novelty.shape != (count,):
                raise ValueError(f"golden novelty is {self.novelty.dtype} {self.novelty.shape}, not float32 ({count},)")
            if not (np.isfinite(self.novelty) & (self.novelty >= 0)).all():
                raise ValueError("golden novelty is not a distance: each is a number of at least 0")


def golden_bytes(golden: Golden) -> bytes:
    """The golden set as a safetensors file; the same bytes for the same arrays.

    Parameters
    ----------
    golden : Golden
        Crops and probabilities.

    Returns
    -------
    bytes
        To be written as the bundle's golden file.
    """
    arrays = {"crops": golden.crops, "probabilities": golden.probabilities}
    if golden.novelty is not None:
        arrays["novelty"] = golden.novelty
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def read_golden(bundle: Bundle) -> Golden:
    """The bundle's golden set, verified and in the shapes that its manifest says.

    Parameters
    ----------
    bundle : Bundle
        As `read_bundle` gives it.

    Returns
    -------
    Golden

    Raises
    ------
    BundleError
        The file is too large, is no safetensors file, or holds other arrays than the manifest says.
    DigestMismatch
        The file was changed since the bundle was read.
    """
    entry, side = bundle.manifest.golden, bundle.manifest.crop.side_px
    if entry.size > MAX_CROPS * (side * side * 3 + len(VOTERS) * len(CLASSES) * 4) + _HEADER_LIMIT:
        raise BundleError(bundle.path, f"{entry.file} is {entry.size} bytes, more than {MAX_CROPS} crops need")
    try:
        arrays = load(bundle.read(entry))
        wanted = {"crops", "probabilities", *(("novelty",) if bundle.manifest.measures_novelty else ())}
        if set(arrays) != wanted:
            raise ValueError(f"holds {sorted(arrays)}, not {', '.join(sorted(wanted))}")
        golden = Golden(arrays["crops"], arrays["probabilities"], arrays.get("novelty"))
        if golden.crops.shape[:2] != (entry.count, side):
            raise ValueError(f"crops are {golden.crops.shape}, manifest says ({entry.count}, {side}, {side}, 3)")
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(bundle.path, f"{entry.file}: {error}") from error
    return golden
