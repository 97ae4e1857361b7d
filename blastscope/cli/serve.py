"""`blastscope serve`: bundles as a server; `blastscope audit` checks its log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blastscope.cli.options import (
    Json,
    SessionArguments,
    ValidationPath,
    with_session_arguments,
)
from blastscope.cli.terminal import echo, say
from blastscope.runtime.errors import UsageError

if TYPE_CHECKING:
    from blastscope.serve.options import ServeOptions

TOKEN_VARIABLE = "BLASTSCOPE_TOKEN"
MB = 1_000_000


@with_session_arguments
def serve(
    *,
    bundle: Annotated[
        list[str] | None, typer.Option(help="PATH or NAME=PATH, once for each bundle. Default: the one that is shipped.")
    ] = None,
    host: Annotated[str, typer.Option(help="Any but loopback demands a token and TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of REST; 0 for any free one.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Of gRPC; 0 for any free one.")] = 8081,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="REST alone.")] = False,
    token_file: Annotated[
        Path | None, typer.Option(help=f"Lines of a client's name and its token. Default: the token in {TOKEN_VARIABLE}.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate, with its chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    audit_log: Annotated[Path | None, typer.Option(help="Folder for a line about each image that was answered.")] = None,
    audit_file_mb: Annotated[
        float, typer.Option(min=0.01, help="A file of the log that is larger is followed by the next.")
    ] = 64,
    audit_sync: Annotated[
        bool, typer.Option("--audit-sync", help="Each line is on the disk before its answer is sent.")
    ] = False,
    max_body_mb: Annotated[float, typer.Option(min=0.01, help="Of a request.")] = 64,
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Of all images of a request.")] = 100,
    max_images: Annotated[int, typer.Option(min=1, help="Of a request.")] = 256,
    max_requests: Annotated[int, typer.Option(min=1, help="At work or waiting at the same time.")] = 256,
    queue: Annotated[int, typer.Option(min=1, help="Images of a model that may wait.")] = 1024,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds, for clients that name no shorter time.")] = 30,
    batch_delay_ms: Annotated[float, typer.Option(min=0, help="An image's wait for others, where batches are faster.")] = 2,
    drain: Annotated[float, typer.Option(min=0, help="Seconds for what is under way at SIGTERM.")] = 30,
    engine: SessionArguments,
    validation: ValidationPath = None,
) -> None:
    """Serve bundles over the Open Inference Protocol (KServe v2), until Ctrl-C or SIGTERM; SIGHUP loads the bundles anew."""
    from blastscope.serve.options import Limits, ServeOptions

    limits = Limits(
        body_bytes=int(max_body_mb * MB),
        pixels=int(max_megapixels * MB),
        images=max_images,
        requests=max_requests,
        queue=max(queue, max_images),
        timeout_s=timeout,
        drain_s=drain,
        batch_delay_s=batch_delay_ms / 1000,
    )
    options = ServeOptions(
        named_bundles(bundle or []),
        host=host,
        port=port,
        grpc_port=None if no_grpc else grpc_port,
        tokens=_tokens(token_file),
        certificate=tls_cert,
        key=tls_key,
        audit_log=audit_log,
        audit_rotate_bytes=int(audit_file_mb * MB),
        audit_sync=audit_sync,
        session=engine.words(validation=validation),
        limits=limits,
    )
    asyncio.run(run(options))


def named_bundles(words: list[str]) -> dict[str, Path | None]:
    """Bundles by name, from PATH and NAME=PATH. Raises `UsageError` for two of one name."""
    found: dict[str, Path | None] = {}
    for word in words:
        name, equals, place = word.partition("=")
        path = Path(place if equals else word)
        name = name if equals else path.name.removesuffix(".zip")
        if name in found:
            raise UsageError(f"two bundles are named '{name}': give them names, as NAME=PATH")
        found[name] = path
    return found or {"shipped": None}


def _tokens(path: Path | None) -> Any:
    from blastscope.serve.options import Tokens

    if path:
        return Tokens.read(path)
    token = os.environ.get(TOKEN_VARIABLE)
    return Tokens({"client": token}) if token else None


async def run(options: ServeOptions) -> None:
    """Runs a server until a signal ends it."""
    from blastscope.serve.server import Server

    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    server = Server(options)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on(name: str, act: Any) -> None:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: loop.call_soon_threadsafe(act))

    await server.start()
    again: set[asyncio.Task[None]] = set()

    def load_again() -> None:
        task = asyncio.create_task(server.repository.load_again())
        again.add(task)
        task.add_done_callback(again.discard)

    on("SIGTERM", ended.set)
    on("SIGINT", ended.set)
    on("SIGHUP", load_again)
    scheme = "https" if options.certificate else "http"
    say(f"REST at {scheme}://{options.host}:{server.port}")
    if options.grpc_port is not None:
        say(f"gRPC at {options.host}:{server.grpc_port}")
    say(f"models: {', '.join(server.repository.model_names)}")
    await ended.wait()
    say("ending: what is under way is answered")
    await server.stop()


def audit(
    folder: Annotated[Path, typer.Argument(help="The audit log's folder.")],
    *,
    head: Annotated[str | None, typer.Option(help="Digest that was the last one earlier: it must still be there.")] = None,
    as_json: Json = False,
) -> None:
    """Check that no line of a server's audit log is missing or was changed, and print the last one's digest."""
    from blastscope.serve.audit_log import check_log

    state = check_log(folder, head=head)
    if as_json:
        echo(json.dumps({"files": state.files, "lines": state.lines, "head": state.head, "torn_bytes": state.torn_bytes}))
        return
    echo(f"{state.lines} lines in {state.files} files, none is missing; the last one's digest is {state.head}")
    if state.torn_bytes:
        say(f"{state.torn_bytes} bytes at the end are a line that was not finished: its answer was not sent")


VERBS = (serve, audit)
