"""The metrics of /metrics."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as exposition
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector

from ..verdict import Verdict

_SECONDS = tuple(0.0005 * 1.8**step for step in range(20))  # 0.5 ms to 35 s
_MARGINS = (-8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8)


class Metrics:
    """The metrics of one process, or of all workers where PROMETHEUS_MULTIPROC_DIR is set."""

    def __init__(self) -> None:
        # Without a gauge of its start time beside every counter.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "guardpass_requests", "Requests, by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            "guardpass_request_seconds",
            "Time from the first byte to the answer.",
            ["endpoint"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.phases = Histogram(
            "guardpass_phase_seconds",
            "Time of a verdict's phases: queue, tokenize, pass.",
            ["guard", "phase"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.failures = Counter(
            "guardpass_failures", "Requests without a verdict, by kind of error.", ["kind"], registry=registry
        )
        self.verdicts = Counter("guardpass_verdicts", "Verdicts.", ["guard", "label", "safe"], registry=registry)
        self.margins = Histogram(
            "guardpass_margin", "Safe logit minus unsafe logit.", ["guard"], registry=registry, buckets=_MARGINS
        )
        self.tokens = Counter("guardpass_tokens", "Tokens that passes ran.", ["guard"], registry=registry)
        self.literals = Counter(
            "guardpass_suspicious_texts", "Texts that hold pieces of the guard's prompt.", ["guard"], registry=registry
        )
        self.partial = Counter(
            "guardpass_long_texts",
            "Texts in several windows, or truncated.",
            ["guard", "how"],
            registry=registry,
        )
        self.normalized = Counter(
            "guardpass_normalized_texts", "Texts judged in their plain form too.", ["guard"], registry=registry
        )
        self.undecided = Counter(
            "guardpass_undecided", "Verdicts that on_error made of failures.", ["guard", "on_error"], registry=registry
        )
        self.unjudged = Counter(
            "guardpass_unjudged",
            "Content that is not judged, by kind and outcome: block or allow.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "guardpass_requests_in_flight", "Requests in flight.", registry=registry, multiprocess_mode="livesum"
        )
        self.ready = Gauge(
            "guardpass_ready",
            "1 if /ready says yes in every worker.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.reloads = Counter("guardpass_reloads", "Reloads, by outcome.", ["outcome"], registry=registry)
        if not self._several:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)

    @property
    def _several(self) -> bool:
        return "PROMETHEUS_MULTIPROC_DIR" in os.environ

    def judged(self, guard: str, verdict: Verdict) -> None:
        """Count a verdict."""
        if verdict.failure is not None:
            self.undecided.labels(guard, verdict.failure.on_error).inc()
            self.failures.labels(verdict.failure.kind).inc()
            return
        self.verdicts.labels(guard, verdict.label, str(verdict.safe).lower()).inc()
        self.margins.labels(guard).observe(verdict.margin)
        self.tokens.labels(guard).inc(verdict.tokens.run)
        ms = verdict.ms
        for phase, took in (("queue", ms.queue), ("tokenize", ms.tokenize), ("pass", ms.run)):
            self.phases.labels(guard, phase).observe(took / 1e3)
        if verdict.suspicious_literals:
            self.literals.labels(guard).inc()
        if verdict.normalized:
            self.normalized.labels(guard).inc()
        if verdict.truncated or verdict.windows > 1:
            self.partial.labels(guard, "truncated" if verdict.truncated else "windows").inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        if not self._several:
            return exposition(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return exposition(together)
