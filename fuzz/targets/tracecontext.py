"""Invariant: trace context is read as OpenTelemetry reads it or dropped; what is passed on reads the same.

Input: the values of traceparent, an empty line, the values of tracestate, one a line. Nothing is ever raised.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fuzz.target import Target, demand
from wire.limits import TRACESTATE_BYTES_MAX, TRACESTATE_MEMBERS_MAX
from wire.tracecontext import Traceparent, encode_traceparent, parse_traceparent, parse_tracestate

_PROPAGATOR = TraceContextTextMapPropagator()


def check(data: bytes) -> Hashable:
    first, _, second = data.partition(b"\n\n")
    parents, states = first.split(b"\n"), second.split(b"\n")
    parent = parse_traceparent(parents)
    if parent is not None:
        _check_parent(parent, parents)
    state = parse_tracestate(states)
    if state:
        _check_state(state, states)
    demand(parse_tracestate([b",".join(states)]) == state, "joined by the sender, another value", state)
    return parent is not None and parent.sampled, parent is None, bool(state)


def _check_parent(parent: Traceparent, values: Sequence[bytes]) -> None:
    written = encode_traceparent(parent.trace_id, parent.span_id, sampled=parent.sampled)
    demand(parse_traceparent([written]) == parent, "written again, another parent", written, parent)
    text = values[0].decode("latin-1").strip(" \t")
    context = trace.get_current_span(_PROPAGATOR.extract({"traceparent": text})).get_span_context()
    if not context.is_valid:
        demand(_only_we_read(text), "OpenTelemetry refuses it", text)
        return
    demand(f"{context.trace_id:032x}".encode() == parent.trace_id, "another trace", context, parent)
    demand(f"{context.span_id:016x}".encode() == parent.span_id, "another span", context, parent)
    demand(context.trace_flags.sampled == parent.sampled, "sampled differs", context, parent)


def _only_we_read(text: str) -> bool:
    """A later version with a tail: the standard asks to read it (section 3.2.4); OpenTelemetry drops some tails."""
    return not text.startswith("00-") and len(text) > 55


def _check_state(state: bytes, values: Sequence[bytes]) -> None:
    members = state.split(b",")
    demand(len(state) <= TRACESTATE_BYTES_MAX, "too long", len(state))
    demand(len(members) <= TRACESTATE_MEMBERS_MAX, "too many members", len(members))
    demand(parse_tracestate([state]) == state, "read again, another value", state)
    demand(all(0x20 <= byte < 0x7F for byte in state), "bytes that no field may hold", state)
    keys = [member.partition(b"=")[0] for member in members]
    demand(len(set(keys)) == len(keys), "a key twice", keys)
    joined = b",".join(values)
    demand(all(member in joined for member in members), "a member that nobody sent", state)


def seeds() -> Iterator[bytes]:
    parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    yield parent + b"\n\nrojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    yield parent[:-2] + b"00"
    yield b"cc" + parent[2:] + b"-what-the-future-will-be-like\n\n"
    yield b"ff" + parent[2:]
    yield parent + b"\n" + parent
    yield b"\n\nfw529a3039@dt=FfffffffffffffffffffffffffffffffffAA;v= x,,\t a-b_*/=\x21\nk=v\nk=w"
    yield b"\n\n" + b",".join(b"k%d=1" % number for number in range(33))


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.tracecontext",),
    words=(b"00-", b"-01", b"\n\n", b"\n", b"ff-", b"@", b"=", b",", b"0" * 32, b"0" * 16),
    input_bytes_max=1024,
)
