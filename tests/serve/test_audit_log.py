"""The audit log: nothing can be missing from it unseen, and every answer that a client got stands in it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from served import Served, serving_process
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.errors import DataError
from blastscope.serve.audit_log import AuditLog, check_log, log_files


def written(folder: Path, count: int = 30, **words: Any) -> list[bytes]:
    with AuditLog(folder, **words) as log:
        for number in range(count):
            log.append([{"image": f"{number}", "label": "all"}])
    return [line for path in log_files(folder) for line in path.read_bytes().splitlines(keepends=True)]


def test_each_line_holds_the_digest_of_the_one_before(tmp_path: Path) -> None:
    lines = written(tmp_path / "log")
    before = "0" * 64
    for number, line in enumerate(lines, 1):
        record = json.loads(line)
        assert (record["seq"], record["previous"]) == (number, before)
        before = hashlib.sha256(line.rsplit(b',"hash":', 1)[0]).hexdigest()
        assert record["hash"] == before
    state = check_log(tmp_path / "log")
    assert (state.lines, state.head) == (32, before)  # with those on opening and closing


@pytest.mark.parametrize("damage", ["line missing", "first line missing", "line changed", "line twice", "lines swapped"])
def test_a_broken_chain_names_the_line(tmp_path: Path, damage: str) -> None:
    lines = written(tmp_path / "log")
    (path,) = log_files(tmp_path / "log")
    broken = {
        "line missing": [*lines[:9], *lines[10:]],
        "first line missing": lines[1:],
        "line changed": [*lines[:9], lines[9].replace(b'"all"', b'"hem"'), *lines[10:]],
        "line twice": [*lines[:9], lines[8], *lines[9:]],
        "lines swapped": [*lines[:9], lines[10], lines[9], *lines[11:]],
    }[damage]
    path.write_bytes(b"".join(broken))
    place = 1 if damage == "first line missing" else 10
    with pytest.raises(DataError, match=f"line {place} "):
        check_log(tmp_path / "log")
    with pytest.raises(DataError):
        AuditLog(tmp_path / "log")  # a server doesn't go on with it


def test_files_follow_one_another_and_a_missing_one_is_told(tmp_path: Path) -> None:
    lines = written(tmp_path / "log", rotate_bytes=2000)
    files = log_files(tmp_path / "log")
    assert len(files) > 3
    assert check_log(tmp_path / "log").lines == len(lines)
    files[1].unlink()
    with pytest.raises(DataError, match=r"audit-00000002\.jsonl is missing"):
        check_log(tmp_path / "log")


def test_lines_cut_off_at_the_end_show_by_a_digest_noted_earlier(tmp_path: Path) -> None:
    lines = written(tmp_path / "log")
    head = check_log(tmp_path / "log").head
    written(tmp_path / "log", 3)  # the log goes on
    assert check_log(tmp_path / "log", head=head).lines == len(lines) + 5
    (path,) = log_files(tmp_path / "log")
    path.write_bytes(b"".join(lines[:-2]))
    check_log(tmp_path / "log")
    done = CliRunner().invoke(app, ["audit", str(tmp_path / "log"), "--head", head])
    assert done.exit_code == 2
    assert "lines were cut off" in done.stderr


def test_an_unfinished_last_line_is_taken_away_by_the_next_start(tmp_path: Path) -> None:
    lines = written(tmp_path / "log")
    (path,) = log_files(tmp_path / "log")
    path.write_bytes(b"".join(lines) + lines[0][:40])
    assert check_log(tmp_path / "log").torn_bytes == 40
    written(tmp_path / "log", 1)
    state = check_log(tmp_path / "log")
    assert (state.lines, state.torn_bytes) == (len(lines) + 3, 0)
    assert json.loads(path.read_bytes().splitlines()[len(lines)])["torn_bytes"] == 40


def test_two_servers_do_not_share_a_log(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "log"), pytest.raises(DataError, match="another process"):
        AuditLog(tmp_path / "log")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_the_log_is_private_and_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o755)
    for name, mode in (("there", 0o755), ("new", 0o700)):
        AuditLog(tmp_path / name).close()
        (file,) = log_files(tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_many_threads_write_one_chain(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "log", rotate_bytes=5000) as log:
        threads = [
            threading.Thread(target=lambda: [log.append([{"label": "all"}, {"label": "hem"}]) for _ in range(50)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert check_log(tmp_path / "log").lines == 8 * 50 * 2 + 2


def test_a_line_tells_client_image_bundle_and_call(serve: Callable[..., Served], cells: list[bytes], tmp_path: Path) -> None:
    server = serve(audit_log=tmp_path / "log")
    told = json.loads(server.infer([cells[0], b"no image"], headers={"X-Forwarded-For": "203.0.113.9"}).data)
    lines = [json.loads(line) for line in log_files(tmp_path / "log")[0].read_bytes().splitlines()][1:]
    assert [line["image"] for line in lines] == [hashlib.sha256(image).hexdigest() for image in (cells[0], b"no image")]
    outputs = {one["name"]: one["data"] for one in told["outputs"]}
    assert [line["label"] or "" for line in lines] == outputs["label"]
    assert [line["refusal"] for line in lines] == [None, "undecodable"]
    for line in lines:
        assert (line["bundle"], line["engine"]) == (told["parameters"]["bundle"], told["parameters"]["engine"])
        assert line["address"].startswith("127.0.0.1:")


def test_no_answer_is_sent_whose_line_could_not_be_written(
    serve: Callable[..., Served], cells: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(audit_log=tmp_path / "log")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blastscope.serve.audit_log.os.write", full)
    answer = server.infer([cells[0]])
    monkeypatch.undo()
    assert answer.status == 503
    assert "audit log" in json.loads(answer.data)["error"]
    assert server.infer([cells[0]]).status == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_kill_in_mid_load_loses_no_answer_that_a_client_got(tiny_bundle: Any, cells: list[bytes], tmp_path: Path) -> None:
    with serving_process(str(tiny_bundle.make()), tmp_path / "log") as (server, address):
        answered: list[str] = []
        enough = threading.Event()

        def ask(client_number: int) -> None:
            with triton_grpc.InferenceServerClient(address) as client:
                given = triton_grpc.InferInput("image", [1], "BYTES")
                given.set_data_from_numpy(np.array(cells[:1], dtype=np.object_))
                for number in range(10_000):
                    name = f"{client_number}-{number}"
                    try:
                        client.infer("cells", [given], request_id=name)
                    except InferenceServerException:
                        return
                    answered.append(name)
                    if len(answered) > 60:
                        enough.set()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        assert enough.wait(120)
        server.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    logged = {
        json.loads(line)["request"]
        for line in log_files(tmp_path / "log")[0].read_bytes().splitlines()[1:]
        if line[-1:] == b"}"
    }
    assert set(answered) <= logged
    check_log(tmp_path / "log")
    written(tmp_path / "log", 1)  # the next server goes on with it
