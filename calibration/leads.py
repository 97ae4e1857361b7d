"""Which way a cell's vote leans and how clearly, from the three voters' probabilities: finer than the call itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.vote import TINY


def margins(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 3) ln p(all) - ln p(hem) of each voter."""
    safe = np.log(np.maximum(probabilities, TINY).astype(np.float64))
    margin: NDArray[np.float64] = safe[..., 1] - safe[..., 0]
    return margin


def leads(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) the strongest margin that says ALL less the strongest that says HEM: its sign is the call, its size how clear."""
    margin = margins(probabilities)
    lead: NDArray[np.float64] = margin.max(axis=1) + margin.min(axis=1)
    return lead


def leaning(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far the vote leans to ALL, (N,) from 0 to 1, through a half where the call turns: the logistic of the lead."""
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(leads(probabilities), -60, 60)))
    return found
