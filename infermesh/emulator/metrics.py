"""What the engine of one model counts, and its text for /metrics: the names, types and labels of vLLM 0.32.

Own text rather than prometheus_client: the registry there is per process, while several emulated servers live
in one, and an observation per token must cost next to nothing. `promtool check metrics` finds what it finds in a
real vLLM (colons in names, `_total` on a histogram) and nothing else; a test holds that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from infermesh.core.model.engine import Engine

_LATENCY_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN_TOKENS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
_STEP_TOKENS = tuple(float(1 << exponent) for exponent in (0, *range(3, 15)))
_PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)


def _token_bounds(tokens_max: int) -> tuple[float, ...]:
    """1, 2, 5, 10, ... up to the context, as vLLM builds them."""
    bounds = []
    scale = 1
    while scale <= tokens_max:
        bounds += [float(scale * mantissa) for mantissa in (1, 2, 5) if scale * mantissa <= tokens_max]
        scale *= 10
    return tuple(bounds)


class Histogram:
    __slots__ = ("bounds", "counts", "help", "name", "sum")

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help_text
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class EngineMetrics:
    """The histograms of one model and what the engine itself does not count."""

    def __init__(self, model: str, context_tokens_max: int) -> None:
        self.model = model
        tokens = _token_bounds(context_tokens_max)
        self.prompt_tokens = Histogram("request_prompt_tokens", "Number of prefill tokens processed.", tokens)
        self.generation_tokens = Histogram(
            "request_generation_tokens", "Number of generation tokens processed.", tokens
        )
        self.step_tokens = Histogram(
            "iteration_tokens_total", "Histogram of number of tokens per engine_step.", _STEP_TOKENS
        )
        self.tokens_max = Histogram(
            "request_params_max_tokens", "Histogram of the max_tokens request parameter.", tokens
        )
        self.first_token = Histogram(
            "time_to_first_token_seconds", "Histogram of time to first token in seconds.", _FIRST_TOKEN_S
        )
        self.between_tokens = Histogram(
            "inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", _BETWEEN_TOKENS_S
        )
        self.per_token = Histogram(
            "request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            _BETWEEN_TOKENS_S,
        )
        self.end_to_end = Histogram(
            "e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", _LATENCY_S
        )
        self.queue = Histogram(
            "request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            _LATENCY_S,
        )
        self.inference = Histogram(
            "request_inference_time_seconds",
            "Histogram of time spent in RUNNING phase for request.",
            _LATENCY_S,
        )
        self.prefill = Histogram(
            "request_prefill_time_seconds",
            "Histogram of time spent in PREFILL phase for request.",
            _LATENCY_S,
        )
        self.decode = Histogram(
            "request_decode_time_seconds",
            "Histogram of time spent in DECODE phase for request.",
            _LATENCY_S,
        )
        self.preemptions = Histogram(
            "request_num_preemptions",
            "Histogram of the number of times a request was preempted.",
            _PREEMPTIONS,
        )
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self.refused = 0

    def histograms(self) -> tuple[Histogram, ...]:
        return (
            self.prompt_tokens,
            self.generation_tokens,
            self.step_tokens,
            self.tokens_max,
            self.first_token,
            self.between_tokens,
            self.per_token,
            self.end_to_end,
            self.queue,
            self.inference,
            self.prefill,
            self.decode,
            self.preemptions,
        )


class Snapshot:
    """One model's engine at the moment of a scrape. `stuck`: held back by a fault, counted as waiting."""

    __slots__ = ("engine", "metrics", "stuck")

    def __init__(self, engine: Engine, metrics: EngineMetrics, stuck: int) -> None:
        self.engine = engine
        self.metrics = metrics
        self.stuck = stuck


class Page:
    """Collects the families of one /metrics page, each once, its series after its head."""

    def __init__(self, created: float) -> None:
        self._lines: list[str] = []
        self._created = f"{created!r}"

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()

    def family(self, name: str, kind: str, help_text: str, series: Iterable[tuple[str, float]]) -> None:
        """`series`: label text such as `engine="0"` (or "") and value."""
        self._lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        for labels, value in series:
            self._lines.append(f"{name}{{{labels}}} {float(value)!r}" if labels else f"{name} {float(value)!r}")

    def counter(self, name: str, help_text: str, series: Sequence[tuple[str, float]]) -> None:
        """vLLM's client library shows the birth of each counter as a gauge beside it."""
        self.family(f"{name}_total", "counter", help_text, series)
        self._born(name, help_text, [labels for labels, _ in series])

    def histogram(self, name: str, parts: Sequence[tuple[str, Histogram]]) -> None:
        help_text = parts[0][1].help
        self._lines += [f"# HELP {name} {help_text}", f"# TYPE {name} histogram"]
        for labels, histogram in parts:
            total = 0
            for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
                total += count
                edge = "+Inf" if bound is None else repr(bound)
                self._lines.append(f'{name}_bucket{{le="{edge}",{labels}}} {float(total)!r}')
            self._lines.append(f"{name}_count{{{labels}}} {float(total)!r}")
            self._lines.append(f"{name}_sum{{{labels}}} {histogram.sum!r}")
        self._born(name, help_text, [labels for labels, _ in parts])

    def _born(self, name: str, help_text: str, labels: Iterable[str]) -> None:
        self._lines += [f"# HELP {name}_created {help_text}", f"# TYPE {name}_created gauge"]
        self._lines += [f"{name}_created{{{each}}} {self._created}" for each in labels]


def engine_labels(model: str, **more: str) -> str:
    """Label text of one series, sorted by name as vLLM's is."""
    labels = {"engine": "0", "model_name": model, **more}
    return ",".join(f'{name}="{escape_label(labels[name])}"' for name in sorted(labels))


def escape_label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
