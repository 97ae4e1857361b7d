"""A model repository for OpenVINO Model Server: one bundle's fused ensemble as ONNX, and the server's configuration.

The server gets crops and gives the networks' answers; cropping stays with the client (blastscope.runtime.crop), by the
specification in the file beside the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blastscope.export.triton import MODEL, check_served, fused_graph, served_facts
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.atomic import write_content, write_folder
from blastscope.runtime.types import Precision

CONFIG = "config.json"
FACTS = "bundle.json"  # beside the folders of versions, where the server looks for nothing
# What the golden set and the gate hold for: left to itself OpenVINO computes in bf16 wherever the CPU has it.
PLUGIN_CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}


def write_model_server_repository(bundle: Bundle, out: Path, *, precision: Precision | None = None, model: str = MODEL) -> Path:
    """Writes the folder of one model into the repository `out`, names it in the server's configuration there, and returns it.

    Parameters
    ----------
    bundle : Bundle
        As it was read.
    out : Path
        The repository. Other models there, and what its config.json says of them, are left alone.
    precision : {'fp32', 'fp16', 'int8'}, optional
        Of the graph; by default fp16 where the bundle has it. It is computed in float32, an int8 graph's layers in int8.
    model : str
        What clients call it.

    Returns
    -------
    Path
        `out`/`model`.

    Raises
    ------
    UsageError
        The bundle has no such graph, or the name can't be one.
    UngatedBundle
        The bundle's calls mean nothing.
    DataError
        `out` holds a config.json that is none of the server's, or that can't be read or written.
    """
    check_served(bundle, model)
    entry = fused_graph(bundle, precision)
    config = _with_model(_read_config(out / CONFIG), model_config(bundle, model))
    content, facts = bundle.read(entry), json.dumps(served_facts(bundle, entry), indent=2)

    def fill(fresh: Path) -> None:
        (fresh / "1").mkdir()
        (fresh / "1" / "model.onnx").write_bytes(content)
        (fresh / FACTS).write_text(facts + "\n", encoding="utf-8")

    place = out / model
    write_folder(place, fill)
    write_content(out / CONFIG, json.dumps(config, indent=2) + "\n")
    return place


def model_config(bundle: Bundle, model: str) -> dict[str, Any]:
    """What the server's configuration says of the model."""
    side = bundle.manifest.crop.side_px
    return {
        "name": model,
        "base_path": model,  # from the configuration's own folder
        "shape": {"crops": f"(-1,{side},{side},3)"},  # requests of any number of crops
        "target_device": "CPU",
        "plugin_config": dict(PLUGIN_CONFIG),
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"model_config_list": []}
    except OSError as error:
        raise DataError(path, f"can't be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is no JSON: {error}; name another folder, or mend it") from error
    listed = found.get("model_config_list") if isinstance(found, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) and isinstance(one.get("config"), dict) for one in listed):
        raise DataError(path, "is no configuration of OpenVINO Model Server, with a 'model_config_list': name another folder")
    return dict(found)


def _with_model(config: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    others = [one for one in config["model_config_list"] if one["config"].get("name") != entry["name"]]
    return {**config, "model_config_list": [*others, {"config": entry}]}
