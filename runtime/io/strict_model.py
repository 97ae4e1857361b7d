"""`StrictModel`, the frozen pydantic model behind every file that blastscope reads: unknown keys are errors."""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from blastscope.runtime.errors import ConfigError, warn_deprecated


class StrictModel(BaseModel):
    """A record that is checked once, when it is made, and never changes. An unknown key is an error.

    Attributes
    ----------
    renamed_keys : mapping of str to str
        Former names of keys, accepted for one version with a `FutureWarning`.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {}
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="null")

    @classmethod
    def from_toml(cls, path: Path | str) -> Self:
        """The record that a TOML file describes.

        A value must have its key's type: neither `true` nor a quoted number is a number. A byte-order mark is passed over.

        Parameters
        ----------
        path : Path or str
            The file, in UTF-8.

        Returns
        -------
        The class that it is called on

        Raises
        ------
        ConfigError
            The file can't be read, is no TOML, or has an unknown key or a value that can't be. It names the file, the key, and
            the known keys where one is unknown.

        Warns
        -----
        FutureWarning
            A key has a former name.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
            return cls.model_validate(_with_tuples(_with_present_keys(table, cls)), strict=True)
        except FileNotFoundError as error:
            raise ConfigError(path, ["no such file"]) from error
        except OSError as error:
            raise ConfigError(path, [f"can't be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            is_utf16 = error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            found = "the file is UTF-16" if is_utf16 else f"the file isn't UTF-8 from byte {error.start} on"
            raise ConfigError(path, [f"not TOML: {found}: save it anew with the encoding UTF-8"]) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(path, [f"not TOML: {error}"]) from error
        except ValidationError as error:
            unknown = [item["loc"] for item in error.errors() if item["type"] == "extra_forbidden"]
            raise ConfigError(path, problems(error), known=_known_keys(cls, unknown[0][:-1]) if unknown else ()) from error


def _with_present_keys(table: dict[str, Any], record: type[StrictModel]) -> dict[str, Any]:
    """`table` of a TOML file, in which keys under their former names have their present ones, in inner sections too."""
    present = {}
    for key, value in table.items():
        name = key
        if key in record.renamed_keys and record.renamed_keys[key] not in table:
            name = record.renamed_keys[key]
            warn_deprecated(f"'{key}'", f"'{name}'", stacklevel=4)
        inner = _section(record, name) if isinstance(value, dict) else None
        present[name] = _with_present_keys(value, inner) if inner else value
    return present


def _section(record: type[BaseModel], key: str) -> type[StrictModel] | None:
    """The record that a key of `record` holds, if it holds one; an optional section is a union."""
    field = record.model_fields.get(key)
    kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, StrictModel)), None)


def _with_tuples(value: Any) -> Any:
    """`value` of TOML with tuples for its arrays: no field here is a list."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _not_a_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a whole number")
    return value


NotBool = BeforeValidator(_not_a_bool)  # for a `Literal` of whole numbers, in which pydantic finds `True` as 1


def problems(error: ValidationError) -> list[str]:
    """What pydantic found wrong, one line each, with the key as it is written in the file.

    Parameters
    ----------
    error : pydantic.ValidationError
        As pydantic raised it.

    Returns
    -------
    list of str
    """
    found = []
    for item in error.errors():
        text = "no such key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        key = ".".join(map(str, item["loc"]))
        found.append(f"{key}: {text[:1].lower()}{text[1:]}" if key else text)
    return found


def _known_keys(record: type[BaseModel], section: tuple[int | str, ...]) -> list[str]:
    """The keys of `record`, or of the section in it where the unknown key stands."""
    for key in section:
        inner = _section(record, str(key))
        if inner is None:
            return []
        record = inner
    return sorted(record.model_fields)
