"""TLS of the mesh port: contexts made once per epoch, and the check of a peer after each handshake.

TLS 1.3 only, certificates required of both sides, ALPN required. OpenSSL answers "is it signed by our CA and
does the peer hold the key"; `admit_peer` answers "who is it, and may it be here" by the rules of
`infermesh.core.trust`. Neither half is enough alone.

Host names are not checked, on purpose. A peer is a SPIFFE id, not a name in DNS: nodes are dialled by
addresses that change, and DNS is not part of what we trust. In its place the caller says which node it dials
(`expected_node`), and a different node is refused even with a perfect certificate.

It is not a stream: bytes are moved by the caller through memory BIOs. Duties of the caller, in this order:
1. Drive `do_handshake` under a deadline (one step costs 1 to 2 ms of CPU: cap the handshakes in flight).
2. Call `admit_peer` before reading or sending one byte of application data; on `PeerRefused` close.
3. Close connections by `PeerIdentity.not_after`. A resumed handshake brings the certificate of the first one,
   which OpenSSL does not verify again: `admit_peer` does check its validity again, each time.
4. On rotation build a new `TlsEpoch` and use it for new connections; the old one lives in its connections
   until they end. Tickets belong to their epoch: a peer with an old ticket makes a full handshake.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Literal, Protocol

from infermesh.core.model.names import NodeId
from infermesh.core.trust import Identity, IdentityError, PeerIdentity, Refusal, RefusalReason, identify_peer

HTTP1_ALPN = "http/1.1"
HTTP2_ALPN = "h2"

# A session is about 2 KB; past this many peers the one that was remembered first is forgotten and makes a
# full handshake.
SESSIONS_MAX = 1024


class Handshaken(Protocol):
    """What is asked of a finished handshake: an `ssl.SSLObject`, an `ssl.SSLSocket` or a `trio.SSLStream`."""

    def version(self) -> str | None: ...
    def selected_alpn_protocol(self) -> str | None: ...
    def getpeercert(self, binary_form: Literal[True], /) -> bytes | None: ...


class PeerRefused(Exception):
    """A peer was authenticated by nobody we trust, or is not who was expected: a remote fault.

    `reason` is from a closed set (a metric label); the message is for the log and holds no secret.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"peer refused ({refusal.reason}): {refusal.detail}")
        self.reason = refusal.reason
        self.detail = refusal.detail


class TlsEpoch:
    """The contexts of one identity: built once, shared by every connection, replaced whole on rotation."""

    def __init__(self, identity: Identity, *, number: int = 1) -> None:
        self.identity = identity
        self.number = number
        self.server = server_context(identity)
        self.client = client_context(identity, HTTP1_ALPN)
        # A dialler knows which protocol it wants, and a context offers the same to everybody: one for each.
        self.client_http2 = client_context(identity, HTTP2_ALPN)
        self._sessions: dict[tuple[NodeId, ssl.SSLContext], ssl.SSLSession] = {}

    def accept(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self.server.wrap_bio(incoming, outgoing, server_side=True)

    def connect(
        self, node: NodeId, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *, alpn: str = HTTP1_ALPN
    ) -> ssl.SSLObject:
        """A client's side towards `node`; offers to resume the last session with it, if one is remembered."""
        client = self.client_http2 if alpn == HTTP2_ALPN else self.client
        return client.wrap_bio(incoming, outgoing, session=self._sessions.get((node, client)))

    def remember(self, node: NodeId, tls: ssl.SSLObject) -> None:
        """Keep the session of a connection to `node`, made by `connect` of this epoch and admitted.

        In TLS 1.3 the ticket follows the handshake: call this after the first bytes from the peer were read.
        Earlier there is no ticket and nothing is kept.
        """
        if tls.session_reused:
            return  # A ticket may be used again until it ends; copying the new one out costs 0.1 ms.
        if tls.context is not self.client and tls.context is not self.client_http2:
            return  # Of the epoch before: offered in this one, it would fail each connection to the node.
        session = tls.session
        if session is None or not session.has_ticket:
            return
        key = (node, tls.context)
        self._sessions.pop(key, None)
        if len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[key] = session

    def forget(self, node: NodeId) -> None:
        """Drop the sessions of a peer that was refused, so that they cannot be resumed."""
        for client in (self.client, self.client_http2):
            self._sessions.pop((node, client), None)


def server_context(identity: Identity) -> ssl.SSLContext:
    """Accepts peers on the mesh port. Costs about 3 ms: build once per identity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # One ticket: a client keeps only the newest, and each one costs CPU and 1.3 KB on the wire.
    context.num_tickets = 1
    _configure(context, identity, (HTTP2_ALPN, HTTP1_ALPN))
    return context


def client_context(identity: Identity, alpn: str) -> ssl.SSLContext:
    """Dials peers on their mesh port. Costs about 3 ms: build once per identity and protocol."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # Identity is the SPIFFE id: see the module's docstring.
    _configure(context, identity, (alpn,))
    assert context.verify_mode == ssl.CERT_REQUIRED
    return context


def verify_peer(der: bytes | None, *, trust_domain: str, expected_node: NodeId | None, now_unix: float) -> PeerIdentity:
    """Who holds this certificate (`getpeercert(True)` after the handshake). Raises PeerRefused. Costs 36 us."""
    peer = identify_peer(der, trust_domain=trust_domain, expected_node=expected_node, now_unix=now_unix)
    if isinstance(peer, Refusal):
        raise PeerRefused(peer)
    return peer


def admit_peer(tls: Handshaken, *, trust_domain: str, expected_node: NodeId | None, now_unix: float) -> PeerIdentity:
    """All that must hold after a handshake: version, ALPN, certificate. Raises PeerRefused.

    ALPN is checked here because OpenSSL lets a handshake without a common protocol, or without ALPN, succeed.
    """
    version = tls.version()
    if version != "TLSv1.3":
        raise PeerRefused(Refusal(RefusalReason.PROTOCOL, f"negotiated {version}, required TLSv1.3"))
    protocol = tls.selected_alpn_protocol()
    if protocol is None:
        detail = f"no common application protocol was negotiated; offer ALPN {HTTP2_ALPN!r} or {HTTP1_ALPN!r}"
        raise PeerRefused(Refusal(RefusalReason.PROTOCOL, detail))
    return verify_peer(tls.getpeercert(True), trust_domain=trust_domain, expected_node=expected_node, now_unix=now_unix)


def _configure(context: ssl.SSLContext, identity: Identity, alpn: Sequence[str]) -> None:
    """What both sides share.

    Deliberately not `ssl.create_default_context`: that one may trust the system's CAs, and it writes session
    keys to the file that SSLKEYLOGFILE names.
    """
    assert alpn, "the mesh port requires ALPN"
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # RFC 5280 in full: key identifiers, critical basicConstraints, keyUsage of the CA.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_COMPRESSION
    try:
        context.load_verify_locations(cafile=identity.ca_file)
        # An empty password: an encrypted key is an error here, not a prompt on the daemon's terminal.
        context.load_cert_chain(identity.certificate_file, identity.key_file, password="")
    except (ssl.SSLError, OSError) as error:
        files = f"{identity.ca_file}, {identity.certificate_file}, {identity.key_file}"
        raise IdentityError(
            f"node {identity.node}: TLS could not load its identity ({error}) from {files}. If the files are "
            "being replaced right now, try again; else renew them with `mesh ca renew`."
        ) from error
    context.set_alpn_protocols(list(alpn))
