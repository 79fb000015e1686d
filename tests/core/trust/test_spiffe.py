"""SPIFFE ids as raw strings: one spelling for one identity, everything else refused with its reason."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.model.names import NodeId
from infermesh.core.trust import Refusal, RefusalReason, SpiffeId, node_of, node_spiffe_id, parse_spiffe_id
from infermesh.core.trust.spiffe import (
    NODE_ID_BYTES_MAX,
    SPIFFE_ID_BYTES_MAX,
    TRUST_DOMAIN_BYTES_MAX,
    node_id_fault,
    trust_domain_fault,
)

GOOD = {
    "a node": ("spiffe://example.mesh/node/gpu-a", SpiffeId("example.mesh", "/node/gpu-a")),
    "a trust domain": ("spiffe://example.mesh", SpiffeId("example.mesh", "")),
    "all characters of a domain": ("spiffe://a-z.0_9", SpiffeId("a-z.0_9", "")),
    "all characters of a path": ("spiffe://d/aZ0._-/x", SpiffeId("d", "/aZ0._-/x")),
    "an address as domain": ("spiffe://1.2.3.4/x", SpiffeId("1.2.3.4", "/x")),
    "three dots in a path": ("spiffe://d/...", SpiffeId("d", "/...")),
    "a dotted name in a path": ("spiffe://d/.a./..b", SpiffeId("d", "/.a./..b")),
}

BAD = {
    "nothing": ("", "does not begin"),
    "a word": ("spiffe", "does not begin"),
    "a scheme": ("spiffe:", "does not begin"),
    "a scheme and a slash": ("spiffe:/", "does not begin"),
    "no host": ("spiffe://", "is empty"),
    "no host but a path": ("spiffe:///node/a", "is empty"),
    "an upper case scheme": ("SPIFFE://d/node/a", "does not begin"),
    "a mixed case scheme": ("Spiffe://d/node/a", "does not begin"),
    "another scheme": ("https://d/node/a", "does not begin"),
    "a scheme with a suffix": ("spiffe2://d/node/a", "does not begin"),
    "a leading space": (" spiffe://d/node/a", "does not begin"),
    "an upper case host": ("spiffe://Example.mesh/node/a", "characters other than"),
    "a port": ("spiffe://d:443/node/a", "characters other than"),
    "an empty port": ("spiffe://d:/node/a", "characters other than"),
    "a user": ("spiffe://u@d/node/a", "characters other than"),
    "a user and password": ("spiffe://u:p@d/node/a", "characters other than"),
    "an IPv6 host": ("spiffe://[::1]/node/a", "characters other than"),
    "a percent sign in the host": ("spiffe://d%2e/node/a", "characters other than"),
    "a wildcard host": ("spiffe://*/node/a", "characters other than"),
    "a space in the host": ("spiffe://d d/node/a", "characters other than"),
    "a letter that is not ASCII in the host": ("spiffe://d\u00e9/node/a", "characters other than"),
    "a full-width letter in the host": ("spiffe://\uff44/node/a", "characters other than"),
    "a newline after the host": ("spiffe://d\n", "characters other than"),
    "a query on the host": ("spiffe://d?x", "characters other than"),
    "a fragment on the host": ("spiffe://d#x", "characters other than"),
    "a backslash for a slash": ("spiffe://d\\node\\a", "characters other than"),
    "a root path": ("spiffe://d/", "trailing slash"),
    "a trailing slash": ("spiffe://d/node/a/", "trailing slash"),
    "an empty segment": ("spiffe://d/node//a", "empty path segment"),
    "a leading empty segment": ("spiffe://d//node/a", "empty path segment"),
    "a dot": ("spiffe://d/.", "dot segment"),
    "a dot segment": ("spiffe://d/node/./a", "dot segment"),
    "two dots": ("spiffe://d/..", "dot segment"),
    "a dot dot segment": ("spiffe://d/x/../node/a", "dot segment"),
    "a dot dot segment at the end": ("spiffe://d/node/..", "dot segment"),
    "a query": ("spiffe://d/node/a?x=1", "path with characters"),
    "an empty query": ("spiffe://d/node/a?", "path with characters"),
    "a fragment": ("spiffe://d/node/a#x", "path with characters"),
    "an empty fragment": ("spiffe://d/node/a#", "path with characters"),
    "a percent sign in the path": ("spiffe://d/node/%61", "path with characters"),
    "an encoded slash": ("spiffe://d/node%2Fa", "path with characters"),
    "an encoded dot segment": ("spiffe://d/%2e%2e/a", "path with characters"),
    "a colon in the path": ("spiffe://d/node/a:b", "path with characters"),
    "a space in the path": ("spiffe://d/node/a b", "path with characters"),
    "a NUL in the path": ("spiffe://d/node/a\0b", "path with characters"),
    "a newline at the end": ("spiffe://d/node/a\n", "path with characters"),
    "a letter that is not ASCII in the path": ("spiffe://d/node/\u00e9", "path with characters"),
    "a digit that is not ASCII in the path": ("spiffe://d/node/\u0661", "path with characters"),
    "a tilde": ("spiffe://d/node/~a", "path with characters"),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_id_is_parsed_and_spelt_as_it_was(name: str) -> None:
    text, expected = GOOD[name]
    assert parse_spiffe_id(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("name", BAD)
def test_an_id_is_refused_for(name: str) -> None:
    text, why = BAD[name]
    refusal = parse_spiffe_id(text)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.SPIFFE_ID
    assert why in refusal.detail
    assert refusal.detail.isprintable()


def test_the_lengths_are_taken_at_the_limit_and_refused_one_past_it() -> None:
    domain = "d" * TRUST_DOMAIN_BYTES_MAX
    assert parse_spiffe_id(f"spiffe://{domain}") == SpiffeId(domain, "")
    assert isinstance(parse_spiffe_id(f"spiffe://{domain}d"), Refusal)
    prefix = "spiffe://d/"
    path = "p" * (SPIFFE_ID_BYTES_MAX - len(prefix))
    assert parse_spiffe_id(prefix + path) == SpiffeId("d", f"/{path}")
    refusal = parse_spiffe_id(f"{prefix}{path}p")
    assert isinstance(refusal, Refusal)
    assert len(refusal.detail) < 300


@given(st.text(st.sampled_from(string.ascii_letters + string.digits + "._-/:@?#% \n\0\u00e9"), max_size=40))
def test_whatever_is_accepted_has_one_spelling(tail: str) -> None:
    """For every string: it is refused, or spelling out what was parsed gives the same string back."""
    for text in (tail, f"spiffe://{tail}", f"spiffe://d/{tail}"):
        parsed = parse_spiffe_id(text)
        assert isinstance(parsed, Refusal) or str(parsed) == text


def test_a_node_is_named_by_the_last_of_two_segments() -> None:
    spiffe_id = node_spiffe_id("example.mesh", NodeId("gpu-a"))
    assert str(spiffe_id) == "spiffe://example.mesh/node/gpu-a"
    assert node_of(spiffe_id) == "gpu-a"


@pytest.mark.parametrize("path", ["", "/node", "/node/a/b", "/nodes/a", "/Node/a", "/x/node/a", "/node/-a", "/node/.a"])
def test_another_path_names_no_node(path: str) -> None:
    refusal = node_of(SpiffeId("d", path))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.NODE


@pytest.mark.parametrize("name", ["a", "A", "0", "gpu-a", "gpu_a.rack-1", "a" * NODE_ID_BYTES_MAX])
def test_a_good_node_id_has_no_fault(name: str) -> None:
    assert node_id_fault(name) == ""


@pytest.mark.parametrize(
    "name", ["", "-a", ".", "..", ".git", "_a", "a/b", "a b", "a\n", "\u00e9", "a" * (NODE_ID_BYTES_MAX + 1)]
)
def test_a_bad_node_id_has_a_fault_in_words(name: str) -> None:
    assert node_id_fault(name)


def test_the_name_of_a_trust_domain_is_lower_case_without_port() -> None:
    assert trust_domain_fault("example.mesh") == ""
    for name in ("", "Example", "example:80", "a/b", "a b", "e" * 256, "a\n"):
        assert trust_domain_fault(name)
