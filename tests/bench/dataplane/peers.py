"""The routers of others, and none at all: how each is installed, configured and started.

Settings are those of docs/benchmarks.md: one worker, keep-alive to the backends, no buffering, no access log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.dataplane import processes
from tests.bench.dataplane.contestant import Contestant, Place, Running, Unavailable

VLLM_ROUTER_VERSION = "0.1.17"
# What its Python launcher imports; the wheel's own list drags in a whole inference stack.
VLLM_ROUTER_IMPORTS = ["setproctitle", "aiohttp", "orjson", "uvicorn", "fastapi", "requests", "httpx", "pyyaml"]
INSTALL_TIMEOUT_S = 600.0
STREAMS_MAX = 8192  # Its own default is lower than the streams that the memory cell opens.


# Direct: the load side against itself. Its rates are the ceiling of this load client.


def _direct_version(cache: Path) -> str:
    return ""


def _start_direct(place: Place) -> Running:
    return Running(None, place.backends[0])


# nginx, from Debian's nginx-light or whatever nginx is on PATH.

NGINX_CONFIG = """
daemon off; master_process on; worker_processes 1; worker_rlimit_nofile 20000; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn; {user}
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k; tcp_nodelay on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {tls}
  upstream backends {{ {servers} keepalive 2048; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {scheme}://backends; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 300s;
    }}
  }}
}}
"""

# What a GPU node's mesh port asks of a router. The name is not verified: nginx cannot read a SPIFFE id.
NGINX_MTLS = """
  proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;
  proxy_ssl_certificate {folder}/node.pem; proxy_ssl_certificate_key {folder}/node.key;
"""


def _nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable("no nginx on this machine: install Debian's nginx-light")
    return found


def _nginx_version(cache: Path) -> str:
    shown = subprocess.run([_nginx(), "-v"], capture_output=True, text=True, check=True).stderr
    return shown.strip().rpartition("/")[2]


def _start_nginx(place: Place) -> Running:
    return _run_nginx(place, place.backends, scheme="http", tls="")


def _start_nginx_mtls(place: Place) -> Running:
    if place.trust is None:
        raise Unavailable("nginx-mtls was given no identities")
    return _run_nginx(place, place.mesh_backends, scheme="https", tls=NGINX_MTLS.format(folder=place.trust / "router"))


def _run_nginx(place: Place, backends: Sequence[int], *, scheme: str, tls: str) -> Running:
    config = place.folder / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(
            folder=place.folder,
            # As root the worker would become `nobody`, who cannot enter this folder.
            user="user root;" if os.geteuid() == 0 else "",
            servers=" ".join(f"server 127.0.0.1:{port};" for port in backends),
            port=place.ports[0],
            scheme=scheme,
            tls=tls,
        ),
        "utf-8",
    )
    command: list[str | Path] = [_nginx(), "-p", place.folder, "-c", config, "-e", place.folder / "nginx-error.log"]
    return Running(processes.start(command, core=place.core, log=place.folder / "log"), place.ports[0])


# vllm-router, from the package index, in an environment of its own.


def _vllm_router_version(cache: Path) -> str:
    program = _vllm_router(cache)
    if not program.exists():
        environment = program.parent.parent
        pip: list[str | Path] = [environment / "bin" / "python", "-m", "pip", "install", "-qq"]
        commands: tuple[list[str | Path], ...] = (
            [sys.executable, "-m", "venv", environment],
            [*pip, *VLLM_ROUTER_IMPORTS],
            [*pip, "--no-deps", f"vllm-router=={VLLM_ROUTER_VERSION}"],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
            if done.returncode:
                shutil.rmtree(environment, ignore_errors=True)
                raise Unavailable(f"vllm-router {VLLM_ROUTER_VERSION} cannot be installed: {done.stderr[-500:]}")
    return VLLM_ROUTER_VERSION


def _vllm_router(cache: Path) -> Path:
    return cache / f"vllm-router-{VLLM_ROUTER_VERSION}" / "bin" / "vllm-router"


def _start_vllm_router(place: Place) -> Running:
    port, metrics_port = place.ports[:2]
    command: list[str | Path] = [
        _vllm_router(place.cache),
        "--worker-urls",
        *(f"http://127.0.0.1:{backend}" for backend in place.backends),
    ]
    options = {
        "--host": "127.0.0.1",
        "--port": port,
        "--policy": "power_of_two",
        "--prometheus-host": "127.0.0.1",
        "--prometheus-port": metrics_port,
        "--log-level": "error",
        "--max-concurrent-requests": STREAMS_MAX,
    }
    for option, value in options.items():
        command += [option, str(value)]
    return Running(processes.start(command, core=place.core, log=place.folder / "log"), port)


PEERS = (
    Contestant("direct", _direct_version, _start_direct),
    Contestant("nginx", _nginx_version, _start_nginx),
    Contestant("nginx-mtls", _nginx_version, _start_nginx_mtls),
    Contestant("vllm-router", _vllm_router_version, _start_vllm_router),
)
