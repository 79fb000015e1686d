"""TLS of the client port: an ordinary server's certificate, HTTP/2 and HTTP/1.1 by ALPN, no certificates of clients."""

from __future__ import annotations

import ssl
from pathlib import Path

from infermesh.core.trust import IdentityError
from infermesh.net.tls import HTTP1_ALPN, HTTP2_ALPN
from infermesh.node.config_sections import ClientSection

# What RFC 9113 section 9.2.2 leaves of TLS 1.2: ephemeral keys and authenticated encryption.
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def load_client_tls(section: ClientSection) -> ssl.SSLContext | None:
    """None: this port has no certificate. Raises IdentityError for files that cannot be used."""
    if section.certificate_file == Path():
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_TLS12_CIPHERS)
    context.set_alpn_protocols([HTTP2_ALPN, HTTP1_ALPN])
    try:
        # An empty password: an encrypted key is an error here, not a prompt on the daemon's terminal.
        context.load_cert_chain(section.certificate_file, section.key_file, password="")
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(
            f"the client port's TLS cannot be used ({error}): client.certificate_file = {section.certificate_file}, "
            f"client.key_file = {section.key_file}"
        ) from error
    return context
