"""What /metrics counts."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as exposition
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector

from ..verdict import Verdict

_SECONDS = tuple(0.0005 * 1.8**step for step in range(20))  # 0.5 ms to 35 s
_MARGINS = (-8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8)


class Metrics:
    """Of one process, or of all workers where PROMETHEUS_MULTIPROC_DIR is set."""

    def __init__(self) -> None:
        # No gauge beside every counter for when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "guardpass_requests", "Requests, by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            "guardpass_request_seconds", "From the first byte to the answer.", ["endpoint"], registry=registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.phases = Histogram(
            "guardpass_phase_seconds", "A verdict's parts: queue, tokenize, pass.", ["guard", "phase"],
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self.failures = Counter(
            "guardpass_failures", "Requests that got no verdict, by kind of error.", ["kind"], registry=registry
        )
        self.verdicts = Counter("guardpass_verdicts", "Verdicts.", ["guard", "label", "safe"], registry=registry)
        self.margins = Histogram(
            "guardpass_margin", "Safe logit less unsafe logit.", ["guard"], registry=registry, buckets=_MARGINS
        )
        self.tokens = Counter("guardpass_tokens", "Tokens run.", ["guard"], registry=registry)
        self.literals = Counter(
            "guardpass_suspicious_texts", "Texts with pieces of the guard's own prompt.", ["guard"], registry=registry
        )
        self.partial = Counter(
            "guardpass_long_texts", "Texts of several windows, or cut.", ["guard", "how"], registry=registry
        )
        self.normalized = Counter(
            "guardpass_normalized_texts", "Texts whose plain form was judged too.", ["guard"], registry=registry
        )
        self.undecided = Counter(
            "guardpass_undecided", "Verdicts that on_error gave.", ["guard", "on_error"], registry=registry
        )
        self.unjudged = Counter(
            "guardpass_unjudged", "What was not judged, by kind, and whether it was blocked or allowed.",
            ["kind", "outcome"], registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "guardpass_requests_in_flight", "Requests being answered.", registry=registry, multiprocess_mode="livesum"
        )
        self.ready = Gauge(
            "guardpass_ready", "1 where /ready says yes, of every worker.", registry=registry,
            multiprocess_mode="livemin",
        )  # fmt: skip
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
        """The exposition format of Prometheus."""
        if not self._several:
            return exposition(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return exposition(together)
