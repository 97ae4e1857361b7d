"""`Record`, the frozen pydantic model behind every file that blastscope reads: unknown keys are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from blastscope.runtime.errors import ConfigError


class Record(BaseModel):
    """A value that is checked once, on construction, and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="null")

    @classmethod
    def from_toml(cls, path: Path | str) -> Self:
        """The record that the TOML file `path` describes.

        Raises `ConfigError`, which names the file, the key, and the known keys where one is unknown.
        """
        path = Path(path)
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ConfigError(path, ["no such file"]) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(path, [f"not TOML: {error}"]) from error
        except ValidationError as error:
            unknown = any(item["type"] == "extra_forbidden" for item in error.errors())
            raise ConfigError(path, problems(error), known=sorted(cls.model_fields) if unknown else ()) from error


def problems(error: ValidationError) -> list[str]:
    """One line for each thing pydantic found, with the key as it is written in the file."""
    return [f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg'].lower()}" for item in error.errors()]
