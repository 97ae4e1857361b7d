"""ImageNet weights on the Hugging Face hub: its cache needs no network, and an unreachable hub fails within seconds."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES = ("model.safetensors", "pytorch_model.bin")  # as timm looks for them
TIMEOUT_S = 3.0


def cached_weights(pretrained: Mapping[str, Any]) -> Path | None:
    """The weight file that timm's `pretrained_cfg` names on the hub, where an earlier download left it in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = str(pretrained.get("hf_hub_id") or "").partition("@")
    for file in FILES if name else ():
        found = try_to_load_from_cache(name, pretrained.get("hf_hub_filename") or file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def unreachable_reason() -> str | None:
    """Why the hub doesn't answer within a few seconds; None where it does.

    The hub's own client asks again and again, for most of a minute, before it gives up.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the hub's client is set to work offline"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_S).close()
    except (urllib.error.HTTPError, ssl.SSLError):
        return None  # it answers; the client may know a certificate or a password
    except OSError as error:
        reason = getattr(error, "reason", error)
        return None if isinstance(reason, ssl.SSLError) else f"{constants.ENDPOINT} can't be reached: {reason}"
    return None
