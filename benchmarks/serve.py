"""Calls through `blastscope serve` beside `Scope.classify_many`, in turn in one run: `make serve-bench`.

Clients are processes of their own, over gRPC and REST. They share the cores with the server, as they would on a workstation, so
the ratio of the throughputs tells what server and clients cost together, and their processor time what each of them does.
Prints a line of JSON for each protocol.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from blastscope.benchmarks.interleaved_timing import Round
from blastscope.benchmarks.results import write_result
from blastscope.benchmarks.schema import (
    SCOPE_DESCRIPTIONS,
    BenchResult,
    Row,
    describe_machine,
    installed_versions,
    make_row,
    ratio_interval,
)
from blastscope.runtime.errors import EngineError

CLIENTS = 8
DIRECT = "classify_many"


def main(arguments: Sequence[str] | None = None) -> None:
    """What `python -m blastscope.benchmarks.serve DATA` runs."""
    parser = argparse.ArgumentParser(description="Throughput through the server beside classify_many.")
    parser.add_argument("data", type=Path, help="folder with images of cells")
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1, help="of a request")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--bundle", type=Path, help="by default the shipped one")
    parser.add_argument("--output", type=Path, help="a file to write the result to, for RESULTS.md")
    words = parser.parse_args(arguments)
    suffixes = {".bmp", ".png", ".webp"}
    paths = sorted(path for path in words.data.rglob("*") if path.suffix in suffixes)[: words.cells]
    if not paths:
        parser.error(f"'{words.data}' holds no image of a cell: name a folder with .bmp, .png or .webp files")
    result = measure(paths, words.rounds, words.images, words.clients, words.bundle)
    for line in served_lines(result.rows):
        print(json.dumps(line))
    if words.output:
        write_result(words.output, result)


def measure(
    paths: Sequence[Path], rounds: int, images: int = 1, clients: int = CLIENTS, bundle: Path | None = None
) -> BenchResult:
    """Measures both ways in turn.

    Parameters
    ----------
    paths
        Image files, one cell in each. They are read before anything is timed.
    rounds
        How often each way answers all of them, after once to warm up.
    images
        Of a request.
    clients
        Processes that ask at the same time, each with its share.
    bundle
        None: the shipped one.

    Returns
    -------
    BenchResult
        Rows in the scope 'served', whose batch is all of `paths`, and in the scope 'request'.

    Raises
    ------
    EngineError
        The server's engine computes otherwise than that of `classify_many`.
    """
    from blastscope.runtime.session import open_bundle
    from blastscope.serve.options import ServeOptions
    from blastscope.serve.server import BackgroundServer

    session = {"workload": "throughput", "unlike_training": "call"}
    server = BackgroundServer(ServeOptions({"bundle": bundle}, port=0, grpc_port=0, session=session))
    with server, open_bundle(bundle, **session) as scope, ExitStack() as running:  # type: ignore[arg-type]
        addresses = {"grpc": server.grpc_address, "http": server.url.removeprefix("http://")}
        shares = [paths[number::clients] for number in range(min(clients, len(paths)))]
        started = [running.enter_context(Client(addresses, share, images)) for share in shares]
        contents = [path.read_bytes() for path in paths]
        turns: dict[str, list[Turn]] = {name: [] for name in (DIRECT, *addresses)}
        for turn in range(rounds + 1):
            for name, measured in turns.items():
                measured.append(_turn(started, name, lambda: scope.classify_many(contents)))
                if measured[-1].engines - {scope.audit.engine}:
                    raise EngineError(
                        "the server took another engine than 'classify_many': run it again, once both are measured"
                    )
            if not turn:  # which warmed up
                turns = {name: [] for name in turns}
        graph = "-".join(dict.fromkeys((scope.audit.precision, scope.audit.execution)))
        network = scope.bundle.manifest.name if bundle else "shipped"
    note = f"{clients} clients, {images} {'image' if images == 1 else 'images'} a request"
    rows = []
    for name, measured in turns.items():
        cpu_ms, client_cpu_ms = (
            float(np.median([1000 * getattr(one, field) / len(paths) for one in measured]))
            for field in ("cpu_s", "client_cpu_s")
        )
        whole = [Round(np.array([1000 * one.seconds])) for one in measured]
        told = {"scope": "served", "notes": (note,), "cpu_ms": cpu_ms, "client_cpu_ms": client_cpu_ms}
        rows.append(make_row(f"{network}/{graph}/{name}", len(paths), whole).model_copy(update=told))
    for name in addresses:
        waits = [Round(1000 * np.array(one.waits_s)) for one in turns[name]]
        row = make_row(f"{network}/{graph}/{name}", images, waits)
        rows.append(row.model_copy(update={"scope": "request", "notes": (note,)}))
    return BenchResult(machine=describe_machine(), versions=installed_versions(), rows=tuple(rows))


class Answers(NamedTuple):
    """What a client did with its share.

    Attributes
    ----------
    waits_s
        Seconds of each request.
    cpu_s
        Seconds of processor time that the client took.
    engine
        Digest of the engine that answered.
    """

    waits_s: list[float]
    cpu_s: float
    engine: str


class Turn(NamedTuple):
    """All cells, answered once in one way.

    Attributes
    ----------
    seconds
        From the first request to the last answer.
    cpu_s, client_cpu_s
        Seconds of processor time that this process, which holds the server too, and the clients took meanwhile.
    waits_s
        Seconds of each request.
    engines
        Digests of the engines that answered the clients.
    """

    seconds: float
    cpu_s: float
    client_cpu_s: float
    waits_s: list[float]
    engines: set[str]


def _turn(clients: Sequence[Client], name: str, direct: Callable[[], object]) -> Turn:
    begun, cpu_s = time.perf_counter(), time.process_time()
    found: list[Answers] = []
    if name == DIRECT:
        direct()
    else:
        for client in clients:
            client.begin(name)
        found = [client.result() for client in clients]
    return Turn(
        time.perf_counter() - begun,
        time.process_time() - cpu_s,
        sum(one.cpu_s for one in found),
        [wait for one in found for wait in one.waits_s],
        {one.engine for one in found},
    )


class Client:
    """A process that asks with its share of the files, which it holds in memory, over connections that stay open.

    Parameters
    ----------
    addresses
        Of the server, by protocol.
    paths
        Its share of the files.
    images
        Of a request.
    """

    def __init__(self, addresses: Mapping[str, str], paths: Sequence[Path], images: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_answer_orders, args=(theirs, addresses, paths, images), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # it has read its files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # which ends it
        self._process.join()

    def begin(self, protocol: str) -> None:
        """Lets it ask with all of its files, one request after the other."""
        self._pipe.send(protocol)

    def result(self) -> Answers:
        """What it did, once it is done."""
        found: Answers = self._pipe.recv()
        return found


def _answer_orders(pipe: Any, addresses: Mapping[str, str], paths: Sequence[Path], images: int) -> None:
    contents = [path.read_bytes() for path in paths]
    modules: dict[str, Any] = {name: __import__(f"tritonclient.{name}", fromlist=["InferInput"]) for name in addresses}
    clients = {name: modules[name].InferenceServerClient(address) for name, address in addresses.items()}
    pipe.send(None)
    with suppress(EOFError):  # the other end was closed
        while protocol := pipe.recv():
            pipe.send(_ask(modules[protocol], clients[protocol], contents, images))
    for client in clients.values():
        client.close()


def _ask(module: Any, client: Any, contents: Sequence[bytes], images: int) -> Answers:
    waits_s, engine, cpu_s = [], "", time.process_time()
    wanted = [module.InferRequestedOutput(name) for name in ("label", "score", "refusal")]
    for start in range(0, len(contents), images):
        files = np.array([*contents[start : start + images], None], dtype=np.object_)[:-1]
        given = module.InferInput("image", [len(files)], "BYTES")
        given.set_data_from_numpy(files)
        begun = time.perf_counter()
        answer = client.infer("cells", [given], outputs=wanted).get_response()
        waits_s.append(time.perf_counter() - begun)
        engine = answer["parameters"]["engine"] if isinstance(answer, dict) else answer.parameters["engine"].string_param
    return Answers(waits_s, time.process_time() - cpu_s, engine)


def served_lines(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What each protocol came to, of rows of `measure`: throughput beside `classify_many`'s in the same rounds, and waits."""
    found = {(row.scope, row.name): row for row in rows if row.scope in ("served", "request")}
    lines = []
    for (scope, name), row in found.items():
        direct, wait = found.get(("served", f"{name.rpartition('/')[0]}/{DIRECT}")), found.get(("request", name))
        if scope != "served" or not direct or not wait or direct is row:
            continue
        low, high = ratio_interval(*([np.array(one) for one in side.samples_ms] for side in (direct, row)))
        lines.append(
            {
                "name": name,
                "notes": ", ".join(row.notes),
                "classify_many_per_s": round(direct.cells_per_second, 2),
                "served_per_s": round(row.cells_per_second, 2),
                "ratio": round(direct.p50_ms / row.p50_ms, 3),
                "ratio_low": round(low, 3),
                "ratio_high": round(high, 3),
                "classify_many_cpu_ms": direct.cpu_ms and round(direct.cpu_ms, 2),
                "server_cpu_ms": row.cpu_ms and round(row.cpu_ms, 2),
                "clients_cpu_ms": row.client_cpu_ms and round(row.client_cpu_ms, 2),
                "p50_ms": round(wait.p50_ms, 1),
                "p99_ms": round(wait.p99_ms, 1),
            }
        )
    return lines


