"""The nodes under test: a router and a GPU node, two meshd processes as users run them.

The router's client port has a certificate of its own, so that it speaks all it can: plain text and TLS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.conformance.http2.node_ports import mesh_port, plain_client_port, secure_client_port
from tests.conformance.http2.port import HOST, Port
from tests.interop.fleet import Fleet, Settings, gpu, router, running_fleet


@dataclass(frozen=True)
class Nodes:
    fleet: Fleet
    ca_file: Path
    """Who signed the certificate of the client port."""

    def port(self, name: str) -> Port:
        match name:
            case "client-h2c":
                return plain_client_port(self.fleet.router)
            case "client-tls":
                return secure_client_port(self.fleet.router, self.ca_file)
            case "mesh-mtls":
                return mesh_port(self.fleet.gpus[0], self.fleet.router)
            case _:
                raise LookupError(name)


PORTS = ("client-h2c", "client-tls", "mesh-mtls")


@contextlib.contextmanager
def running_nodes(folder: Path, client: Mapping[str, object] | None = None) -> Iterator[Nodes]:
    """`client`: keys of both nodes' [client] section, whose limits hold for the mesh port as well."""
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    files = {name: folder / f"{name}.pem" for name in ("ca_file", "certificate_file", "key_file")}
    authority.cert_pem.write_to_path(str(files["ca_file"]))
    certificate.cert_chain_pems[0].write_to_path(str(files["certificate_file"]))
    certificate.private_key_pem.write_to_path(str(files["key_file"]))
    files["key_file"].chmod(0o600)
    # Connections that end for a fault of the peer's are what is done here; nobody shall read of each.
    quiet: Settings = {"logs": {"level": "error"}}
    keys: dict[str, object] = {name: str(files[name]) for name in ("certificate_file", "key_file")}
    own = {**keys, "plaintext": True, **(client or {})}
    specs = [
        router({**quiet, "client": own}),
        gpu("gpu-a", profile="tiny", settings={**quiet, "client": dict(client or {})}),
    ]
    with running_fleet(folder, specs) as fleet:
        yield Nodes(fleet, files["ca_file"])
