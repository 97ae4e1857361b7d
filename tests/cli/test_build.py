"""`blastscope build` and `blastscope engines`: what they print, and what they exit with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blastscope.cli import app
from blastscope.cli.build import Watcher
from blastscope.export.engine_builds import BuildRequest, PlannedEngine, plan_engines
from blastscope.runtime.backends.tensorrt.builder import BuildStep
from blastscope.runtime.backends.tensorrt.catalog import EngineHost
from blastscope.runtime.backends.tensorrt.key import EngineKey, platform_name
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.cuda.driver import GpuFacts
from blastscope.runtime.errors import DriverError, MissingLibrary, UsageError

GPU = GpuFacts(name="NVIDIA RTX A4000", capability="8.6", driver="580.65.06")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's cache, elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "blastscope" / "engines" / "nvidia"


@pytest.fixture
def bundle(tiny_bundle: Any) -> Path:
    return tiny_bundle.make("fp32", "int8")


def machine(monkeypatch: pytest.MonkeyPatch, *gpus: GpuFacts) -> EngineHost:
    """A machine with these GPUs, and the TensorRT-RTX that is installed."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    found = EngineHost(
        platform_name(), {"tensorrt-rtx": trt.__version__}, gpus, None if gpus else "no NVIDIA driver is installed"
    )
    monkeypatch.setattr(EngineHost, "here", classmethod(lambda _: found))
    return found


def test_build_prints_each_engine_s_path_and_builds_nothing_twice(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch)
    words = ("build", bundle, "--runtime", "tensorrt-rtx", "--gpu", "sm86", "--gpu", "sm120,sm89", "--batch", "1:4:16")
    first = run(*words)
    assert first.exit_code == 0, first.output
    paths = [Path(line) for line in first.stdout.splitlines()]
    assert [path.parent for path in paths] == [cache, cache]
    assert all(path.is_file() and "sm86+sm89+sm120" in path.name for path in paths)
    assert "1 of 2: ensemble fp32" in first.stderr
    assert "built in" in first.stderr
    rows = json.loads(run(*words, "--precision", "int8", "--json").stdout)
    assert [(row["path"], row["built"], row["key"]["precision"]) for row in rows] == [(str(paths[1]), False, "int8")]
    assert rows[0]["key"]["profile"] == {"least": 1, "likely": 4, "most": 16}


def test_without_a_gpu_portable_engines_are_built_and_with_one_its_own(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    done = run("build", bundle, "--precision", "fp32", "--json")
    assert "no GPU can be used here, so the engines are portable ones" in done.stderr
    assert json.loads(done.stdout)[0]["key"] | {"gpu": None, "targets": []} == json.loads(done.stdout)[0]["key"]
    machine(monkeypatch, GPU)
    done = run("build", bundle, "--precision", "fp32", "--json")
    (row,) = json.loads(done.stdout)  # the portable one would serve, but is not what was asked for
    assert (row["key"]["gpu"], row["built"], Path(row["path"]).is_file()) == (GPU.model_dump(), True, True)
    done = run("build", bundle, "--precision", "fp32", "--gpu", "portable", "--json")
    assert json.loads(done.stdout)[0]["built"] is False
    states = {row["key"]["gpu"] is None: row["state"] for row in json.loads(run("engines", "--json").stdout)}
    assert states == {True: "ready", False: "ready"}


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["--precision", "fp16"], 2, "has no fp16 graph, it has fp32, int8: export the run anew"),
        (["--precision", "fp12"], 2, "precision 'fp12' is not known"),
        (["--gpu", "rtx3090"], 2, "gpu 'rtx3090' is not the name of a kind of GPU"),
        (["--gpu", "sm86,portable"], 2, "portable or for named GPUs"),
        (["--gpu", "sm90", "--precision", "fp32"], 4, "doesn't build for sm90: it knows sm75"),
        (["--batch", "8:1:64"], 2, "rising from 1"),
        (["--runtime", "openvino"], 2, "openvino"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    words: list[str], code: int, problem: str, bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch)
    done = run("build", bundle, *words)
    assert done.exit_code == code, done.output
    assert problem in done.stderr
    assert list(cache.glob("*.engine")) == []


def test_a_missing_library_driver_or_bundle_is_told_with_the_remedy(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = machine(monkeypatch)
    found = read_bundle(bundle)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = run("build", bundle, "--runtime", "tensorrt")
    assert (done.exit_code, done.stderr) == (4, "blastscope: 'tensorrt' is not installed: pip install 'blastscope[tensorrt]'\n")
    assert run("build", "nowhere").exit_code == 3
    monkeypatch.setattr("blastscope.export.engine_builds.library_version", lambda _: "10.16.1.11")
    with pytest.raises(DriverError, match="builds only on the GPU that will run the engine, and no NVIDIA driver is installed"):
        plan_engines(found, BuildRequest("tensorrt"), bare)
    with pytest.raises(UsageError, match="for another machine take tensorrt-rtx"):
        plan_engines(found, BuildRequest("tensorrt", targets=("sm86",)), bare)
    monkeypatch.setattr("blastscope.export.engine_builds.is_installed", lambda _: False)
    with pytest.raises(MissingLibrary, match=r"blastscope\[tensorrt-rtx\]"):
        plan_engines(found, BuildRequest(), bare)


def test_the_library_is_tensorrt_only_where_it_can_tune_for_the_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.export.engine_builds.library_version", lambda _: "1")
    monkeypatch.setattr("blastscope.export.engine_builds.is_installed", lambda _: True)
    found, there, bare = read_bundle(bundle), machine(monkeypatch, GPU), machine(monkeypatch)

    def chosen(request: BuildRequest, on: EngineHost) -> set[str]:
        return {planned.key.library for planned in plan_engines(found, request, on)}

    assert chosen(BuildRequest(), there) == {"tensorrt"}
    assert chosen(BuildRequest(targets=("sm86",)), there) == {"tensorrt-rtx"}
    assert chosen(BuildRequest(), bare) == {"tensorrt-rtx"}


def test_build_needs_nothing_of_training_or_export(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    heavy = ("torch", "timm", "onnx", "onnxruntime", "sklearn", "matplotlib")
    words = ["build", str(bundle), "--gpu", "sm86", "--precision", "fp32"]
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy})); from blastscope.cli import app; app({words})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()


