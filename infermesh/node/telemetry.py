"""What a node shows of itself: metrics, logs, spans, and how late its loop runs."""

from __future__ import annotations

import random

import trio

from infermesh.node.config import NodeConfig
from infermesh.observe.logs import RequestSampling, get_logger
from infermesh.observe.metrics import Metrics
from infermesh.observe.span_export import SpanCounters, SpanExportConfig, run_span_export
from infermesh.observe.tracing import Tracer
from infermesh.planes.data.ledger import Ledger

TICK_S = 0.05


class Telemetry:
    def __init__(self, config: NodeConfig, version: str, rng: random.Random) -> None:
        self.metrics = Metrics(config.node.id, version)
        self.log = get_logger()
        self._tracing = config.tracing
        self._version = version
        self._node = config.node.id
        self.tracer = Tracer(
            rng,
            enabled=bool(config.tracing.endpoint),
            recorded=self.metrics.spans_recorded.child(),
            dropped=self.metrics.spans_dropped.child(reason="buffer_full"),
        )
        sampling = RequestSampling(config.logs.request_sample_ratio, rng)
        self.ledger = Ledger(self.metrics, self.log, self.tracer, sampling)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            if self._tracing.endpoint:
                nursery.start_soon(self._export_spans)

    async def _export_spans(self) -> None:
        counters = SpanCounters(
            self.metrics.spans_exported.child(), self.metrics.spans_dropped.child(reason="export_failed")
        )
        export = SpanExportConfig(endpoint=self._tracing.endpoint, node=self._node, version=self._version)
        await run_span_export(self.tracer, export, counters, self.log)

    async def _tick(self) -> None:
        """How late a timer of 50 ms fires: what gossip and consensus beside the relay would feel."""
        slip = self.metrics.tick_slip.child()
        due = trio.current_time()
        while True:
            due = max(due + TICK_S, trio.current_time())
            await trio.sleep_until(due)
            slip.observe(trio.current_time() - due)
