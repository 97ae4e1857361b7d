"""Calls through `blastscope serve` beside `Scope.classify_many`, in turn in one run: `make serve-bench`.

Clients are processes of their own, over gRPC and REST. They share the cores with the server, as they would on a workstation, so
the ratio of the throughputs tells what server and clients cost together, and their processor time what each of them does.
Prints a line of JSON for each way of asking: a protocol, so many images a request, as files or as pixels.
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
    library_versions,
    make_row,
    ratio_interval,
)
from blastscope.runtime.errors import EngineError
from blastscope.runtime.io.image import decode_image

CLIENTS = 8
IMAGES = (1, 8)  # one cell as it comes, and what a scanner hands over at once
DIRECT, PIXELS = "classify_many", "-pixels"


def main(arguments: Sequence[str] | None = None) -> None:
    """What `python -m blastscope.benchmarks.serve DATA` runs."""
    parser = argparse.ArgumentParser(description="Throughput through the server beside classify_many.")
    parser.add_argument("data", type=Path, help="folder with images of cells")
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES, help="of a request, one number or several")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--bundle", type=Path, help="by default the shipped one")
    parser.add_argument("--output", type=Path, help="a file to write the result to, for RESULTS.md")
    words = parser.parse_args(arguments)
    suffixes = {".bmp", ".png", ".webp"}
    paths = sorted(path for path in words.data.rglob("*") if path.suffix in suffixes)[: words.cells]
    if not paths:
        parser.error(f"'{words.data}' holds no image of a cell: name a folder with .bmp, .png or .webp files")
    result = measure(paths, words.rounds, tuple(words.images), words.clients, words.bundle)
    for line in served_lines(result.rows):
        print(json.dumps(line))
    if words.output:
        write_result(words.output, result)


class Way(NamedTuple):
    """How clients ask.

    Attributes
    ----------
    protocol
        'grpc' or 'http'.
    images
        Of a request.
    pixels
        Whether they are sent as pixels, which the server needn't decode; else as files.
    """

    protocol: str
    images: int
    pixels: bool = False

    @property
    def name(self) -> str:
        """As in rows: 'grpc', 'http-8', 'grpc-8-pixels'."""
        return f"{self.protocol}{'' if self.images == 1 else f'-{self.images}'}{PIXELS if self.pixels else ''}"

    def note(self, clients: int) -> str:
        """The same in words."""
        images = "1 image" if self.images == 1 else f"{self.images} images"
        return f"{clients} clients, {images} a request{', as pixels' if self.pixels else ''}"


def measure(
    paths: Sequence[Path], rounds: int, images: Sequence[int] = IMAGES, clients: int = CLIENTS, bundle: Path | None = None
) -> BenchResult:
    """Measures `classify_many` and each way of asking in turn.

    Parameters
    ----------
    paths
        Image files, one cell in each. They are read before anything is timed, and decoded where they are sent as pixels: in
        requests of the most images, if all are of one size.
    rounds
        How often each way answers all of them, after once to warm up.
    images
        Of a request, one number or several.
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
        started = [running.enter_context(Client(addresses, share)) for share in shares]
        sources: dict[bool, Sequence[Any]] = {False: [path.read_bytes() for path in paths]}
        pixels = [decode_image(content) for content in sources[False]]
        if len({getattr(image, "shape", None) for image in pixels}) == 1:
            sources[True] = pixels
        ways = [Way(protocol, count) for count in dict.fromkeys(images) for protocol in addresses]
        ways += [Way(protocol, max(images), pixels=True) for protocol in addresses if True in sources]
        turns: dict[str | Way, list[Turn]] = {f"{DIRECT}{PIXELS if as_pixels else ''}": [] for as_pixels in sources}
        turns |= {way: [] for way in ways}
        for turn in range(rounds + 1):
            for way, measured in turns.items():
                given = sources[way.pixels if isinstance(way, Way) else way.endswith(PIXELS)]
                measured.append(_turn(started, way, lambda given=given: scope.classify_many(given)))  # type: ignore[misc]
                if measured[-1].engines - {scope.audit.engine}:
                    raise EngineError(
                        "the server took another engine than 'classify_many': run it again, once both are measured"
                    )
            if not turn:  # which warmed up
                turns = {way: [] for way in turns}
        graph = "-".join(dict.fromkeys((scope.audit.precision, scope.audit.execution)))
        network = scope.bundle.manifest.name if bundle else "shipped"
    rows = [row for way, measured in turns.items() for row in _rows(f"{network}/{graph}", way, measured, (len(paths), clients))]
    return BenchResult(machine=describe_machine(), versions=library_versions(), rows=tuple(rows))


