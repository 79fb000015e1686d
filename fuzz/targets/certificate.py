"""Invariant: any bytes shown as a certificate give an identity that keeps every SPIFFE rule, or a refusal.

Nothing is raised, whether `cryptography` warns of an oddity or not. The id's text is its only spelling: parsed
and written, it is the same text. The seeds are our good node and each bad kind of infermesh.testing, kept as
files of the corpus; the moment of judging is fixed in their time.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Hashable, Iterator

from fuzz.target import Target, demand
from infermesh.core.model.names import NodeId
from infermesh.core.trust import PeerIdentity, Refusal, examine_signer, identify_peer, parse_certificate
from infermesh.core.trust.spiffe import node_of, node_spiffe_id, parse_spiffe_id

NOW_UNIX = 1_767_225_600.0  # 2026-01-01; the seeds are made for it.
DOMAIN = "test.mesh"


def check(data: bytes) -> Hashable:
    labels = []
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            labels.append(_identify(data))
            certificate = parse_certificate(data)
            if not isinstance(certificate, Refusal):
                examine_signer(certificate, now_unix=NOW_UNIX)
    text = data.decode("latin-1")
    parsed = parse_spiffe_id(text)
    if not isinstance(parsed, Refusal):
        demand(str(parsed) == text, "an id with a second spelling", text, parsed)
        node = node_of(parsed)
        if not isinstance(node, Refusal):
            demand(node_spiffe_id(parsed.trust_domain, node) == parsed, "a node with a second id", text, node)
    return tuple(labels)


def _identify(data: bytes) -> str:
    found = identify_peer(data, trust_domain=DOMAIN, expected_node=None, now_unix=NOW_UNIX)
    if isinstance(found, Refusal):
        demand(found.detail.isprintable(), "a refusal that would forge a log line", found)
        demand(len(found.detail) < 1000, "a refusal as long as the peer likes", found)
        return str(found.reason)
    assert isinstance(found, PeerIdentity)
    demand(found.not_after >= NOW_UNIX, "an identity that has ended", found)
    wanted = str(node_spiffe_id(DOMAIN, found.node))
    demand(wanted.encode() in data, "an identity that the certificate does not state", found)
    other = identify_peer(data, trust_domain=DOMAIN, expected_node=NodeId("another"), now_unix=NOW_UNIX)
    demand(isinstance(other, Refusal) or found.node == "another", "the expected node does not matter", other)
    return "identity"


def changed_der(data: bytes, rng: random.Random) -> bytes:
    """One element of the DER tree changed, doubled, dropped or replaced, the lengths around it made right."""
    return _changed(data, rng, 12)


def _changed(data: bytes, rng: random.Random, depth: int) -> bytes:
    elements = _elements(data)
    if not elements:
        return _spoilt(data, rng)
    number = rng.randrange(len(elements))
    tag, body = elements[number]
    choice = rng.random()
    if choice < 0.1:
        elements[number : number + 1] = []
    elif choice < 0.2:
        elements[number:number] = [(tag, body)]
    elif choice < 0.3:
        elements[number] = (rng.choice(_TAGS), body)
    elif (tag & 0x20 or tag == 4) and depth:
        elements[number] = (tag, _changed(body, rng, depth - 1))
    elif tag == 3 and body:
        elements[number] = (tag, body[:1] + _changed(body[1:], rng, depth - 1))
    else:
        elements[number] = (tag, _spoilt(body, rng))
    return b"".join(bytes([tag]) + _length(len(body)) + body for tag, body in elements)


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """(tag, content) of the elements side by side in `data`; none when it is not all elements."""
    found = []
    at = 0
    while at + 2 <= len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 3:
                return []
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + length > len(data):
            return []
        found.append((tag, data[at : at + length]))
        at += length
    return found if at == len(data) else []


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    count = (size.bit_length() + 7) // 8
    return bytes([0x80 | count]) + size.to_bytes(count, "big")


def _spoilt(body: bytes, rng: random.Random) -> bytes:
    choice = rng.random()
    if choice < 0.4 and body:
        at = rng.randrange(len(body))
        return (
            body[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, body[at] ^ 1 << rng.randrange(8)))]) + body[at + 1 :]
        )
    if choice < 0.6:
        return rng.choice(_TEXTS)
    if choice < 0.8:
        return body + rng.choice(_TEXTS)[:40]
    return body[: rng.randrange(len(body) + 1)]


_TAGS = (1, 2, 3, 4, 5, 6, 0x0C, 0x13, 0x16, 0x17, 0x18, 0x1E, 0x30, 0x31, 0x80, 0x82, 0x86, 0x87, 0xA0, 0xA3)
_TEXTS = (
    b"",
    b"\x00",
    b"\xff",
    b"spiffe://test.mesh/node/gpu-a",
    b"spiffe://test.mesh/node/../x",
    b"spiffe://test.mesh/node/a\n",
    b"spiffe://Test.mesh/node/a",
    b"spiffe://test.mesh/node/" + b"a" * 200,
    b"20260101000000Z",
    b"99991231235959Z",
    b"000101000000Z",
    b"\x55\x1d\x11",
    b"\x55\x1d\x0f",
    b"\x55\x1d\x13",
    b"\x55\x1d\x25",
    b"\xd8\x00",
    b"A" * 300,
)


def seeds() -> Iterator[bytes]:
    yield b"spiffe://test.mesh/node/gpu-a"
    yield b"spiffe://test.mesh"
    yield b"\x30\x82\x01\x00"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("infermesh.core.trust",),
    words=_TEXTS[1:],
    mutate=changed_der,
)
