from __future__ import annotations

import pytest

from infermesh.planes.data.handshake_faults import handshake_fault


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        ("peer refused (trust_domain): of other.mesh, test.mesh was expected", "trust_domain"),
        ("TLS handshake: [SSL: ...] certificate verify failed: certificate has expired (_ssl.c:1006)", "expired"),
        ("TLS handshake: [SSL: ...] certificate verify failed: certificate is not yet valid", "not_yet_valid"),
        ("TLS handshake: [SSL: ...] certificate verify failed: unable to get local issuer certificate", "wrong_ca"),
        ("TLS handshake: [SSL: ...] peer did not return a certificate (_ssl.c:1006)", "no_certificate"),
        ("no TLS handshake in time (connect_timeout_s)", "timed_out"),
        ("no progress by its deadline (12.345)", "timed_out"),
        ("closed by the client", "closed"),
        ("reading failed: Connection reset by peer", "closed"),
        ("TLS handshake: [SSL: HTTP_REQUEST] http request (_ssl.c:1006)", "protocol"),
    ],
)
def test_each_failed_handshake_has_one_reason(detail: str, reason: str) -> None:
    assert handshake_fault(detail) == reason
