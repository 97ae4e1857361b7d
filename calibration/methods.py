"""Chooses the method of calibration by measurement: the recipe that moves the vote least on the search cells.

One thing is changed at a time: first the method, then whether biases are corrected, then whether channels are equalised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from blastscope.calibration.config import CalibrationConfig, Method
from blastscope.calibration.int8_file import plain
from blastscope.calibration.recipe import Recipe, Workshop
from blastscope.calibration.yardstick import Distance, Yardstick
from blastscope.runtime.record import Record


class MethodRow(Record):
    """One recipe, and how far its graph strays from the parent on the search cells."""

    recipe: Recipe
    distance: Distance
    chosen: bool


def choose_method(
    workshop: Workshop, yardstick: Yardstick, config: CalibrationConfig, tell: Callable[[str], None]
) -> tuple[Recipe, tuple[MethodRow, ...]]:
    """The recipe for the graph, and every recipe that was tried; where `config` names the method, that one untried."""
    first = plain(config)
    if config.method != "auto":
        return first, ()
    tried: dict[str, tuple[Recipe, Distance]] = {}

    def best_of(*recipes: Recipe) -> Recipe:
        for recipe in recipes:
            if recipe.name not in tried:
                tried[recipe.name] = recipe, yardstick.distance(workshop.build(recipe))
                tell(f"{recipe.name}: the vote drifts by {tried[recipe.name][1].drift:.4f}")
        return min(recipes, key=lambda recipe: tried[recipe.name][1].drift)

    best = best_of(*(first.model_copy(update={"method": method}) for method in get_args(Method)))
    if config.correct:
        best = best_of(best, best.model_copy(update={"corrected": False}))
    if config.equalise and workshop.can_equalise():
        best = best_of(best, best.model_copy(update={"equalised": True}))
        if best.equalised:  # other values, so another method may serve them best
            best = best_of(best, *(best.model_copy(update={"method": method}) for method in get_args(Method)))
    rows = tuple(MethodRow(recipe=recipe, distance=found, chosen=recipe == best) for recipe, found in tried.values())
    return best, rows
