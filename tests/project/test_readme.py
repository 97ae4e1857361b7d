"""What the pages show runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *(ROOT / room / "README.md" for room in ("runtime", "export", "benchmarks")),
    ROOT / "blastscope" / "serve" / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "runtime" / "native" / "README.md",
    *(ROOT / "runtime" / "native" / part / "README.md" for part in ("java", "csharp", "imagej")),
]
BLOCKS = [
    pytest.param(block, id=f"{page.parent.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One user's cache for all blocks: the shipped networks are compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_python_runs_as_it_stands(block: str, cache: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_key_of_a_line_of_json_is_named() -> None:
    from blastscope.runtime.frames.types import GROUPS, CellRow, FrameRow
    from blastscope.runtime.types import Audit, PredictionRow

    lines = re.findall(r'^    (\{"path".*\n(?:     .*\n)+)', PAGES[1].read_text(encoding="utf-8"), re.MULTILINE)
    image, frame = (set(re.findall(r'"(\w+)"', line)) for line in lines)
    assert image == {"path", *PredictionRow.__annotations__, *Audit.__annotations__, "a", "b", "combined", "hem", "all"}
    groups = {*GROUPS, "not_lymphoid", "not_judged"}
    assert frame == {*FrameRow.__annotations__, *CellRow.__annotations__, "cells", "hem", "all", "refused", *groups}


def test_every_file_that_the_page_for_contributors_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:runtime|train|calibration|export|benchmarks|blastscope|tests)/[\w./]*)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_verb_and_make_target_that_is_named_exists(page: Path) -> None:
    from blastscope.cli import app

    verbs = {command.callback.__name__ for command in app.registered_commands if command.callback}
    verbs |= {group.name for group in app.registered_groups}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\bblastscope ([a-z]+)\b(?= [A-Z-]|`)", text)) <= verbs
    assert set(re.findall(r"\bmake ([a-z-]+)\b", text)) - {"demo", "test"} <= targets | {"it"}


def test_what_the_changelog_says_is_called_otherwise_now_is_there() -> None:
    files = [
        path
        for room in ("runtime", "train", "calibration", "export", "benchmarks", "blastscope")
        for path in (ROOT / room).rglob("*")
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".css", ".html", ".js"))
    known = {*re.findall(r"\w+", code), *(path.stem for path in files)}
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    now = re.findall(r"→ `([^`]+)`", log)
    assert len(now) > 400
    assert [name for name in now if not set(re.findall(r"\w+", name)) <= known] == []
    commands = re.findall(r"\| `python -m blastscope\.([\w.]+)` \|$", log, re.MULTILINE)
    assert len(commands) > 5
    assert [
        name
        for name in commands
        if not (ROOT / name.replace(".", "/")).with_suffix(".py").is_file() and not (ROOT / name.replace(".", "/")).is_dir()
    ] == []
