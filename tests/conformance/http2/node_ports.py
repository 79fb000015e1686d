"""The ports of running nodes, as a raw peer reaches them: the client port in plain text and over TLS, the mesh port."""

from __future__ import annotations

import ssl
import tomllib
from pathlib import Path

from infermesh.node.authority import CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY
from tests.conformance.http2.port import Port
from tests.interop.fleet import Daemon

_MODELS = b"/v1/models"
_NOWHERE = b"/nowhere"


def plain_client_port(daemon: Daemon) -> Port:
    return Port(name="client-h2c", number=daemon.client_port, path=_MODELS)


def secure_client_port(daemon: Daemon, ca_file: Path) -> Port:
    context = ssl.create_default_context(cafile=str(ca_file))
    return Port(name="client-tls", number=daemon.client_port, tls=context, path=_MODELS)


def mesh_port(daemon: Daemon, peer: Daemon) -> Port:
    """`peer`: the node whose certificate is shown. Which node answers is not this suite's to check."""
    folder = data_dir(peer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=str(folder / CA_CERTIFICATE))
    context.load_cert_chain(str(folder / NODE_CERTIFICATE), str(folder / NODE_KEY))
    return Port(name="mesh-mtls", number=daemon.mesh_port, tls=context, path=_NOWHERE, status=404)


def data_dir(daemon: Daemon) -> Path:
    return Path(tomllib.loads(daemon.config.read_text())["node"]["data_dir"])