def _rows(network: str, way: str | Way, turns: Sequence[Turn], counts: tuple[int, int]) -> Iterator[Row]:
    """The row of a way's throughput, and that of its requests; `counts` are the cells and the clients."""
    cells, clients = counts
    name = f"{network}/{way.name if isinstance(way, Way) else way}"
    told: dict[str, Any] = {"notes": (way.note(clients),)} if isinstance(way, Way) else {}
    cpu_ms, client_cpu_ms = (
        float(np.median([1000 * getattr(one, field) / cells for one in turns])) for field in ("cpu_s", "client_cpu_s")
    )
    row = make_row(name, cells, [Round(np.array([1000 * one.seconds])) for one in turns])
    yield row.model_copy(update={"scope": "served", "cpu_ms": cpu_ms, "client_cpu_ms": client_cpu_ms, **told})
    if isinstance(way, Way):
        row = make_row(name, way.images, [Round(1000 * np.array(one.waits_s)) for one in turns])
        yield row.model_copy(update={"scope": "request", **told})


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


def _turn(clients: Sequence[Client], way: str | Way, direct: Callable[[], object]) -> Turn:
    begun, cpu_s = time.perf_counter(), time.process_time()
    found: list[Answers] = []
    if isinstance(way, str):
        direct()
    else:
        for client in clients:
            client.begin(way)
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
    """

    def __init__(self, addresses: Mapping[str, str], paths: Sequence[Path]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_answer_orders, args=(theirs, addresses, paths), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # it has read its files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # which ends it
        self._process.join()

    def begin(self, way: Way) -> None:
        """Lets it ask with all of its files, one request after the other."""
        self._pipe.send(way)

    def result(self) -> Answers:
        """What it did, once it is done."""
        found: Answers = self._pipe.recv()
        return found


def _answer_orders(pipe: Any, addresses: Mapping[str, str], paths: Sequence[Path]) -> None:
    contents = [path.read_bytes() for path in paths]
    pixels: list[Any] = []
    modules: dict[str, Any] = {name: __import__(f"tritonclient.{name}", fromlist=["InferInput"]) for name in addresses}
    clients = {name: modules[name].InferenceServerClient(address) for name, address in addresses.items()}
    pipe.send(None)
    with suppress(EOFError):  # the other end was closed
        while way := pipe.recv():
            if way.pixels and not pixels:  # in the round that warms up
                pixels = [decode_image(content) for content in contents]
            pipe.send(_ask(modules[way.protocol], clients[way.protocol], pixels if way.pixels else contents, way))
    for client in clients.values():
        client.close()


def _ask(module: Any, client: Any, sources: Sequence[Any], way: Way) -> Answers:
    waits_s, engine, cpu_s = [], "", time.process_time()
    wanted = [module.InferRequestedOutput(name) for name in ("label", "score", "refusal")]
    for start in range(0, len(sources), way.images):
        some = sources[start : start + way.images]
        values = np.stack(some) if way.pixels else np.array([*some, None], dtype=np.object_)[:-1]
        given = module.InferInput("image", list(values.shape), "UINT8" if way.pixels else "BYTES")
        given.set_data_from_numpy(values)
        begun = time.perf_counter()
        answer = client.infer("cells", [given], outputs=wanted).get_response()
        waits_s.append(time.perf_counter() - begun)
        engine = answer["parameters"]["engine"] if isinstance(answer, dict) else answer.parameters["engine"].string_param
    return Answers(waits_s, time.process_time() - cpu_s, engine)


def served_lines(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What each way came to, of rows of `measure`: throughput beside `classify_many`'s in the same rounds, and waits.

    `cpu_ratio` is the processor time of `classify_many` by that of server and clients: on a busy machine it tells more.
    """
    found = {(row.scope, row.name): row for row in rows if row.scope in ("served", "request")}
    lines = []
    for (scope, name), row in found.items():
        direct = found.get(("served", f"{name.rpartition('/')[0]}/{DIRECT}{PIXELS if name.endswith(PIXELS) else ''}"))
        wait = found.get(("request", name))
        if scope != "served" or not direct or not wait or direct is row:
            continue
        spent_ms = (row.cpu_ms or 0) + (row.client_cpu_ms or 0)
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
                "cpu_ratio": round(direct.cpu_ms / spent_ms, 3) if direct.cpu_ms and spent_ms else None,
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
