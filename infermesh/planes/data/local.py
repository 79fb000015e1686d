"""The mesh port of a GPU node, data side: requests of routers, passed to the runtimes of this node.

No choice, no queue and no hedge here: the router has decided. What this adds is the load of the runtime on each
answer (`x-infermesh-load`), fresher than any stream, and the way of a cancel: a router that closes its connection
closes ours to the runtime, which aborts the request on the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

from infermesh.core.model.names import ModelName, NodeId, TargetKey, target_key
from infermesh.core.model.outcome import Verdict
from infermesh.core.model.state import LoadHint, ModelState
from infermesh.net.asker import Asker, Request
from infermesh.net.timers import Timers
from infermesh.observe.families import Value
from infermesh.observe.metrics import Metrics
from infermesh.observe.tracing import Tracer
from infermesh.planes.data.busy import Busy
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.heads import encode_load
from infermesh.planes.data.http1_writer import HTTP1_HOP
from infermesh.planes.data.identity import RequestName, RequestNames
from infermesh.planes.data.kserve import parse_model_path
from infermesh.planes.data.pools import Pools
from infermesh.planes.data.run import Attempt, Run, RunLimits
from infermesh.planes.data.sender import HTTP1_OUT, RequestSender
from infermesh.planes.data.upstream import Upstream, UpstreamSource
from infermesh.planes.data.writer import AnswerWriter
from wire.http1 import RequestHead, ResponseHead

PORT: Final = "mesh"
_PATHS: Final = frozenset({b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings"})
_REPLICA_DIGITS_MAX: Final = 4


class LocalDestination:
    __slots__ = ("key", "node", "pool")

    def __init__(self, node: NodeId, key: TargetKey, pool: UpstreamSource) -> None:
        self.node = node
        self.key = key
        self.pool = pool


class _LocalContext:
    __slots__ = ("destination", "name", "request", "sender", "writer")

    def __init__(
        self,
        request: Request,
        destination: LocalDestination,
        name: RequestName,
        *,
        sender: RequestSender,
        writer: AnswerWriter,
    ) -> None:
        self.request = request
        self.sender = sender
        self.writer = writer
        self.destination = destination
        self.name = name


class _Forwarding:
    """The work of a mesh connection while its request is with a runtime."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_connection_lost(self) -> None:
        self._run.cancel()


