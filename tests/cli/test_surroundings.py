"""What a command meets around it: no home, a folder that is gone, closed streams, a full disk behind them, missing folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blastscope.cli import app

posix = pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that a process stands in, and closes no stream")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def program(code: str, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, **options
    )


@posix
@pytest.mark.parametrize(
    ("command", "variable", "what"),
    [
        ("classify cell.png", "XDG_CACHE_HOME", "a cache"),
        ("engines", "XDG_CACHE_HOME", "a cache"),
        ("trust list", "XDG_CONFIG_HOME", "trusted keys"),
    ],
)
def test_without_a_home_the_variable_that_says_where_is_named(
    command: str, variable: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", nobody)  # as for the number that a container runs under
    result = run(*command.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        result.stderr
        == f"blastscope: this user has no home folder to keep {what} in: set HOME or {variable} to an absolute path\n"
    )
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize(
    "command", ["examine frame.png", "examine frame.png --csv cells.csv", "pack bundle b.zip", "trust new lab.pem"]
)
def test_a_command_whose_folder_is_gone_says_so(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = run(*command.split())
    assert result.exit_code == 2
    assert result.stderr == "blastscope: the folder that this command was started in is gone: start it in another one\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("command", ["inspect", "inspect --json", "trust list --json", "--version", "inspect --help"])
def test_a_full_disk_behind_stdout_is_told_in_a_line(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "blastscope", *command.split()]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    told = "blastscope: the output, or a temporary file, can't be written: no space left on device\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_letters_that_the_locale_lacks_are_escaped_in_tables() -> None:
    words = [sys.executable, "-m", "blastscope", "inspect"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(words, env={**os.environ, **plain}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xb5m a pixel" in done.stdout


@pytest.mark.parametrize("command", ["trust new .", "examine frame.png --resume ."])
def test_a_folder_is_no_place_for_a_file(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*command.split())
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, "blastscope: '.': is a folder: name a file")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "memory doesn't suffice: close other programs, or raise this process's limit"),
        (
            ImportError("libGL.so.1: cannot open shared object file", path="/site-packages/cv2/cv2.abi3.so"),
            "a library can't be loaded: libGL.so.1: cannot open shared object file",
        ),
        (ImportError("/x/cv2.so: failed to map segment"), "a library can't be loaded: /x/cv2.so: failed to map segment"),
    ],
    ids=["memory", "library", "mapping"],
)
def test_what_a_machine_lacks_is_told_in_a_line(error: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("blastscope.cli.bundle.bundle_at", fails)
    result = run("inspect")
    assert (result.exit_code, result.stderr) == (4, f"blastscope: {told}\n")


def test_a_fault_of_the_program_itself_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ImportError("cannot import name 'x' from 'y'", name="y", path="/y/__init__.py")

    monkeypatch.setattr("blastscope.cli.bundle.bundle_at", fails)
    assert isinstance(run("inspect").exception, ImportError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_results_are_printed_though_the_log_is_full(tiny_bundle: Any, tmp_path: Path) -> None:
    words = ["classify", str(tmp_path / "gone.png"), "--bundle", str(tiny_bundle.make("fp32")), "--json"]
    command = [sys.executable, "-m", "blastscope", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.count('"undecodable"')) == (1, 1)


@posix
def test_a_stdin_that_cannot_be_read_ends_the_command(tiny_bundle: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blastscope", "classify", "-", "--bundle", str(tiny_bundle.make("fp32"))]
    with (tmp_path / "written").open("wb") as written:  # open for writing alone
        done = subprocess.run(command, stdin=written, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "blastscope: stdin can't be read, bad file descriptor"


@posix
def test_no_file_takes_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "for number in range(3):\n"
        "    os.close(number)\n"
        "from blastscope.cli import hold_standard_streams\n"
        "hold_standard_streams()\n"
        "with open(sys.argv[1], 'wb') as file:\n"
        "    os.write(1, b'what a library prints')\n"
        "    file.write(bytes([file.fileno()]))\n"
    )
    assert program(code, tmp_path / "file").returncode == 0
    (number,) = (tmp_path / "file").read_bytes()
    assert number > 2


ENDED = """
import os, signal, sys, tempfile
from blastscope import cli

