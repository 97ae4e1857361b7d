"""`make gpu-check`: builds what this machine can, checks that it is right, measures it, and writes the results down.

    python -m blastscope.benchmarks.gpu.check --network inception_resnet_v2 --network shipped

Needs nothing from the network. Each step runs in a process beside this one, so that a library that crashes, hangs or loses the
GPU costs its own rows and no others. Exits 0 when all that ran was right, 1 when something was wrong, 4 without a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from blastscope.benchmarks.gpu.build_deps import build_pycuda, rebuild_kernels
from blastscope.benchmarks.gpu.engines import Plan, each_once, engine_names, told
from blastscope.benchmarks.gpu.schema import Findings, GpuCheck
from blastscope.benchmarks.gpu.steps import CROP, SPECS, Work, broken, step_of
from blastscope.benchmarks.gpu.subprocess_runner import AGAIN, run_apart, write_line
from blastscope.benchmarks.interleaved_timing import Pace
from blastscope.benchmarks.models import prepare
from blastscope.benchmarks.results_page import write_page
from blastscope.benchmarks.schema import LIBRARIES, this_machine, versions
from blastscope.cli.session import find_data
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.cuda.driver import GpuDevice, find_gpu, probe
from blastscope.runtime.errors import BlastscopeError

HERE = Path(__file__).resolve().parent.parent
NETWORKS = ("inception_resnet_v2", "shipped")
BUILT = "built"  # the folder of a pycuda that was built here, in the wheelhouse
Steps = Iterator[Findings]
PACKAGES = (*LIBRARIES, "pycuda", "cuda-bindings", "tensorrt", "tensorrt-rtx-cu13", "onnxruntime-gpu", "triton")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the check. Gives the exit code."""
    words = sys.argv[1:] if words is None else words
    wish = _arguments().parse_args(words)
    wish.data = find_data(wish.data)
    if wish.step:
        return work(wish)
    try:
        found = find_gpu(wish.gpu)
        built = _built(wish.wheelhouse)
        from blastscope.runtime.cuda.pycuda_device import require_pycuda

        require_pycuda()
    except BlastscopeError as error:
        _tell(f"nothing can be measured here: {error}")
        write_page(wish.out / "RESULTS.md", wish.out / "results")
        return error.exit_code
    try:
        check = run(found, built, wish, lambda steps: _apart(wish, steps, words))
    except KeyboardInterrupt:
        _tell("interrupted: nothing is written")
        return 130
    _keep(check, wish.out)
    return 0 if check.passed else 1


def _built(wheelhouse: Path) -> dict[str, str]:
    built = {"pycuda": build_pycuda(wheelhouse, wheelhouse / BUILT), "crop kernels": rebuild_kernels()}
    for name, how in built.items():
        _tell(f"{name}: {how}")
    return built


def run(found: GpuDevice, built: dict[str, str], wish: argparse.Namespace, do: Callable[[Sequence[str]], Steps]) -> GpuCheck:
    """Everything that was wished for; `do` gives what steps find, one after the other."""
    steps, notes = [step_of(CROP, scale) for scale in SPECS], list[str]()
    for name in wish.network or NETWORKS:
        try:
            bundle = prepare(name, wish.data, _tell).bundle
            steps += [step_of(name, engine) for engine in engine_names(read_bundle(bundle).manifest)]
        except Exception as error:  # noqa: BLE001  what can't be prepared is noted, and the rest goes on
            notes.append(f"{name} could not be prepared: {told(error)}")
            _tell(notes[-1])
    every = sum(do(steps), Findings())
    return GpuCheck(
        date=datetime.now(UTC).date().isoformat(),
        **_told_of(found),
        machine=this_machine(),
        versions=versions(PACKAGES),
        built=built,
        crops=every.crops,
        agreements=every.agreements,
        rows=each_once(every.rows),
        notes=tuple(notes),
    )


def work(wish: argparse.Namespace) -> int:
    """Does the steps that were handed to this process, and writes what each finds. Gives the exit code."""
    from blastscope.runtime.cuda.pycuda_device import open_gpu

    sys.path.insert(0, str(wish.wheelhouse / BUILT))
    try:
        busy = Work(open_gpu(wish.gpu), _plan(wish), wish.data, _tell)
    except BlastscopeError as error:
        _tell(str(error))
        return error.exit_code
    for step in wish.step:
        write_line(wish.into, f"begin {step}")
        write_line(wish.into, busy.do(step).model_dump_json())
        if busy.lost():
            return AGAIN
    return 0


def _apart(wish: argparse.Namespace, steps: Sequence[str], words: Sequence[str]) -> Steps:
    """The steps in processes of their own, each begun with the words that this one was."""

    def command(left: Sequence[str], into: Path) -> list[str]:
        handed = [word for step in left for word in ("--step", step)]
        return [sys.executable, "-m", "blastscope.benchmarks.gpu.check", *words, *handed, "--into", str(into)]

    return run_apart(steps, command, partial(broken, plan=_plan(wish)), patience_s=wish.patience)


def _plan(wish: argparse.Namespace) -> Plan:
    return Plan(tuple(wish.batch or (1, 8, 64)), Pace(rounds=wish.rounds, calls=5, seconds=wish.seconds))


def _told_of(gpu: GpuDevice) -> dict[str, str]:
    """The GPU and its driver, as the results name them."""
    driver = probe()
    facts = {"gpu": gpu.name, "capability": f"{gpu.capability[0]}.{gpu.capability[1]}"}
    return {**facts, "driver": driver.version, "cuda": f"{driver.cuda[0]}.{driver.cuda[1]}"}


def _keep(check: GpuCheck, out: Path) -> None:
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in check.gpu.lower()).split())
    path = results / f"{name}-{check.date}.json"
    path.write_text(check.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_page(out / "RESULTS.md", results)
    _tell(f"written: '{path}' and '{out / 'RESULTS.md'}'")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make gpu-check", description="Check and measure this machine's GPU.")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU")
    parser.add_argument("--network", action="append", help="shipped, or a timm backbone with random weights; repeatable")
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default 1, 8 and 64")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn of one side")
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; drawn ones where there are none")
    parser.add_argument("--wheelhouse", type=Path, default=Path("wheelhouse"), help="where pycuda's source package may lie")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds after which a step that says nothing is ended")
    parser.add_argument("--step", action="append", help=argparse.SUPPRESS)  # handed to the process of the steps
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE, help="where RESULTS.md and results/ are")
    return parser


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
