"""SPIFFE ids (SPIFFE-ID standard, section 2), parsed strictly from the raw string, and ours: /node/<id>.

Never by urllib: a general URL parser forgives (case, ports, percent signs, dot segments, trailing slashes),
and each thing forgiven is a second spelling of one identity. Here one identity has one spelling, so equality
of strings is equality of identities. Pure; a fault is returned as a `Refusal` or as text, never raised.
"""

from __future__ import annotations

import re

import msgspec

from infermesh.core.model.names import NodeId
from infermesh.core.trust.refusal import Refusal, RefusalReason, shown

SPIFFE_ID_BYTES_MAX = 2048  # SPIFFE-ID 2.3.
TRUST_DOMAIN_BYTES_MAX = 255  # SPIFFE-ID 2.3.
NODE_ID_BYTES_MAX = 128  # Ours: it is a folder name, a metric label and part of every log line.

_SCHEME = "spiffe://"
_NODE_PATH = "/node/"
# `\Z`, not `$`: `$` also matches before a trailing newline.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+\Z")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+\Z")
_NODE_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*\Z")


class SpiffeId(msgspec.Struct, frozen=True):
    """`path` is empty for the trust domain itself, else begins with a slash."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"


def parse_spiffe_id(text: str) -> SpiffeId | Refusal:
    """The id that `text` spells, or what is wrong with it."""
    if len(text) > SPIFFE_ID_BYTES_MAX:  # Characters: whatever is not ASCII is refused below.
        return _refused(text, f"longer than {SPIFFE_ID_BYTES_MAX} bytes")
    if not text.startswith(_SCHEME):
        return _refused(text, f"does not begin with {_SCHEME} in lower case")
    authority, slash, rest = text[len(_SCHEME) :].partition("/")
    if fault := trust_domain_fault(authority):
        return _refused(text, f"trust domain {fault}")
    if not slash:
        return SpiffeId(authority, "")
    for segment in rest.split("/"):
        if not segment:
            return _refused(text, "has an empty path segment or a trailing slash")
        if segment in (".", ".."):
            return _refused(text, "has a dot segment in its path")
        if not _SEGMENT.match(segment):
            return _refused(text, "has a path with characters other than a-z A-Z 0-9 . _ -")
    return SpiffeId(authority, f"/{rest}")


def node_spiffe_id(trust_domain: str, node: NodeId) -> SpiffeId:
    """The id of one of our nodes. The caller has checked both names."""
    assert not trust_domain_fault(trust_domain), trust_domain_fault(trust_domain)
    assert not node_id_fault(node), node_id_fault(node)
    return SpiffeId(trust_domain, f"{_NODE_PATH}{node}")


def node_of(spiffe_id: SpiffeId) -> NodeId | Refusal:
    """The node that an id names; other workloads of the same trust domain are not ours to trust."""
    if not spiffe_id.path.startswith(_NODE_PATH):
        return Refusal(RefusalReason.NODE, f"{shown(str(spiffe_id))} is not the id of a node ({_NODE_PATH}<id>)")
    node = spiffe_id.path[len(_NODE_PATH) :]
    if fault := node_id_fault(node):
        return Refusal(RefusalReason.NODE, f"{shown(str(spiffe_id))}: node id {fault}")
    return NodeId(node)


def trust_domain_fault(name: str) -> str:
    """What is wrong with the name of a trust domain; empty when nothing is."""
    if not name:
        return "is empty"
    if len(name) > TRUST_DOMAIN_BYTES_MAX:
        return f"is longer than {TRUST_DOMAIN_BYTES_MAX} bytes"
    if not _TRUST_DOMAIN.match(name):
        return f"{shown(name)} has characters other than a-z 0-9 . _ - (no port, no user, no capitals)"
    return ""


def node_id_fault(name: str) -> str:
    """What is wrong with a node id; empty when nothing is.

    Narrower than a SPIFFE path segment by one rule: it begins with a letter or digit, because it is also a
    folder name (".." or ".git" would be folders with a meaning) and a command line argument ("-x").
    """
    if not name:
        return "is empty"
    if len(name) > NODE_ID_BYTES_MAX:
        return f"is longer than {NODE_ID_BYTES_MAX} bytes"
    if not _NODE_ID.match(name):
        return f"{shown(name)} must be letters, digits, '.', '_', '-' and begin with a letter or digit"
    return ""


def _refused(text: str, why: str) -> Refusal:
    return Refusal(RefusalReason.SPIFFE_ID, f"SPIFFE id {shown(text)} {why}")