def work():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        raise SystemExit("it went on")

if sys.argv[3:]:
    signal.signal(getattr(signal, sys.argv[2]), signal.SIG_IGN)
cli.app = work
try:
    cli.main()
except KeyboardInterrupt:
    sys.exit(130)
"""


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_command_that_is_ended_clears_its_temporary_folder(name: str, tmp_path: Path) -> None:
    done = program(ENDED, tmp_path, name)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (130, "", [])
    assert program(ENDED, tmp_path, name, "ignored").stderr == "it went on\n"  # as nohup wants it


@pytest.mark.parametrize(
    "command",
    [
        *(
            "examine ''",
            "examine frame.png --csv ''",
            "inspect ''",
            "pack bundle ''",
            "train cells --out ''",
            "explain cell.png --out=",
        ),
        "validate frame.png --labels ''",
    ],
)
def test_a_path_that_is_empty_is_not_taken_for_this_folder(command: str) -> None:
    result = run(*("" if word == "''" else word for word in command.split()))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("it is empty: name a file or a folder, '.' for this one\n")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
@pytest.mark.parametrize(
    "command",
    [
        "inspect {}",
        "verify {}",
        "classify {} --bundle {}",
        "export {} --out {}x",
        "validate {} --labels {}",
        "train {} --out {}x",
        "build {}",
    ],
)
def test_an_error_stays_in_one_line_though_a_name_has_two(command: str, tmp_path: Path) -> None:
    name = str(tmp_path / "two\nlines\rof one")
    result = run(*(part.replace("{}", name) for part in command.split()))
    assert result.exit_code
    (told,) = [line for line in result.stderr.split("\n") if "lines" in line]
    assert "two\\x0alines\\x0dof one" in told


def test_a_place_of_no_picture_is_told_before_the_bundle_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cell.explained.png").mkdir()
    monkeypatch.setattr("blastscope.cli.explain.opened", lambda *_, **__: pytest.fail("the bundle was opened"))
    result = run("explain", tmp_path / "cell.png", "--out", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cell.explained.png': is a folder: name a file" in result.stderr


MISSING = """
import shlex, sys
from typer.testing import CliRunner
from blastscope.cli import app

for command in sys.argv[1:]:
    result = CliRunner().invoke(app, shlex.split(command))
    print(result.exit_code, len(result.stderr.splitlines()), result.stderr.strip())
print(sorted({"torch", "timm", "onnx", "onnxruntime", "openvino", "matplotlib"} & set(sys.modules)))
"""


def missing(bundle: Path) -> Sequence[tuple[str, int]]:
    return (
        *(("train gone --out run", 2), ("train . --out file", 2), ("crossvalidate gone --out run", 2), ("find-copies gone", 2)),
        *(("export gone --out b", 2), ("export . --out b", 2), ("calibrate gone --data .", 3), ("verify gone", 3)),
        *((f"calibrate '{bundle}' --data gone", 2), (f"calibrate '{bundle}' --data gone --cascade", 2), ("build gone", 3)),
        *(("train-detector gone --out run", 2), ("train-detector . --out run", 2), ("train-detector . --out file", 2)),
        *(
            ("add-detector gone --run .", 3),
            (f"add-detector '{bundle}' --run gone", 2),
            (f"add-detector '{bundle}' --from gone", 3),
        ),
        *(("calibrate-detector gone --data .", 3), (f"calibrate-detector '{bundle}' --data gone", 2)),
        *(("add-neighbours gone --data .", 3), (f"add-neighbours '{bundle}' --data gone", 2), ("bench --compare gone", 2)),
    )


def test_missing_folders_are_told_before_large_libraries_are_imported(tiny_bundle: Any, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "file").write_bytes(b"")
    commands = missing(tiny_bundle.make("fp32"))
    done = program(MISSING, *(command for command, _ in commands), cwd=place)
    *told, loaded = done.stdout.splitlines()
    assert loaded == "[]", done.stderr
    for (command, status), line in zip(commands, told, strict=True):
        assert line.startswith(f"{status} 1 blastscope: "), (command, line)
        assert any(word in line for word in ("gone", "'.'", "file", "bccd")), (command, line)
    assert sorted(path.name for path in place.iterdir()) == ["file"]
