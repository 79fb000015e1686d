"""A real MLServer behind the mesh: `python -m tests.interop.mlserver_mesh --python VENV/bin/python [--direct]`.

Ends with 1 when a check failed. Needs the environment that `scripts/interop-mlserver` installs. MLServer tells no queue
and needs no adapter of its own: what is shown is that kind "kserve" finds its model by its index, and that clients of
both faces reach it through the router and mTLS.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.checks_report import ChecksReport, expect
from tests.interop.mesh_pair import MeshPair, free_ports, runtime_entry, wait_until

MODEL = "echo"
SLOTS = 16
START_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
POLL_EVERY_S = 0.2
CHECKS = "tests.interop.mlserver_checks"


@contextmanager
def running(python: Path, folder: Path) -> Iterator[tuple[int, int, int]]:
    """A server with the one model; its HTTP, gRPC and metrics ports."""
    folder.mkdir()
    http_port, grpc_port, metrics_port = free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}), "utf-8")
    model = {"name": MODEL, "implementation": "mlserver_model.Echo"}
    (folder / "model-settings.json").write_text(json.dumps(model), "utf-8")
    shutil.copy(Path(__file__).with_name("mlserver_model.py"), folder)
    log = folder / "mlserver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python.with_name("mlserver"), "start", "."],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"},
        )
    try:
        began = time.monotonic()
        while not _ready(http_port):
            if process.poll() is not None or time.monotonic() - began > START_TIMEOUT_S:
                tail = log.read_text("utf-8", "replace")[-2000:]
                raise RuntimeError(f"MLServer was not ready after {time.monotonic() - began:.0f} s; its log:\n{tail}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_EVERY_S)
        yield http_port, grpc_port, metrics_port
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"/v2/models/{MODEL}/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def through_mesh(options: argparse.Namespace, folder: Path, ports: tuple[int, int, int], report: ChecksReport) -> None:
    http_port, grpc_port, metrics_port = ports
    keys = {"grpc_url": f"127.0.0.1:{grpc_port}", "metrics_url": f"http://127.0.0.1:{metrics_port}/metrics"}
    mesh = MeshPair(folder, runtime_entry("kserve", f"http://127.0.0.1:{http_port}", SLOTS, **keys))

    def becomes_ready() -> dict[str, Any]:
        def is_ready() -> bool:
            return (mesh.model_row(MODEL) or {}).get("lifecycle") == "ready"

        took_s = wait_until("the model is ready in mesh nodes", is_ready, READY_TIMEOUT_S)
        row = mesh.model_row(MODEL) or {}
        expect(row["runtime"] == "kserve" and not row["emulated"], f"the row says what it is: {row}")
        return {"after_s": round(took_s, 2)}

    mesh.start()
    try:
        report.check(becomes_ready)
        address = f"127.0.0.1:{mesh.client_port}"
        report.run_client(options.python, CHECKS, address, address)
    finally:
        mesh.stop()
    if not report.ok:
        print(mesh.logs(), file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="A real MLServer behind the mesh.")
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the environment with MLServer")
    parser.add_argument("--json", action="store_true", help="print the whole report at the end")
    parser.add_argument("--direct", action="store_true", help="without the mesh: the clients against MLServer itself")
    options = parser.parse_args()
    report = ChecksReport()
    with (
        tempfile.TemporaryDirectory(prefix="infermesh-interop-") as scratch,
        running(options.python, Path(scratch) / "mlserver") as ports,
    ):
        if options.direct:
            report.run_client(options.python, CHECKS, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
        else:
            through_mesh(options, Path(scratch) / "mesh", ports, report)
    if options.json:
        print(json.dumps({"runtime": "mlserver", "direct": options.direct, "ok": report.ok, "checks": report.checks}))
    print(report.summary, file=sys.stderr)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