# ---- engines


@pytest.fixture
def engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One engine in the cache, built ahead of time for sm86."""
    machine(monkeypatch)
    return Path(run("build", bundle, "--precision", "fp32", "--gpu", "sm86").stdout.strip())


def test_engines_lists_explains_and_removes(engine: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, GPU)
    assert run("engines", "list", "--json").stdout == run("engines", "--json").stdout
    (row,) = json.loads(run("engines", "--json", "--bundle", bundle).stdout)
    assert (row["name"], row["path"], row["state"], row["reasons"]) == (engine.stem, str(engine), "ready", [])
    text = run("engines").stdout
    assert "ready" in text
    assert str(engine.parent) in text.replace("\n", "")
    told = run("engines", "explain", engine.stem[:12])
    assert told.exit_code == 0
    assert "gpu       sm86" in told.stdout
    engine.write_bytes(b"something else")
    told = run("engines", "explain", engine)
    assert told.exit_code == 1
    assert "because   it is damaged" in told.stdout
    assert json.loads(run("engines", "explain", engine, "--json").stdout)["state"] == "unusable"
    assert run("engines", "--json", "explain", engine).exit_code == 2
    assert run("engines", "remove").exit_code == 2
    assert run("engines", "remove", "nothing").exit_code == 2
    assert run("engines", "remove", "--stale").stdout == f"{engine}\n"
    assert run("engines", "--json").stdout == "[]\n"
    assert "no engines: 'blastscope build' makes them" in run("engines").stdout
    assert [path for path in engine.parent.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_stale_engine_is_explained_by_what_changed(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = machine(monkeypatch, GPU)
    newer = EngineHost(now.platform, {"tensorrt-rtx": "9.9"}, now.gpus)
    monkeypatch.setattr(EngineHost, "here", classmethod(lambda _: newer))
    told = run("engines", "explain", engine.stem)
    assert told.exit_code == 1
    assert f"built by tensorrt-rtx {now.versions['tensorrt-rtx']}, 9.9 is installed" in told.stdout
    assert run("engines", "remove", "--all").stdout == f"{engine}\n"


def test_a_foreign_engine_is_taken_by_trust_on_a_machine_that_fits(
    engine: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    for ending in (".engine", ".json"):
        engine.with_suffix(ending).rename(stick / engine.with_suffix(ending).name)
    file = stick / engine.name
    refused = run("engines", "trust", file, "--bundle", bundle)
    assert refused.exit_code == 4
    assert "no GPU can be used here" in refused.stderr
    machine(monkeypatch, GPU)
    assert "is not in bundle" in run("engines", "trust", file).stderr  # the one that is shipped
    taken = run("engines", "trust", file, "--bundle", bundle, "--json")
    assert taken.exit_code == 0, taken.output
    assert json.loads(taken.stdout)["path"] == str(engine)
    assert [row["state"] for row in json.loads(run("engines", "--json").stdout)] == ["ready"]
    assert run("engines", "trust", tmp_path / "nothing.engine").exit_code == 2


def test_progress_is_drawn_on_a_terminal_and_told_by_the_line_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    entry = read_bundle(bundle).manifest.graphs[0]
    key = EngineKey(
        graph=entry.sha256, models="ensemble", precision="fp32", library="tensorrt-rtx", version="1", platform="p"
    )  # fmt: skip
    for terminal in (False, True):
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
            monkeypatch.setenv("TTY_COMPATIBLE", "1")
        with Watcher(1) as watcher:
            watcher.begin(PlannedEngine(entry, key))
            watcher.step(BuildStep("Timing graph nodes", 3, 7, "Building engine"))
            watcher.step(BuildStep("Nothing to see", 0, 1, None))
            watcher.say("done")
        said = capsys.readouterr()
        assert said.out == ""
        assert "1 of 1: ensemble fp32 for portable" in said.err
        assert ("Timing graph nodes" in said.err) == terminal
        assert "Nothing to see" not in said.err
        assert "done" in said.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_control_c_exits_130_and_leaves_nothing(bundle: Path, cache: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    # a step waits for the signal, so that it comes in the middle of the build
    code = f"""
import signal, threading
from blastscope.cli import build
from blastscope.cli import main
step = build.Watcher.step
interrupted = threading.Event()
def interrupt(*_):
    interrupted.set()
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
build.Watcher.step = lambda self, one: (step(self, one), self.say("step"), interrupted.wait(60))
import sys
sys.argv = ["blastscope", "build", {str(bundle)!r}, "--gpu", "sm86"]
main()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr
    while child.stderr.readline() != "step\n":
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, error = child.communicate(timeout=120)
    assert child.returncode == 130, error
    assert out == ""
    assert "cancelled: nothing half-built is left behind" in error
    assert "Traceback" not in error
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
