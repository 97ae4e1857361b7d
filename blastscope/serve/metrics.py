"""`Metrics`: what Prometheus is told, and the spans of OpenTelemetry where it is installed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from blastscope.runtime.evaluation.drift import Drift
from blastscope.runtime.frames.features import cell_features
from blastscope.runtime.io.image import load_pixels
from blastscope.runtime.types import Prediction

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ITEMS = (1, 2, 4, 8, 16, 32, 64)
NOVELTY = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 5.0)
SAMPLED = 8  # one image of so many is compared with the training's cells


class DriftCollector(Collector):
    """The drift of each model's images: shifts in spreads of the training's cells, worked out when they are asked for."""

    def __init__(self) -> None:
        self.drifts: dict[str, Drift] = {}
        self._lock = threading.Lock()

    def of(self, model: str) -> Drift:
        """The drift of a model."""
        with self._lock:
            return self.drifts.setdefault(model, Drift())

    def collect(self) -> Iterator[Any]:
        """As the registry calls it."""
        shift = GaugeMetricFamily(
            "blastscope_drift_shift", "Shift of the median from the training's, in its spreads", labels=["model", "feature"]
        )
        alarm = GaugeMetricFamily("blastscope_drift_alarm", "Whether the shift is above its limit", labels=["model", "feature"])
        for model, drift in sorted(self.drifts.items()):
            for one in drift.state().shifts:
                shift.add_metric([model, one.feature], one.shift)
                alarm.add_metric([model, one.feature], float(one.alarm))
        yield shift
        yield alarm


class Metrics:
    """Counts and times of one server. Safe to use from many threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("blastscope_requests", "Answered requests", ["protocol", "model", "status"], **own)
        self.request_seconds = Histogram(
            "blastscope_request_seconds", "From request to answer", ["protocol", "model"], buckets=SECONDS, **own
        )
        self.images = Counter("blastscope_images", "Answered images", ["model", "bundle", "result"], **own)
        self.refusals = Counter("blastscope_refusals", "Images without a call", ["model", "code"], **own)
        self.novelty = Histogram(
            "blastscope_novelty", "Distance of cells from the training's", ["model"], buckets=NOVELTY, **own
        )
        self.in_flight = Gauge("blastscope_requests_in_flight", "Requests at work or waiting", **own)
        self.queue = Gauge("blastscope_queue_images", "Images that wait for a batch", ["model"], **own)
        self._histograms = {
            "queue_seconds": Histogram(
                "blastscope_queue_seconds", "An image's wait for its batch", ["model"], buckets=SECONDS, **own
            ),
            "batch_items": Histogram("blastscope_batch_images", "Images of a batch", ["model"], buckets=ITEMS, **own),
            "compute_seconds": Histogram(
                "blastscope_compute_seconds", "From batch to answers", ["model"], buckets=SECONDS, **own
            ),
        }
        self.ready = Gauge("blastscope_bundle_ready", "Whether a bundle answers", ["bundle", "digest"], **own)
        self.audit_lines = Gauge("blastscope_audit_lines", "Lines of the audit log", **own)
        self._drift = DriftCollector()
        self.registry.register(self._drift)
        self._seen = 0
        # finding a series takes longer than counting in it
        self._requests, self._request_seconds = cache(self.requests.labels), cache(self.request_seconds.labels)
        self._images, self._novelty = cache(self.images.labels), cache(self.novelty.labels)

    def observer(self, model: str) -> Callable[[str, float], None]:
        """What a model's batcher tells its figures to."""
        histograms = {name: histogram.labels(model) for name, histogram in self._histograms.items()}
        return lambda name, figure: histograms[name].observe(figure)

    def request(self, protocol: str, model: str, status: str, seconds: float) -> None:
        """Counts a request."""
        self._requests(protocol, model, status).inc()
        self._request_seconds(protocol, model).observe(seconds)

    def count(self, model: str, bundle: str, answers: Sequence[Any]) -> None:
        """Counts the answers of a request."""
        for answer in answers:
            refusal = getattr(answer, "refusal", None)
            if refusal:
                self.refusals.labels(model, refusal.code).inc()
            result = "refused" if refusal else getattr(answer, "label", None)
            self._images(model, bundle, result if isinstance(result, str) else "answered").inc()
            if isinstance(answer, Prediction) and answer.novelty is not None:
                self._novelty(model).observe(answer.novelty)

    def watch_cells(self, model: str) -> Callable[[Any], Any]:
        """What sees a model's images of cells, and compares some of them with the training's.

        It gives what is to be classified: the image, or its pixels where it has decoded it.
        """
        drift = self._drift.of(model)

        def watch(image: Any) -> Any:
            self._seen += 1  # a lost count does no harm
            if self._seen % SAMPLED != 1:
                return image
            pixels = load_pixels(image)
            if not isinstance(pixels, np.ndarray) or 0 in pixels.shape:
                return image
            features = cell_features(pixels)
            if features is not None:
                drift.add_features(features)
            return pixels

        return watch

    def watch_frames(self, model: str) -> Callable[[Any], None]:
        """What sees a model's reports on frames."""
        return self._drift.of(model).add

    def text(self) -> bytes:
        """Everything, in Prometheus' format."""
        return generate_latest(self.registry)


class Tracing:
    """Spans of OpenTelemetry, children of the client's where it sends a `traceparent`. Nothing where nobody collects them."""

    def __init__(self) -> None:
        self._installed = bool(find_spec("opentelemetry") and find_spec("opentelemetry.trace"))

    def span(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """A span for the time of a `with` block."""
        if not self._installed:
            return nullcontext()
        from opentelemetry import trace

        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # the API alone, without an SDK behind it
            return nullcontext()
        from opentelemetry.propagate import extract

        found: AbstractContextManager[Any] = trace.get_tracer("blastscope").start_as_current_span(
            name, context=extract(dict(carrier)), kind=trace.SpanKind.SERVER, attributes=dict(attributes)
        )
        return found