def served_table(rows: Iterable[Row]) -> Iterator[str]:
    """The section of RESULTS.md on calls through a server, line by line; nothing where there are none."""
    lines = served_lines(rows)
    if not lines:
        return
    yield f"#### served: {SCOPE_DESCRIPTIONS['served']}\n"
    yield "Clients and server share the cores, so the ratio of the throughputs includes the processor time of both (CPU, for"
    yield "a cell, summed over the cores). p50 and p99 are from a client's request to its answer.\n"
    head = f"| | | cells/s | cells/s of `{DIRECT}` | ratio (95 %) | CPU ms of `{DIRECT}` | of the server | of the clients |"
    yield f"{head} p50 ms | p99 |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for line in lines:
        ratio = f"{line['ratio']:.2f} ({line['ratio_low']:.2f} to {line['ratio_high']:.2f})"
        rates = f"{line['served_per_s']:.1f} | {line['classify_many_per_s']:.1f}"
        costs = " | ".join(
            "" if line[key] is None else f"{line[key]:.2f}"
            for key in ("classify_many_cpu_ms", "server_cpu_ms", "clients_cpu_ms")
        )
        waits = f"{line['p50_ms']:.1f} | {line['p99_ms']:.1f}"
        yield f"| `{line['name']}` | {line['notes']} | {rates} | {ratio} | {costs} | {waits} |"
    yield ""


if __name__ == "__main__":
    main()
