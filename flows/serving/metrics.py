"""What the server counts, in Prometheus' format; a registry of its own for each server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = CollectorRegistry()
        to = self.registry
        self.requests = Counter(
            "gptworks_http_requests", "Requests by path and status.", ["path", "status"], registry=to
        )
        self.answers = Counter("gptworks_answers", "Ended answers by reason.", ["finish"], registry=to)
        self.prompt_tokens = Counter("gptworks_prompt_tokens", "Tokens of prompts that were answered.", registry=to)
        self.cut_tokens = Counter("gptworks_cut_prompt_tokens", "Tokens that were cut from prompts.", registry=to)
        self.tokens = Counter("gptworks_generated_tokens", "Tokens of answers.", registry=to)
        self.active = Gauge("gptworks_active_slots", "Requests that are being answered.", registry=to)
        self.waiting = Gauge("gptworks_waiting_requests", "Requests that wait for a slot.", registry=to)
        self.first_token = self._seconds("time_to_first_token", "From the request to its first token.")
        self.next_token = self._seconds("time_per_token", "Between two tokens of an answer.")
        self.whole = self._seconds("answer", "From the request to the end of its answer.")

    def _seconds(self, name: str, words: str) -> Histogram:
        return Histogram(f"gptworks_{name}_seconds", words, buckets=_SECONDS, registry=self.registry)

    def page(self) -> bytes:
        """All of it as text."""
        return generate_latest(self.registry)
