"""TLS of the mesh port, by real handshakes over memory BIOs: who is let in, who is refused, and by which half."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from infermesh.core.model.names import NodeId
from infermesh.core.trust import IdentityError, PeerIdentity, RefusalReason
from infermesh.net import tls as net_tls
from infermesh.net.tls import PeerRefused, TlsEpoch, admit_peer, client_context, server_context, verify_peer
from infermesh.testing.bad_certificates import DAY_S, REASONS, BadCertificate
from infermesh.testing.certificates import TrustDomain, careless_context

Wrap = Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]


class _Pair:
    """A client and a server, joined by memory. `errors` holds what OpenSSL said on each side."""

    def __init__(self, client: Wrap, server: Wrap) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client(to_client, to_server)
        self.server = server(to_server, to_client)
        self.errors: dict[str, ssl.SSLError] = {}

    def shake(self) -> _Pair:
        """Until neither side moves: in TLS 1.3 a client is done before the server has judged its certificate,
        so both then write and read one byte, which brings the alert to light."""
        for _ in range(4):
            self._step("client", self.client.do_handshake)
            self._step("server", self.server.do_handshake)
        if not self.errors:
            self._step("client", lambda: self.client.write(b"c"))
            self._step("server", lambda: self.server.write(b"s"))
        self._step("server", lambda: self.server.read(1))
        self._step("client", lambda: self.client.read(1))
        return self

    def _step(self, side: str, step: Callable[[], object]) -> None:
        if side in self.errors:
            return
        try:
            step()
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            self.errors[side] = error


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"))


@pytest.fixture(scope="module")
def edge(domain: TrustDomain) -> TlsEpoch:
    return domain.epoch("edge")


@pytest.fixture(scope="module")
def gpu(domain: TrustDomain) -> TlsEpoch:
    return domain.epoch("gpu-a")


def _client(context: ssl.SSLContext) -> Wrap:
    return lambda incoming, outgoing: context.wrap_bio(incoming, outgoing)


def _server(context: ssl.SSLContext) -> Wrap:
    return lambda incoming, outgoing: context.wrap_bio(incoming, outgoing, server_side=True)


def _dial(epoch: TlsEpoch, node: str) -> Wrap:
    return lambda incoming, outgoing: epoch.connect(NodeId(node), incoming, outgoing)


def _admit(domain: TrustDomain, tls: ssl.SSLObject, expected: str | None = None) -> PeerIdentity:
    node = None if expected is None else NodeId(expected)
    return admit_peer(tls, trust_domain="test.mesh", expected_node=node, now_unix=domain.now_unix)


def test_two_good_nodes_admit_each_other(domain: TrustDomain, edge: TlsEpoch, gpu: TlsEpoch) -> None:
    pair = _Pair(_dial(edge, "gpu-a"), gpu.accept).shake()
    assert pair.errors == {}
    assert pair.client.version() == pair.server.version() == "TLSv1.3"
    assert pair.client.selected_alpn_protocol() == pair.server.selected_alpn_protocol() == "http/1.1"
    assert _admit(domain, pair.client, expected="gpu-a").node == "gpu-a"
    assert _admit(domain, pair.server).node == "edge"


def test_a_good_node_that_was_not_dialled_is_refused(domain: TrustDomain, edge: TlsEpoch, gpu: TlsEpoch) -> None:
    pair = _Pair(_dial(edge, "gpu-b"), gpu.accept).shake()
    assert pair.errors == {}
    with pytest.raises(PeerRefused, match=r"peer refused \(node\): is node 'gpu-a', expected node 'gpu-b'"):
        _admit(domain, pair.client, expected="gpu-b")


# Kinds that OpenSSL by itself lets in, measured with our contexts: the reason that admit_peer exists.
_PASSES_OPENSSL = {kind for kind, reason in REASONS.items() if reason in (RefusalReason.SPIFFE_ID, RefusalReason.NODE)}


@pytest.mark.parametrize("kind", BadCertificate)
def test_a_server_refuses_a_bad_client(domain: TrustDomain, gpu: TlsEpoch, kind: BadCertificate) -> None:
    careless = careless_context(domain.bad(kind), server_side=False)
    pair = _Pair(_client(careless), gpu.accept).shake()
    if "server" not in pair.errors:
        with pytest.raises(PeerRefused) as refused:
            _admit(domain, pair.server, expected="gpu-a")
        assert refused.value.reason is REASONS[kind]
    else:
        assert kind not in _PASSES_OPENSSL


@pytest.mark.parametrize("kind", BadCertificate)
def test_a_client_refuses_a_bad_server(domain: TrustDomain, edge: TlsEpoch, kind: BadCertificate) -> None:
    careless = careless_context(domain.bad(kind), server_side=True)
    pair = _Pair(_dial(edge, "gpu-a"), _server(careless)).shake()
    if "client" not in pair.errors:
        with pytest.raises(PeerRefused) as refused:
            _admit(domain, pair.client, expected="gpu-a")
        assert refused.value.reason is REASONS[kind]
    else:
        assert kind not in _PASSES_OPENSSL


@pytest.mark.parametrize("kind", [kind for kind, reason in REASONS.items() if reason is None])
def test_only_openssl_can_see_a_wrong_signature(
    domain: TrustDomain, edge: TlsEpoch, gpu: TlsEpoch, kind: BadCertificate
) -> None:
    files = domain.bad(kind)
    verify_peer(files.der, trust_domain="test.mesh", expected_node=files.node, now_unix=domain.now_unix)
    as_client = _Pair(_client(careless_context(files, server_side=False)), gpu.accept).shake()
    assert "CERTIFICATE_VERIFY_FAILED" in str(as_client.errors["server"])
    as_server = _Pair(_dial(edge, "gpu-a"), _server(careless_context(files, server_side=True))).shake()
    assert "CERTIFICATE_VERIFY_FAILED" in str(as_server.errors["client"])


def test_the_certificate_of_the_ca_itself_authenticates_nobody(domain: TrustDomain, gpu: TlsEpoch) -> None:
    folder = domain.authority.folder
    files = domain.node("edge")
    ca_as_node = type(files)(
        domain=files.domain,
        node=files.node,
        folder=folder,
        certificate_file=folder / "ca.pem",
        key_file=folder / "ca.key",
        ca_file=folder / "ca.pem",
    )
    pair = _Pair(_client(careless_context(ca_as_node, server_side=False)), gpu.accept).shake()
    if "server" not in pair.errors:
        with pytest.raises(PeerRefused) as refused:
            _admit(domain, pair.server)
        assert refused.value.reason is RefusalReason.SIGNER_AS_LEAF


def test_a_client_without_a_certificate_is_refused(gpu: TlsEpoch) -> None:
    pair = _Pair(_client(careless_context(None, server_side=False)), gpu.accept).shake()
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(pair.errors["server"])


def test_a_peer_that_was_never_asked_for_a_certificate_is_refused(domain: TrustDomain, edge: TlsEpoch) -> None:
    """Should CERT_REQUIRED ever be lost, the second half of the check still holds."""
    server = careless_context(domain.node("gpu-a"), server_side=True)
    server.verify_mode = ssl.CERT_NONE
    pair = _Pair(_dial(edge, "gpu-a"), _server(server)).shake()
    with pytest.raises(PeerRefused) as refused:
        _admit(domain, pair.server)
    assert refused.value.reason is RefusalReason.NO_CERTIFICATE


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_an_old_version_of_tls_is_refused_by_both_sides(
    domain: TrustDomain, edge: TlsEpoch, gpu: TlsEpoch, version: ssl.TLSVersion
) -> None:
    files = domain.node("gpu-b")
    old_client = careless_context(files, server_side=False, version=version)
    assert "server" in _Pair(_client(old_client), gpu.accept).shake().errors
    old_server = careless_context(files, server_side=True, version=version)
    assert "client" in _Pair(_dial(edge, "gpu-b"), _server(old_server)).shake().errors


@pytest.mark.parametrize("alpn", [(), ("h3",), ("http/1.0",), ("HTTP/1.1",), ("spdy/3", "H2")])
def test_a_peer_without_our_application_protocol_is_refused(
    domain: TrustDomain, edge: TlsEpoch, gpu: TlsEpoch, alpn: tuple[str, ...]
) -> None:
    files = domain.node("gpu-b")
    as_client = _Pair(_client(careless_context(files, server_side=False, alpn=alpn)), gpu.accept).shake()
    as_server = _Pair(_dial(edge, "gpu-b"), _server(careless_context(files, server_side=True, alpn=alpn))).shake()
    for tls in (as_client.server, as_server.client):
        with pytest.raises(PeerRefused) as refused:
            _admit(domain, tls)
        assert refused.value.reason is RefusalReason.PROTOCOL


def test_an_old_version_that_got_through_is_refused_all_the_same(domain: TrustDomain) -> None:
    files = domain.node("gpu-b")
    version = ssl.TLSVersion.TLSv1_2
    pair = _Pair(
        _client(careless_context(files, server_side=False, version=version)),
        _server(careless_context(files, server_side=True, version=version)),
    ).shake()
    assert pair.errors == {}
    with pytest.raises(PeerRefused, match=r"negotiated TLSv1\.2, required TLSv1\.3"):
        _admit(domain, pair.server)


def _resume(domain: TrustDomain, epoch: TlsEpoch, server: TlsEpoch) -> _Pair:
    first = _Pair(_dial(epoch, "gpu-a"), server.accept).shake()
    _admit(domain, first.client, expected="gpu-a")
    epoch.remember(NodeId("gpu-a"), first.client)
    return _Pair(_dial(epoch, "gpu-a"), server.accept).shake()


def test_a_second_connection_resumes_and_both_sides_still_know_each_other(domain: TrustDomain) -> None:
    pair = _resume(domain, domain.epoch("edge"), domain.epoch("gpu-a"))
    assert pair.errors == {}
    assert pair.client.session_reused
    assert pair.server.session_reused
    assert _admit(domain, pair.client, expected="gpu-a").node == "gpu-a"
    assert _admit(domain, pair.server, expected="edge").node == "edge"


def test_a_resumed_connection_of_an_expired_peer_is_refused(domain: TrustDomain) -> None:
    pair = _resume(domain, domain.epoch("edge"), domain.epoch("gpu-a"))
    assert pair.server.session_reused
    for tls in (pair.client, pair.server):
        with pytest.raises(PeerRefused) as refused:
            admit_peer(tls, trust_domain="test.mesh", expected_node=None, now_unix=domain.now_unix + 2 * DAY_S)
        assert refused.value.reason is RefusalReason.EXPIRED


def test_a_ticket_of_an_old_epoch_leads_to_a_full_handshake(domain: TrustDomain) -> None:
    edge = domain.epoch("edge")
    _resume(domain, edge, domain.epoch("gpu-a"))
    rotated = domain.epoch("gpu-a")
    pair = _Pair(_dial(edge, "gpu-a"), rotated.accept).shake()
    assert pair.errors == {}
    assert not pair.client.session_reused
    assert _admit(domain, pair.client, expected="gpu-a").node == "gpu-a"


def test_a_session_is_kept_only_once_its_ticket_has_come(domain: TrustDomain, gpu: TlsEpoch) -> None:
    edge = domain.epoch("edge")
    early = _Pair(_dial(edge, "gpu-a"), gpu.accept)
    edge.remember(NodeId("gpu-a"), early.client)
    assert not _Pair(_dial(edge, "gpu-a"), gpu.accept).shake().client.session_reused


def test_a_session_of_the_epoch_before_is_not_offered_in_the_next_one(domain: TrustDomain, gpu: TlsEpoch) -> None:
    before, after = domain.epoch("edge"), domain.epoch("edge")
    late = _Pair(_dial(before, "gpu-a"), gpu.accept).shake()
    after.remember(NodeId("gpu-a"), late.client)
    assert not _Pair(_dial(after, "gpu-a"), gpu.accept).shake().errors


def test_a_forgotten_session_is_not_resumed(domain: TrustDomain, gpu: TlsEpoch) -> None:
    edge = domain.epoch("edge")
    _resume(domain, edge, gpu)
    edge.forget(NodeId("gpu-a"))
    edge.forget(NodeId("gpu-a"))
    assert not _Pair(_dial(edge, "gpu-a"), gpu.accept).shake().client.session_reused


def test_past_the_limit_the_session_remembered_first_is_forgotten(
    domain: TrustDomain, gpu: TlsEpoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net_tls, "SESSIONS_MAX", 2)
    edge = domain.epoch("edge")
    done = _Pair(_dial(edge, "gpu-a"), gpu.accept).shake()
    for node in ("n1", "n2", "n1", "n3"):  # The second n1 makes n2 the oldest.
        edge.remember(NodeId(node), done.client)
    resumed = {node: _Pair(_dial(edge, node), gpu.accept).shake().client.session_reused for node in ("n1", "n2", "n3")}
    assert resumed == {"n1": True, "n2": False, "n3": True}


def test_connections_of_the_old_epoch_live_on_while_new_ones_use_the_next(domain: TrustDomain) -> None:
    old, new = domain.epoch("gpu-a"), domain.epoch("gpu-a")
    edge = domain.epoch("edge")
    before = _Pair(_dial(edge, "gpu-a"), old.accept).shake()
    after = _Pair(_dial(edge, "gpu-a"), new.accept).shake()
    for pair in (before, after):
        pair.client.write(b"still here")
        assert pair.server.read(100) == b"still here"


def test_the_contexts_demand_what_the_design_says(domain: TrustDomain) -> None:
    identity = domain.identity("gpu-a")
    for context in (server_context(identity), client_context(identity, "h2")):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert not context.check_hostname
        # Our CA and no other: the system's trust store is not in it.
        assert len(context.get_ca_certs()) == 1
        assert context.keylog_filename is None


def test_files_that_do_not_fit_together_are_a_local_fault_with_advice(domain: TrustDomain) -> None:
    identity = domain.identity("gpu-a")
    mixed = type(identity)(
        **{
            **{name: getattr(identity, name) for name in identity.__struct_fields__},
            "key_file": str(domain.node("gpu-b").key_file),
        }
    )
    with pytest.raises(IdentityError, match="TLS could not load its identity") as raised:
        server_context(mixed)
    assert "mesh ca renew" in str(raised.value)
    assert "gpu-b" in str(raised.value)


def test_a_refusal_holds_a_reason_for_a_metric_and_words_for_a_log() -> None:
    with pytest.raises(PeerRefused) as refused:
        verify_peer(b"junk", trust_domain="d", expected_node=None, now_unix=0.0)
    assert refused.value.reason is RefusalReason.MALFORMED
    assert refused.value.detail in str(refused.value)
    assert str(refused.value).isprintable()
