"""The client port of a router: OpenAI's paths in, admission, choice, one run per request.

Here a request is recognised and its facts are read; what then happens to it is `Inference`'s, one for each.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final
from urllib.parse import unquote

import msgspec
import trio

from infermesh import __version__
from infermesh.core.model.names import ModelName
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.targets import EMPTY_VIEW, RoutingView
from infermesh.core.routing.capacity import fleet_slots
from infermesh.core.routing.prefix import blocks_of
from infermesh.net.asker import Asker, Request
from infermesh.net.http1 import ServerConnection
from infermesh.planes.data import kserve
from infermesh.planes.data.busy import Busy
from infermesh.planes.data.errors import JSON_TYPE, RequestRefused
from infermesh.planes.data.gate import Gate
from infermesh.planes.data.http1_writer import HTTP1
from infermesh.planes.data.identity import RequestName, RequestNames
from infermesh.planes.data.inference import Inference
from infermesh.planes.data.ledger import Ledger
from infermesh.planes.data.models import find_model, list_models
from infermesh.planes.data.peek import MODEL_CHARS_MAX, model_facts, read_facts, read_hints
from infermesh.planes.data.record import RequestRecord
from infermesh.planes.data.router_host import RequestContext, RouterHost
from infermesh.planes.data.run import RunLimits
from infermesh.planes.data.sender import RequestSender
from infermesh.planes.data.websockets import WebSocketRules, WebSockets
from infermesh.planes.data.writer import AnswerWriter
from wire.http1 import RequestHead

PORT: Final = "client"
_INFERENCE: Final = {
    b"/v1/chat/completions": "/v1/chat/completions",
    b"/v1/completions": "/v1/completions",
    b"/v1/embeddings": "/v1/embeddings",
}
_MODELS: Final = b"/v1/models"
_NAMES_SHOWN_MAX: Final = 8
_ROUTE_CHARS_MAX: Final = 128  # A call's path is its client's to choose.
_WEBSOCKETS: Final = WebSocketRules()
_SLOTS_UNKNOWN: Final = 256  # vLLM's default of max_num_seqs, for a runtime that does not say.


class Frontend:
    def __init__(
        self,
        host: RouterHost,
        gate: Gate,
        *,
        names: RequestNames,
        limits: RunLimits,
        busy: Busy,
        attempts_max: int,
        slo_s: float = 0.0,
        websockets: WebSocketRules = _WEBSOCKETS,
    ) -> None:
        """`slo_s`: time to first byte of requests that state no deadline; 0: they have none."""
        self.host = host
        self.gate = gate
        self.limits = limits
        self._pseudonym = host.pseudonym.encode()
        self.attempts_max = attempts_max
        self.busy = busy
        self._ledger: Ledger = host.ledger
        self._names = names
        self._default_deadline_s = slo_s or math.inf
        self._view = EMPTY_VIEW
        self._slots: dict[ModelName, int] = {}
        self.websockets = WebSockets(self, websockets, host.timers, partial(host.ledger.bad_request, PORT))

    @property
    def view(self) -> RoutingView:
        return self._view

    def install(self, view: RoutingView) -> None:
        """Route by this view from now on. Called by the control loop, between requests."""
        self._view = view
        self.host.pools.install(view)
        self.host.router.install(view, trio.current_time())
        slots = {model: fleet_slots(targets, slots_unknown=_SLOTS_UNKNOWN) for model, targets in view.eligible.items()}
        for model in sorted(self._slots.keys() - slots.keys()):
            self.gate.forget(model)
            self.host.forget(model)
        for model, count in sorted(slots.items()):
            if self._slots.get(model) != count:
                self.gate.set_capacity(model, count)
        self._slots = slots

    def answer(self, asker: Asker, request: Request, writer: AnswerWriter = HTTP1) -> None:
        """One request of a client: answered at once, or its asker's `work` from now on.

        Raises RequestRefused for what never came as far as the books.
        """
        head = request.head
        path = head.path
        if self.busy.stopping:
            asker.keep_alive = False
        route = _INFERENCE.get(path)
        if route is not None:
            if head.method == b"POST":
                self._infer(asker, writer, request, route)
            elif not (isinstance(asker, ServerConnection) and self.websockets.upgrade(asker, request)):
                raise self._not_allowed(head.method, route, "POST")
        elif path == _MODELS or path.startswith(b"/v1/models/"):
            if head.method not in (b"GET", b"HEAD"):
                raise self._not_allowed(head.method, path.decode("latin-1"), "GET, HEAD")
            self._answer_models(asker, path, head.method)
        elif path == b"/health" and head.method in (b"GET", b"HEAD"):
            asker.respond(200, [], method=head.method)
        elif path.startswith(kserve.PREFIX):
            self._answer_kserve(asker, request, writer)
        else:
            raise self._unknown_path(path)

    def _answer_kserve(self, asker: Asker, request: Request, writer: AnswerWriter) -> None:
        head = request.head
        call = kserve.parse_model_path(head.path)
        if call is None:
            self._answer_server(asker, head)
        elif head.method != call.method:
            raise self._not_allowed(head.method, head.path.decode("latin-1"), call.method.decode())
        elif call.action == b"ready":
            if find_model(self._view, call.model) is None:
                raise self._unknown_model(call.model)
            asker.respond(200, [], method=head.method)
        else:
            self._infer(asker, writer, request, call.route, call)

    def _answer_server(self, asker: Asker, head: RequestHead) -> None:
        """What KServe v2 asks of a server, answered for the fleet."""
        value: object
        match head.path.rstrip(b"/"):
            case b"/v2/health/live" | b"/v2/health/ready":
                asker.respond(200, [], method=head.method)
                return
            case b"/v2":
                value = {"name": "infermesh", "version": __version__, "extensions": ["model_repository"]}
            case b"/v2/repository/index":
                value = kserve.list_repository(self._view)
            case path if path.startswith(b"/v2/repository/"):
                self._ledger.bad_request(PORT, "other")
                text = "models are loaded and unloaded by the mesh's placement, not by clients"
                raise RequestRefused(403, "placement_only", text)
            case _:
                raise self._unknown_path(head.path)
        asker.respond(200, [JSON_TYPE], msgspec.json.encode(value), method=head.method)

    # --- inference ---

    def _infer(
        self, asker: Asker, writer: AnswerWriter, request: Request, route: str, call: kserve.ModelCall | None = None
    ) -> None:
        """`call`: of a path that names its model; else the body does."""
        name = self._names.name(request.head)
        try:
            self._refuse_loop(request)
            facts = self._facts(request, call)
        except RequestRefused as refused:
            writer.refuse(asker, refused, request.head.method, [(b"x-infermesh-request-id", name.request_id)])
            return
        record = _record_of(name, (writer.protocol, route), request, facts)
        Inference(self, asker, writer, RequestContext(request, facts, record, name)).begin()

    def _facts(self, request: Request, call: kserve.ModelCall | None) -> RequestFacts:
        try:
            hints = read_hints(request.head, self._default_deadline_s)
        except RequestRefused:
            self._ledger.bad_request(PORT, "other")
            raise
        if call is not None:
            prompt_bytes = len(request.body) if call.has_prompt else 0
            facts = model_facts(call.model, hints, request.received_at, prompt_bytes=prompt_bytes, stream=call.streams)
        else:
            try:
                facts = read_facts(request.body, hints, request.received_at, blocks_of)
            except RequestRefused:
                self._ledger.bad_request(PORT, "not_json")
                raise
        if facts.model not in self._view.eligible:
            raise self._unknown_model(facts.model)
        return facts

    def call(
        self, asker: Asker, writer: AnswerWriter, request: Request, model: ModelName, *, sender: RequestSender
    ) -> Inference:
        """An inference, not begun yet, whose request may still be coming. Raises RequestRefused."""
        name = self._names.name(request.head)
        self._refuse_loop(request)
        try:
            hints = read_hints(request.head, self._default_deadline_s)
        except RequestRefused as refused:
            raise self.bad_request("other", refused) from refused
        until_s = sender.deadline - request.received_at
        if until_s < hints.deadline_s:
            hints = msgspec.structs.replace(hints, deadline_s=until_s)
        facts = model_facts(model, hints, request.received_at, stream=not sender.complete)
        if model not in self._view.eligible:
            raise self._unknown_model(model)
        route = request.head.path.decode("latin-1")[:_ROUTE_CHARS_MAX]
        record = _record_of(name, (writer.protocol, route), request, facts)
        return Inference(self, asker, writer, RequestContext(request, facts, record, name, sender))

    # --- refusals ---

    def bad_request(self, reason: str, refused: RequestRefused) -> RequestRefused:
        """`refused`, counted."""
        self._ledger.bad_request(PORT, reason)
        return refused

    def _refuse_loop(self, request: Request) -> None:
        """A request that this node has sent on comes back to it when a runtime's url leads to a router."""
        hops = [value for name, value in request.head.fields if name == b"via"]
        if hops and any(hop.split()[1:2] == [self._pseudonym] for hop in b",".join(hops).split(b",")):
            self._ledger.bad_request(PORT, "loop")
            me = self._pseudonym.decode()
            text = f"the request has passed node {me} before (via); a runtime's url must not lead to a router"
            raise RequestRefused(508, "loop_detected", text)

    def _unknown_path(self, path: bytes) -> RequestRefused:
        self._ledger.bad_request(PORT, "unknown_path")
        known = ", ".join([*_INFERENCE.values(), "/v1/models", "/v2/models/NAME/infer"])
        shown = path[:80].decode("latin-1")
        return RequestRefused(404, "unknown_path", f"nothing is served at {shown}; known paths: {known}")

    def _unknown_model(self, model: ModelName) -> RequestRefused:
        self._ledger.bad_request(PORT, "unknown_model")
        names = sorted(self._view.eligible)
        shown = ", ".join(names[:_NAMES_SHOWN_MAX]) + (", ..." if len(names) > _NAMES_SHOWN_MAX else "")
        name = model[:MODEL_CHARS_MAX]
        text = f"the model '{name}' does not exist in this fleet; it serves: {shown or 'no model at this moment'}"
        return RequestRefused(404, "model_not_found", text, param="model")

    def _not_allowed(self, method: bytes, path: str, allowed: str) -> RequestRefused:
        self._ledger.bad_request(PORT, "other")
        text = f"{path[:80]} takes {allowed}, not {method.decode('latin-1')}"
        return RequestRefused(405, "method_not_allowed", text, allow=allowed)

    def _answer_models(self, asker: Asker, path: bytes, method: bytes) -> None:
        if path == _MODELS:
            value: dict[str, object] = {"object": "list", "data": list_models(self._view)}
        else:
            # OpenAI's clients write the slash of "owner/model" as %2F.
            model = unquote(path.removeprefix(b"/v1/models/"), errors="replace")
            found = find_model(self._view, model)
            if found is None:
                raise self._unknown_model(ModelName(model[:256]))
            value = found
        asker.respond(200, [JSON_TYPE], msgspec.json.encode(value), method=method)


def _record_of(name: RequestName, asked: tuple[str, str], request: Request, facts: RequestFacts) -> RequestRecord:
    """`asked`: by which protocol, and for what."""
    protocol, route = asked
    return RequestRecord(
        request_id=name.request_id.decode(),
        route=route,
        protocol=protocol,
        received_at=request.received_at,
        model=facts.model,
        priority=facts.priority,
        tenant=facts.tenant,
        trace_id=name.trace_id,
        span_id=name.span_id,
        parent_span_id=name.parent_span_id,
        sampled=name.sampled,
    )