class LocalPlane:
    """Owned by the data plane of a GPU node. `latest` gives the newest state of a target of this node."""

    def __init__(
        self,
        me: NodeId,
        pools: Pools,
        timers: Timers,
        *,
        metrics: Metrics,
        tracer: Tracer,
        names: RequestNames,
        limits: RunLimits,
        busy: Busy,
        latest: Callable[[TargetKey], ModelState | None],
    ) -> None:
        self.timers = timers
        self._me = me
        self._via = b"via: 1.1 " + me.encode()  # After those of the hops before (RFC 9110 section 7.6.3).
        self._pools = pools
        self._metrics = metrics
        self._tracer = tracer
        self._names = names
        self._limits = limits
        self._busy = busy
        self._latest = latest
        self._inflight: dict[TargetKey, int] = {}
        self._foreign: dict[TargetKey, int] = {}
        self._verdicts: dict[Verdict, Value] = {}

    def answer(self, asker: Asker, request: Request, writer: AnswerWriter = HTTP1_HOP) -> None:
        """One whole HTTP request of a router: its asker's `work` from now on.

        Raises RequestRefused for what this node has no runtime for.
        """
        head = request.head
        if not _is_forwarded(head):
            self._refuse("unknown_path")
            raise RequestRefused(404, "unknown_path", f"this node serves no {head.path[:80].decode('latin-1')}")
        self.forward(asker, request, writer, HTTP1_OUT)

    def forward(self, asker: Asker, request: Request, writer: AnswerWriter, sender: RequestSender) -> Run:
        """Pass a request, whole or still coming, to the runtime that its head names.

        Raises RequestRefused when there is none.
        """
        head = request.head
        key = self._key_of(head)
        pool = sender.runtime_pool(self._pools, key)
        if pool is None:
            self._refuse("unknown_model")
            raise RequestRefused(404, "model_not_found", self._no_runtime(key), param="model")
        if self._busy.stopping:
            asker.keep_alive = False
        destination = LocalDestination(self._me, key, pool)
        name = self._names.name(head, request_id=head.value(b"x-infermesh-request-id"))
        run = Run(
            self,
            asker,
            [destination],
            hedge_after_s=math.inf,
            first_byte_by=trio.current_time() + self._limits.head_timeout_s,
            writer=writer,
            limits=self._limits,
            context=_LocalContext(request, destination, name, sender=sender, writer=writer),
            sender=sender,
        )
        self._busy.enter()
        self._inflight[key] = self._inflight.get(key, 0) + 1
        asker.work = _Forwarding(run)
        run.start()
        return run

    def on_run_end(self, run: Run) -> None:
        context = _context(run)
        self._inflight[context.destination.key] -= 1
        context.sender.release()
        self._busy.leave()
        if context.name.sampled:
            self._trace(run, context)
        asker = run.asker
        if run.cancelled:
            return
        asker.work = None
        if run.winner is None:
            status = 504 if run.timed_out else 502
            text = f"the runtime did not answer: {run.failure}"
            context.writer.refuse(asker, RequestRefused(status, "runtime_unreachable", text), b"POST")
        else:
            asker.finish()

    def inflight(self, key: TargetKey) -> int:
        return self._inflight.get(key, 0)

    # --- for Run ---

    def send(self, run: Run, attempt: Attempt, up: Upstream) -> None:
        context = _context(run)
        context.sender.send(context.request, [*context.name.lines(), self._via], attempt, up)

    def response_lines(self, run: Run, attempt: Attempt, head: ResponseHead) -> list[bytes]:
        hint = self.load_of(_context(run).destination.key)
        return [b"x-infermesh-load: " + encode_load(hint)] if hint is not None else []

    def may_hedge(self, run: Run) -> bool:
        return False

    def may_retry(self, run: Run) -> bool:
        return False

    def on_dispatch(self, run: Run, attempt: Attempt) -> None:
        pass  # One runtime, one attempt: there is nothing to keep in step with.

    def on_first_byte(self, run: Run, attempt: Attempt, head: ResponseHead) -> None:
        pass  # The router measures it, with the network that its client waits for as well.

    def on_attempt_end(self, run: Run, attempt: Attempt) -> None:
        verdict = attempt.verdict
        assert verdict is not None
        counter = self._verdicts.get(verdict)
        if counter is None:
            counter = self._metrics.upstream_attempts.child(node=self._me, verdict=verdict.value)
            self._verdicts[verdict] = counter
        counter.value += 1
        if verdict is Verdict.CANCELLED:
            self._metrics.cancelled_upstream.child(node=self._me, reason="client_gone").value += 1

    def on_stale(self, run: Run, attempt: Attempt) -> None:
        self._metrics.stale_connection_retries.child(node=self._me).value += 1

    # --- load ---

    def on_sample(self, key: TargetKey, state: ModelState) -> None:
        """A new state of a runtime of this node: what of its load did not come through here?"""
        self._foreign[key] = max(0, state.queue_len + state.running - self._inflight.get(key, 0))

    def load_of(self, key: TargetKey) -> LoadHint | None:
        """The runtime's load at this moment: what passes through here is counted, the rest is as last sampled."""
        state = self._latest(key)
        if state is None:
            return None
        inside = self._inflight.get(key, 0) + self._foreign.get(key, 0)
        return hint_of(state, inside)

    # --- inside ---

    def _trace(self, run: Run, context: _LocalContext) -> None:
        """The runtime's part of the trace: its span is the one that the runtime was told as its parent."""
        name, tracer, now = context.name, self._tracer, trio.current_time()
        offset = tracer.unix_offset_s(now)
        attributes: dict[str, str | int | float | bool] = {"target": context.destination.key}
        if run.failure or run.cancelled:
            attributes["error"] = run.failure or "cancelled by the router"
        tracer.record(
            "compute",
            int((context.request.received_at + offset) * 1e9),
            int((now + offset) * 1e9),
            name.trace_id,
            name.span_id,
            name.parent_span_id,
            attributes=attributes,
        )

    def _no_runtime(self, key: TargetKey) -> str:
        if self._pools.runtime(key) is not None:
            return f"the runtime of '{key}' on node {self._me} takes no gRPC (grpc_url in [[runtimes]])"
        return f"node {self._me} has no runtime for '{key}'"

    def _key_of(self, head: RequestHead) -> TargetKey:
        model = head.value(b"x-infermesh-model")
        if not model:
            self._refuse("other")
            text = "a request on the mesh port names its model in x-infermesh-model; clients use the client port"
            raise RequestRefused(400, "missing_model", text)
        replica = head.value(b"x-infermesh-replica") or b"0"
        if not replica.isdigit() or len(replica) > _REPLICA_DIGITS_MAX:
            self._refuse("other")
            raise RequestRefused(
                400, "invalid_replica", f"x-infermesh-replica is {replica[:16].decode('latin-1')!r}: not a small number"
            )
        return target_key(self._me, ModelName(model.decode("utf-8", "replace")), int(replica))

    def _refuse(self, reason: str) -> None:
        self._metrics.bad_requests.child(port=PORT, reason=reason).value += 1


def _is_forwarded(head: RequestHead) -> bool:
    if head.path in _PATHS:
        return head.method == b"POST"
    call = parse_model_path(head.path)
    return call is not None and head.method == call.method


def hint_of(state: ModelState, inside: int) -> LoadHint:
    """`inside` requests as waiting and running: beyond the slots all wait, and KV memory may make more of them."""
    beyond = inside - state.slots if state.slots else 0
    waiting = min(inside, max(beyond, state.queue_len))
    return LoadHint(state.incarnation, waiting, inside - waiting, state.kv_usage)


def _context(run: Run) -> _LocalContext:
    context = run.context
    assert isinstance(context, _LocalContext)
    return context
