"""`Repository`: the bundles that are served, each as three models, and their change without a lost request.

The first bundle's models are `cells`, `crops` and `frames`, and those of a bundle NAME are also `NAME.cells` and so on. A
model's version is the beginning of its bundle's digest: a client that names it is never answered by another bundle. A bundle
that is loaded anew answers from the moment on when it is open; the one before finishes what was sent to it, and is closed then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from blastscope import SHIPPED_BUNDLE
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.session import Scope
from blastscope.serve.batching import Batcher
from blastscope.serve.metrics import Metrics
from blastscope.serve.models import Cells, Crops, Frames, Model
from blastscope.serve.options import Limits
from blastscope.serve.tensors import Code, RequestError
from blastscope.serve.use_count import UseCount

LOG = logging.getLogger(__name__)
VERSION_DIGITS = 12  # of the digest
FRAME_WORKERS = 2  # each uses every core for most of its time
# Cells that a thread takes at once where many wait: four cost it 9 % less processor time than one after the other, and eight
# 11 %, but each waits for the others' answers.
MOST_CELLS = 4
KINDS = ("cells", "crops", "frames")
OpenScope = Callable[[Path | None], Scope]


class ServedModel(NamedTuple):
    """A served model, and the bundle that answers it.

    Attributes
    ----------
    model : Model
        What is asked.
    batcher : Batcher
        What gathers requests for it.
    """

    model: Model
    batcher: Batcher


class ServedBundle:
    """An open bundle with its three models, as long as somebody uses it."""

    def __init__(self, name: str, scope: Scope, limits: Limits, metrics: Metrics) -> None:
        self.name, self.scope = name, scope
        self.version = scope.bundle.digest[:VERSION_DIGITS]
        self.uses = UseCount()
        workers, batch = max(2, len(scope.lanes.engine.lanes)), scope.lanes.engine.batch
        models: tuple[tuple[Model, int, int, int], ...] = (
            (Cells(metrics.watch_cells(f"{name}.cells")), workers, batch, MOST_CELLS),
            (Crops(scope.bundle), workers, batch, batch),
            (Frames(metrics.watch_frames(f"{name}.frames")), min(FRAME_WORKERS, usable_threads()), 1, 1),
        )
        self.lanes = {
            model.kind: ServedModel(
                model,
                Batcher(
                    lambda items, model=model: model.run(scope, items),  # type: ignore[misc]
                    workers=threads,
                    batch=size,
                    delay_s=limits.batch_delay_s,
                    limit=limits.queue,
                    most=most,
                    observe=metrics.observer(f"{name}.{model.kind}"),
                ),
            )
            for model, threads, size, most in models
        }
        for kind, lane in self.lanes.items():
            metrics.queue.labels(f"{name}.{kind}").set_function(lambda lane=lane: lane.batcher.waiting)  # type: ignore[misc]

    @property
    def ready(self) -> bool:
        """Whether it can answer: not where its device broke down."""
        return all(lane.batcher.lost is None for lane in self.lanes.values())

    async def close(self) -> None:
        """Waits until nobody uses it, and closes it."""
        await self.uses.close()
        for lane in self.lanes.values():
            await lane.batcher.close()
        await asyncio.to_thread(self.scope.close)


class Repository:
    """The bundles of a server. `find` and `held` are for any thread, the other methods belong to one event loop.

    Parameters
    ----------
    bundles : mapping of str to Path or None
        Where each lies, by the name that it is served under; the first is the default.
    open_scope : callable
        Opens the bundle at a path. Called in a thread.
    """

    def __init__(self, bundles: Mapping[str, Path | None], open_scope: OpenScope, limits: Limits, metrics: Metrics) -> None:
        self._paths = dict(bundles)
        self.default = next(iter(self._paths))
        own = tuple(f"{name}.{kind}" for name in self._paths for kind in KINDS)
        self.model_names = (*KINDS, *own)  # every name that a model can be asked for under
        self._open_scope, self._limits, self._metrics = open_scope, limits, metrics
        self._served: dict[str, ServedBundle] = {}
        self._loading = {name: asyncio.Lock() for name in self._paths}
        self._closing: set[asyncio.Task[None]] = set()
        self.reasons: dict[str, str] = {}  # why a bundle's last loading failed

    @property
    def ready(self) -> bool:
        """Whether every bundle answers."""
        return len(self._served) == len(self._paths) and all(served.ready for served in self._served.values())

    def find(self, model: str, version: str = "") -> tuple[ServedBundle, ServedModel]:
        """What answers as `model`. Raises `RequestError` where nothing does."""
        name = self.bundle_of(model)
        served = self._served.get(name)
        if served is None:
            raise RequestError(
                Code.UNAVAILABLE, f"bundle '{name}' is not loaded: {self.reasons.get(name, 'it is being opened')}"
            )
        if version not in ("", served.version):
            raise RequestError(Code.NOT_FOUND, f"model '{model}' has no version '{version[:40]}': it has {served.version}")
        return served, served.lanes[model.rpartition(".")[2]]

    @contextmanager
    def held(self, model: str, version: str = "") -> Iterator[tuple[ServedBundle, ServedModel]]:
        """What answers as `model`, which stays open meanwhile. Raises as `find`."""
        served, lane = self.find(model, version)
        while not served.uses.begin():  # another thread has put a new one in its place, and closed it
            served, lane = self.find(model, version)
        try:
            yield served, lane
        finally:
            served.uses.end()

    def bundle_of(self, model: str) -> str:
        """The name of the bundle behind a model. Raises `RequestError`."""
        if model not in self.model_names:
            raise RequestError(Code.NOT_FOUND, f"no model '{model[:80]}': there are {', '.join(self.model_names)}")
        return model.rpartition(".")[0] or self.default

    async def load(self, name: str) -> str:
        """Opens a bundle as it now lies at its path, and lets it answer. Gives its version. Raises `BlastscopeError`s.

        Where the path holds what is served already, nothing happens, unless its device broke down.
        """
        async with self._loading[name]:
            before = self._served.get(name)
            try:
                if before and before.ready and await asyncio.to_thread(self._same, name, before):
                    return before.version
                scope = await asyncio.to_thread(self._open_scope, self._paths[name])
            except BlastscopeError as error:
                self.reasons[name] = str(error)
                raise
            fresh = ServedBundle(name, scope, self._limits, self._metrics)
            self._served[name] = fresh
            self.reasons.pop(name, None)
            self._metrics.ready.labels(name, fresh.version).set(1)
            LOG.info("bundle '%s' is served in version %s", name, fresh.version)
            if before:
                self._metrics.ready.remove(name, before.version) if before.version != fresh.version else None
                task = asyncio.create_task(before.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            return fresh.version

    def _same(self, name: str, before: ServedBundle) -> bool:
        """Whether the path holds what is served already."""
        return read_bundle(self._paths[name] or SHIPPED_BUNDLE).digest == before.scope.bundle.digest

    async def load_all(self) -> None:
        """Opens every bundle. Raises `BlastscopeError`s."""
        for name in self._paths:
            await self.load(name)

    async def load_again(self) -> None:
        """Loads every bundle anew; one that can't be loaded goes on as it was, with a line in the log."""
        for name in self._paths:
            try:
                await self.load(name)
            except BlastscopeError as error:
                LOG.error("bundle '%s' goes on as it was: %s", name, error)

    async def close(self) -> None:
        """Waits for what is under way, and closes every bundle."""
        served, self._served = list(self._served.values()), {}
        await asyncio.gather(*(one.close() for one in served), *self._closing, return_exceptions=False)
