"""benchmarks/RESULTS.md: what came out on CPUs and on GPUs, made of the files in results/, with two pictures a CPU.

python -m blastscope.benchmarks.results_page PIECE.json ...   merges pieces of one machine's run, and writes page and pictures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from blastscope.benchmarks.gpu.page import gpu_part
from blastscope.benchmarks.plots import draw_latencies, draw_peers
from blastscope.benchmarks.results import merged, read_result, write_result
from blastscope.benchmarks.schema import ALONE, SAYS, BenchResult, Row, What

HERE = Path(__file__).resolve().parent
HEAD = """# What came out

Made by `make bench` and `make gpu-check` from [results/](results/), one file a machine; not written by hand.
[README.md](README.md) tells how the figures are taken.

## On CPUs
"""
NOTHING = "\n**No CPU has been measured yet.**\n"
PARTS: tuple[What, ...] = ("crop", "decode", "frame", "network", "outside", "files", "callers", "load", "cold")
PICTURES = ("latency", "peers")


def write_page(page: Path, results: Path) -> None:
    """Writes the page anew from `results`: CPUs from cpu/*.json, GPUs from *.json."""
    found = [(path.stem, read_result(path)) for path in sorted((results / "cpu").glob("*.json"))]
    parts = [HEAD, *(_cpu(stem, result) for stem, result in found)] if found else [HEAD, NOTHING]
    page.write_text("".join([*parts, gpu_part(results)]), encoding="utf-8")


def keep(result: BenchResult, out: Path) -> Path:
    """Writes `result` and its pictures below `out`, and the page anew. Gives the result's file."""
    stem = slug(result)
    path = out / "results" / "cpu" / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_result(path, result)
    for name, data in (("latency", draw_latencies(result)), ("peers", draw_peers(result))):
        (out / "results" / f"{stem}-{name}.png").write_bytes(data)
    write_page(out / "RESULTS.md", out / "results")
    return path


def slug(result: BenchResult) -> str:
    """The file name of a machine, without suffix."""
    text = f"{result.machine.processor} {result.machine.cores} cores".lower()
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).split())


def _cpu(stem: str, result: BenchResult) -> str:
    machine = result.machine
    lines = [f"\n### {machine.processor}, {machine.cores} cores\n", *_machine(result), ""]
    pixels = [row for row in result.rows if row.what == "pixels"]
    if pixels:
        lines += [f"![latency of every call](results/{stem}-latency.png)", f"![sides compared](results/{stem}-peers.png)", ""]
    for network, batch in dict.fromkeys((row.name.split("/")[0], row.batch) for row in pixels):
        lines += _compared(network, batch, [row for row in pixels if row.name.startswith(f"{network}/") and row.batch == batch])
    lines += [line for what in PARTS for line in _parts(what, [row for row in result.rows if row.what == what])]
    lines += [*_recipes(pixels), *(f"- {note}" for note in result.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _machine(result: BenchResult) -> Iterator[str]:
    machine, rows = result.machine, result.rows
    days = sorted({row.measured[:10] for row in rows if row.measured})
    features = ", ".join(machine.features) or "no feature that is looked for"
    governor = f"governor {machine.governor}" if machine.governor else "governor not told, as on most virtual machines"
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    yield f"{features}; {machine.system}, Python {machine.python}; {governor}; {versions}; measured {', '.join(days)}.\n"
    for peak in machine.peaks:
        yield f"- {peak.execution} peak, measured on the spot: {peak.gmacs:.0f} GMAC/s ({peak.how})"
    busy = sum(row.busy for row in rows)
    if busy:
        yield f"- **Others disturbed {busy} of {len(rows)} rows**; they are marked, and no call was dropped"


def _compared(network: str, batch: int, rows: Sequence[Row]) -> Iterator[str]:
    gmac = next((row.gmac for row in rows if row.gmac), None)
    floors = {row.execution: row.floor_ms for row in rows if row.floor_ms}
    yield f"#### {network}, batch {batch}: {SAYS['pixels']}\n"
    if gmac and floors:
        told = ", ".join(f"{floor:.1f} ms in {execution}" for execution, floor in floors.items())
        yield f"The fused network takes {gmac:.2f} GMAC, so at the measured peak {told} at least. Where a result was"
        yield "measured in several runs, each ratio is to the PyTorch side of its own run.\n"
    yield "| side | calls | p50 ms | p95 | p99 | p99.9 | max | times faster (95 %) | of peak | load s | peak MiB | |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: row.p50_ms):
        times = " | ".join(_number(one, 1) for one in (row.p50_ms, row.p95_ms, row.p99_ms, row.p999_ms, row.max_ms))
        share = "" if row.share is None else f"{row.share:.0%}"
        start = f"{_number(row.load_s, 2)} | {_number(row.peak_mib, 0)}"
        name = row.name.removeprefix(f"{network}/")
        yield f"| `{name}` | {row.calls} | {times} | {_ratio(row)} | {share} | {start} | {_busy(row)} |"
    yield ""
    if not all(row.whole for row in rows):
        yield f"With `{ALONE[1:]}` A decides every cell at once: no cascade is faster.\n"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    if row.ratio_low is None or row.ratio_high is None or row.ratio_low == row.ratio_high:
        return f"{row.ratio:.2f}"
    return f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"


def _busy(row: Row) -> str:
    return f"busy: others took up to {row.others or 0:.0%}" if row.busy else ""


def _parts(what: What, rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    outside = any(row.outside_ms for row in rows)
    yield f"#### {what}: {SAYS[what]}\n"
    yield f"| | batch | p50 ms | p95 | max | cells/s | peak MiB |{' benchmark_app, ms | ours to its |' if outside else ''} |"
    yield f"|---|---|---|---|---|---|---|{'---|---|' if outside else ''}---|"
    for row in rows:
        times = " | ".join(_number(one, 2) for one in (row.p50_ms, row.p95_ms, row.max_ms))
        beside = f" {row.outside_ms:.2f} | {row.p50_ms / row.outside_ms:.2f} |" if row.outside_ms else " | |" if outside else ""
        rate = _number(row.per_second, 1) if what not in ("load", "cold") else ""
        yield f"| `{row.name}` | {row.batch} | {times} | {rate} | {_number(row.peak_mib, 0)} |{beside} {_busy(row)} |"
    yield ""


def _recipes(rows: Sequence[Row]) -> Iterator[str]:
    recipes = {row.name.split("/")[2]: (row.how, row.source) for row in rows if row.how}
    if not recipes:
        return
    yield "#### How the peers are run, and whose advice that is\n"
    yield "| peer | how | source |"
    yield "|---|---|---|"
    for engine, (how, source) in recipes.items():
        yield f"| `{engine}` | {how} | <{source}> |"
    yield ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main(words: Sequence[str] | None = None) -> int:
    """Merges the pieces, and writes what the tree holds of them."""
    parser = argparse.ArgumentParser(
        prog="python -m blastscope.benchmarks.results_page", description="Write RESULTS.md from results."
    )
    parser.add_argument(
        "pieces", nargs="*", type=Path, help="results of `blastscope bench --json` and of the suite, one machine's"
    )
    parser.add_argument("--out", type=Path, default=HERE, help="where RESULTS.md and results/ are")
    wish = parser.parse_args(words)
    if wish.pieces:
        path = keep(merged([read_result(piece) for piece in wish.pieces]), wish.out)
        sys.stderr.write(f"written: '{path}'\n")
    write_page(wish.out / "RESULTS.md", wish.out / "results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
