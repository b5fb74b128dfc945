"""What a server counts, for Prometheus.

Labels take few values: routes are templates ("/v1/models/{id}"), never addresses as they came.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ken.core import Trajectory
from ken.serving.service import Ask, Service

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("ken_requests", "HTTP requests.", ["route", "method", "status"], registry=registry)
        self._latency = Histogram(
            "ken_request_seconds", "From the request to the last byte of the reply.", ["route"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._attempts = Counter(
            "ken_attempts", "Questions worked on, by how they ended.", ["strategy", "outcome"], registry=registry
        )
        self._decisions = Counter(
            "ken_decisions", "Verdicts of models on their own knowledge.", ["strategy", "knows"], registry=registry
        )
        self._searches = Counter("ken_searches", "Searches.", ["strategy"], registry=registry)
        self._calls = Counter("ken_model_calls", "Calls of models.", ["model"], registry=registry)
        self._tokens = Counter("ken_tokens", "Tokens, as the models count them.", ["model", "kind"], registry=registry)
        self._upstream = Counter(
            "ken_upstream_errors", "Attempts that a model or an index ended.", ["model"], registry=registry
        )
        queue = service.queue
        for name, text, read in (
            ("ken_attempts_running", "Questions worked on now.", lambda: queue.running),
            ("ken_attempts_queued", "Questions that wait for their turn.", lambda: queue.queued),
            ("ken_attempts_limit", "Questions worked on at once at most.", lambda: queue.concurrency),
        ):
            Gauge(name, text, registry=registry).set_function(read)
        service.observers.append(self.attempted)

    def requested(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered. Status 499: the client left before."""
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def attempted(self, asked: Ask, trajectory: Trajectory | None) -> None:
        """An attempt ended; without a trajectory, it was cut off."""
        if trajectory is None:
            self._attempts.labels(asked.strategy, "cut off").inc()
            return
        outcome = "error" if trajectory.error else "answer" if (trajectory.answer or "").strip() else "no answer"
        self._attempts.labels(trajectory.strategy, outcome).inc()
        if trajectory.decision is not None:
            verdict = {True: "yes", False: "no", None: "unclear"}[trajectory.decision.knows]
            self._decisions.labels(trajectory.strategy, verdict).inc()
        usage, model = trajectory.usage, trajectory.model
        self._searches.labels(trajectory.strategy).inc(usage.search_calls)
        self._calls.labels(model).inc(usage.model_calls)
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)
        if trajectory.error:
            self._upstream.labels(model).inc()

    def mount(self, app: FastAPI) -> None:
        """`GET /metrics`."""

        @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
        def metrics() -> Response:
            """Counters in Prometheus' text format."""
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
