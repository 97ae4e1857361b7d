"""The names of keys and values in manifests of formats 1.0 to 1.2, which format 1.3 replaced by the field's terms."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

SINCE = 3  # minor format of the present names
RATES = {"flips": "flip_rate", "flips_at_most": "max_flip_rate", "patient_flips": "patient_flip_rate"}
GATE_KEYS = {**RATES, "f1_loss": "f1_drop_points", "f1_loss_at_most": "max_f1_drop_points"}
CASCADE_KEYS = {**RATES, "flips_upper": "flip_rate_upper"}
GATES = {"held": "passed", "waived: benchmark": "waived"}
MODELS = {"fused": "ensemble"}


def with_present_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a manifest of format 1.0 to 1.2 under the names of format 1.3.

    Parameters
    ----------
    table : mapping
        The JSON as it was read. Values of other types than the format's are left to the model that checks them.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        It has a name of format 1.3, which its own format doesn't have.
    """
    return _renamed(table, back=False)


def with_former_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a manifest under the names of formats 1.0 to 1.2, for readers of these.

    Parameters
    ----------
    table : mapping
        The JSON under the names of format 1.3.

    Returns
    -------
    dict
    """
    return _renamed(table, back=True)


def _renamed(table: Mapping[str, Any], *, back: bool) -> dict[str, Any]:
    found = copy.deepcopy(dict(table))
    _rename_value(found, "gate", GATES, back=back)
    _rename_keys(found, "cascade", CASCADE_KEYS, back=back)
    graphs = found.get("graphs")
    for graph in graphs if isinstance(graphs, list) else ():
        if isinstance(graph, dict):
            _rename_value(graph, "models", MODELS, back=back)
            _rename_keys(graph, "gate", GATE_KEYS, back=back)
    return found


def _rename_value(table: dict[str, Any], key: str, names: Mapping[str, str], *, back: bool) -> None:
    value = table.get(key)
    if isinstance(value, str):
        table[key] = _names(names, back=back).get(value, value)
        if not back and value in names.values():
            raise ValueError(f"{key}: '{value}' is a name since format 1.{SINCE}")


def _rename_keys(table: dict[str, Any], key: str, names: Mapping[str, str], *, back: bool) -> None:
    record = table.get(key)
    if not isinstance(record, dict):
        return
    if not back and (late := sorted(set(record) & set(names.values()))):
        raise ValueError(f"{key}: '{late[0]}' is a key since format 1.{SINCE}")
    table[key] = {_names(names, back=back).get(name, name): value for name, value in record.items()}


def _names(names: Mapping[str, str], *, back: bool) -> Mapping[str, str]:
    return {new: old for old, new in names.items()} if back else names
