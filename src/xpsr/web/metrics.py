"""Numbers of a server as Prometheus reads them: what was asked, how long it took, how full the queue is."""

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from xpsr import __version__
from xpsr.web.guards import Answer
from xpsr.web.jobs import Job
from xpsr.web.scheduler import Scheduler

__all__ = ["Metrics", "Worker"]

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)
"""Of jobs."""

_SHORTER = (0.005, 0.01, 0.025, 0.05, *_SECONDS)
"""Of requests."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Worker(Protocol):
    """Who does jobs, as far as numbers go."""

    @property
    def device(self) -> str:
        """Where."""

    @property
    def is_ready(self) -> bool:
        """Whether it could begin at once."""


class Metrics:
    """A registry of a server's own: two of them in one process have nothing in common.

    `answered`, `over` and `died` are what guards, scheduler and hands call when something has happened; any thread may.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        names = ("method", "route", "status")
        self._requests = Counter("xpsr_http_requests", "Requests.", names, registry=registry)
        about = "From a request's head to the end of its answer."
        self._durations = Histogram(
            "xpsr_http_request_duration_seconds", about, ("route",), buckets=_SHORTER, registry=registry
        )
        self._received = Counter("xpsr_http_received_bytes", "Of bodies of requests.", registry=registry)
        self._sent = Counter("xpsr_http_sent_bytes", "Of bodies of answers.", registry=registry)
        about = "Jobs that are over; outcome: done, cancelled, or the code of an error."
        self._jobs = Counter("xpsr_jobs", about, ("kind", "outcome"), registry=registry)
        about = "From when a job's picture has come to when somebody began with it."
        self._waits = Histogram("xpsr_job_wait_seconds", about, ("kind",), buckets=_SECONDS, registry=registry)
        about = "From when somebody began with a job to its end."
        self._runs = Histogram("xpsr_job_run_seconds", about, ("kind",), buckets=_SECONDS, registry=registry)
        self._megapixels = Counter("xpsr_result_megapixels", "Of results.", registry=registry)
        about = "Processes that died and were replaced."
        self._deaths = Counter("xpsr_worker_deaths", about, ("device",), registry=registry)
        ProcessCollector(namespace="xpsr", registry=registry)  # of the server itself

    def watch(self, scheduler: Scheduler, workers: Sequence[Worker]) -> None:
        """Adds how the queue and those who work stand, which is looked at whenever somebody asks."""
        self._registry.register(_Standing(scheduler, workers))
        for worker in workers:
            self._deaths.labels(worker.device)  # 0 is a number, too

    def answered(self, answer: Answer) -> None:
        """Counts a request."""
        method = answer.method if answer.method in _METHODS else "other"
        route = answer.route or "none"
        self._requests.labels(method, route, "cut" if answer.is_cut else str(answer.status or "none")).inc()
        self._durations.labels(route).observe(answer.seconds)
        self._received.inc(answer.received)
        self._sent.inc(answer.sent)

    def over(self, job: Job) -> None:
        """Counts a job."""
        kind = job.request.kind
        outcome = job.error.code if job.state == "failed" and job.error is not None else job.state
        self._jobs.labels(kind, outcome).inc()
        if job.started is not None and job.finished is not None:
            self._waits.labels(kind).observe(max(job.started - job.created, 0))
            self._runs.labels(kind).observe(max(job.finished - job.started, 0))
        if job.state == "done" and kind == "upscale" and job.record is not None:
            width, height = job.record["output_size"]
            self._megapixels.inc(width * height / 10**6)

    def died(self, device: str) -> None:
        """Counts a process that has died."""
        self._deaths.labels(device).inc()

    def text(self) -> bytes:
        """Returns all of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Standing(Collector):
    """How things stand at this moment."""

    def __init__(self, scheduler: Scheduler, workers: Sequence[Worker]):
        self._scheduler, self._workers = scheduler, workers

    def collect(self) -> Iterator[Metric]:
        about = "Requests whose picture comes, that wait, are worked on, or are over and kept."
        yield _gauge("xpsr_queue_jobs", about, "state", self._scheduler.counts.items())
        about = "Results that nobody has fetched yet."
        yield GaugeMetricFamily("xpsr_unfetched_results", about, value=self._scheduler.unfetched)
        about = "Whether nothing more is taken on, because the server is to end."
        yield GaugeMetricFamily("xpsr_draining", about, value=self._scheduler.is_draining)
        up: dict[str, int] = {}
        for worker in self._workers:
            up[worker.device] = up.get(worker.device, 0) + worker.is_ready
        yield _gauge("xpsr_workers_up", "Processes that are loaded.", "device", up.items())
        build = InfoMetricFamily("xpsr_build", "Which xpsr this is.")
        build.add_metric((), {"version": __version__, "python": platform.python_version()})
        yield build


def _gauge(name: str, about: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=(label,))
    for value, number in values:
        family.add_metric((value,), number)
    return family
