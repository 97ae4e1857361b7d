"""`make gpu-check`: builds what this machine can, checks that it is right, measures it, and writes the results.

    python -m blastscope.benchmarks.gpu.check --network inception_resnet_v2 --network shipped

Needs nothing from the network. Steps run in child processes, so that a library that crashes, hangs or loses the GPU costs its
own rows and no others. Exits 0 when all that ran was right, 1 when something was wrong, 4 without a GPU.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from blastscope.benchmarks.gpu.engines import GpuBenchmarkConfig, deduplicate_rows, engine_names, error_summary
from blastscope.benchmarks.gpu.steps import CROP, SPECIFICATIONS, StepRunner, failed_step, step_name
from blastscope.benchmarks.gpu.subprocess_runner import (
    RESTART_EXIT_CODE,
    build_pycuda,
    rebuild_kernels,
    run_isolated,
    write_line,
)
from blastscope.benchmarks.gpu_schema import Findings, GpuCheck
from blastscope.benchmarks.interleaved_timing import TimingConfig
from blastscope.benchmarks.models import prepare_model
from blastscope.benchmarks.results_page import write_page
from blastscope.benchmarks.schema import LIBRARIES, describe_machine, library_versions
from blastscope.cli.options import find_data
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.cuda.driver import GpuDevice, find_gpu, probe
from blastscope.runtime.errors import BlastscopeError

BENCHMARKS = Path(__file__).resolve().parent.parent
NETWORKS = ("inception_resnet_v2", "shipped")
PYCUDA_FOLDER = "built"  # in the wheelhouse: a pycuda that was built here
DISTRIBUTIONS = (*LIBRARIES, "pycuda", "cuda-bindings", "tensorrt", "tensorrt-rtx-cu13", "onnxruntime-gpu", "triton")
RunSteps = Callable[[Sequence[str]], Iterator[Findings]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check; or, in a child process, the steps that it was given. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.data = find_data(options.data)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("blastscope").setLevel(logging.INFO)  # on stderr, as `_progress`
    if options.step:
        return run_steps(options)
    try:
        gpu = find_gpu(options.gpu)
        built = _build_dependencies(options.wheelhouse)
        from blastscope.runtime.cuda.pycuda_device import require_pycuda

        require_pycuda()
    except BlastscopeError as error:
        _progress(f"nothing can be measured here: {error}")
        write_page(options.out / "RESULTS.md", options.out / "results")
        return error.exit_code
    try:
        check = run_check(gpu, built, options, lambda steps: _run_in_children(options, steps, arguments))
    except KeyboardInterrupt:
        _progress("interrupted: nothing is written")
        return 130
    publish_gpu_results(check, options.out)
    return 0 if check.passed else 1


def _build_dependencies(wheelhouse: Path) -> dict[str, str]:
    built = {"pycuda": build_pycuda(wheelhouse, wheelhouse / PYCUDA_FOLDER), "crop kernels": rebuild_kernels()}
    for name, state in built.items():
        _progress(f"{name}: {state}")
    return built


def run_check(gpu: GpuDevice, built: dict[str, str], options: argparse.Namespace, run_all: RunSteps) -> GpuCheck:
    """Runs all steps and collects their findings.

    Parameters
    ----------
    gpu
        The GPU.
    built
        How each dependency was built.
    options
        Of the command line.
    run_all
        Runs steps, and yields the findings of each.
    """
    steps, notes = [step_name(CROP, name) for name in SPECIFICATIONS], list[str]()
    for network in options.network or NETWORKS:
        try:
            bundle = prepare_model(network, options.data).bundle
            steps += [step_name(network, engine) for engine in engine_names(read_bundle(bundle).manifest)]
        except Exception as error:  # noqa: BLE001  a network that can't be prepared is noted, and the rest goes on
            notes.append(f"{network} could not be prepared: {error_summary(error)}")
            _progress(notes[-1])
    findings = sum(run_all(steps), Findings())
    return GpuCheck(
        date=datetime.now(UTC).date().isoformat(),
        **_describe_gpu(gpu),
        machine=describe_machine(),
        versions=library_versions(DISTRIBUTIONS),
        built=built,
        crops=findings.crops,
        agreements=findings.agreements,
        rows=deduplicate_rows(findings.rows),
        notes=tuple(notes),
    )


def run_steps(options: argparse.Namespace) -> int:
    """Runs the steps that this child process was given, and writes the findings of each. Returns the exit code."""
    from blastscope.runtime.cuda.pycuda_device import open_gpu

    sys.path.insert(0, str(options.wheelhouse / PYCUDA_FOLDER))
    try:
        runner = StepRunner(open_gpu(options.gpu), _config(options), options.data)
    except BlastscopeError as error:
        _progress(str(error))
        return error.exit_code
    for step in options.step:
        write_line(options.into, f"begin {step}")
        write_line(options.into, runner.run(step).model_dump_json())
        if runner.gpu_lost():
            return RESTART_EXIT_CODE
    return 0


def _run_in_children(options: argparse.Namespace, steps: Sequence[str], arguments: Sequence[str]) -> Iterator[Findings]:
    """The findings of steps that run in child processes with the same arguments as this process."""

    def command(remaining: Sequence[str], into: Path) -> list[str]:
        step_arguments = [word for step in remaining for word in ("--step", step)]
        return [
            *(sys.executable, "-m", "blastscope.benchmarks.gpu.check", *arguments, *step_arguments),
            *("--into", str(into)),
        ]

    failure = partial(failed_step, config=_config(options))
    return run_isolated(steps, command, failure, step_timeout_s=options.step_timeout)


def _config(options: argparse.Namespace) -> GpuBenchmarkConfig:
    timing = TimingConfig(rounds=options.rounds, min_calls=5, seconds=options.seconds)
    return GpuBenchmarkConfig(tuple(options.batch or (1, 8, 64)), timing)


def _describe_gpu(gpu: GpuDevice) -> dict[str, str]:
    """The GPU and its driver, as fields of the result."""
    driver = probe()
    facts = {"gpu": gpu.name, "capability": f"{gpu.capability[0]}.{gpu.capability[1]}"}
    return {**facts, "driver": driver.version, "cuda": f"{driver.cuda[0]}.{driver.cuda[1]}"}


def publish_gpu_results(check: GpuCheck, out: Path) -> None:
    """Writes the result to `out`/results, named after the GPU and the day, and the page `out`/RESULTS.md again."""
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in check.gpu.lower()).split())
    path = results / f"{name}-{check.date}.json"
    path.write_text(check.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_page(out / "RESULTS.md", results)
    _progress(f"written: '{path}' and '{out / 'RESULTS.md'}'")


class _RenamedOption(argparse.Action):
    """An old name of an option, which is still accepted in this version."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        new = "--" + self.dest.replace("_", "-")
        _progress(f"{option} is deprecated and will be removed in the next version: use {new}")
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make gpu-check", description="Check and measure this machine's GPU.")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU")
    parser.add_argument("--network", action="append", help="shipped, or a timm backbone with random weights; repeatable")
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default 1, 8 and 64")
    parser.add_argument("--rounds", type=int, default=4, help="rounds, in each of which every contender is timed")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a contender's calls in a round")
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; synthetic ones where there are none")
    parser.add_argument("--wheelhouse", type=Path, default=Path("wheelhouse"), help="where pycuda's source package may lie")
    parser.add_argument(
        "--step-timeout", type=float, default=1800.0, help="seconds after which a step that writes nothing is ended"
    )
    parser.add_argument(
        "--patience", dest="step_timeout", type=float, default=argparse.SUPPRESS, action=_RenamedOption, help=argparse.SUPPRESS
    )
    parser.add_argument("--step", action="append", help=argparse.SUPPRESS)  # of a child process
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=BENCHMARKS, help="where RESULTS.md and results/ are")
    return parser


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
