"""`python -m blastscope.runtime.bundle.schema` rewrites runtime/bundle/bundle.schema.json from the records in manifest.py."""

from __future__ import annotations

import json
from pathlib import Path

from blastscope.runtime.bundle.manifest import FORMAT, Manifest
from blastscope.runtime.io.atomic import write_content

SCHEMA_FILE = Path(__file__).with_name("bundle.schema.json")


def schema_text() -> str:
    """The JSON schema of manifest.json, as text. Rules between keys (runtime/FORMAT.md) are checked on reading only.

    Returns
    -------
    str
    """
    described = Manifest.model_json_schema()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **described,
        "title": f"blastscope bundle, format {FORMAT}",
        "required": ["format", *described["required"]],  # has a default in the code only, for writers
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Brings the file in step with the code."""
    write_content(SCHEMA_FILE, schema_text())


if __name__ == "__main__":
    main()
