"""A real Triton behind the mesh: `python -m tests.interop.triton_mesh --python VENV/bin/python [--json] [--direct]`.

Ends with 1 when a check failed. Not a test of pytest's: it needs the environment that `scripts/interop-triton`
installs. What it shows: Triton's own clients, HTTP and gRPC, work through the router and mTLS as they do against the
server itself; the queue of a model is seen in `mesh nodes` under load; a killed server is out of use, and a restarted
one used again. `--direct` runs the clients' checks against Triton itself, to tell a fault of ours from one of a check.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.checks_report import ChecksReport, expect
from tests.interop.mesh_pair import MeshPair, free_ports, runtime_entry, wait_until
from tests.interop.triton_server import MODELS, TritonPorts, TritonServer

SLOTS = 2  # The instances of `slow`.
READY_TIMEOUT_S = 30.0
NOTICE_TIMEOUT_S = 15.0
LOAD_REQUESTS = 12
LOAD_DELAY_MS = 500


class Scenario:
    def __init__(self, server: TritonServer, mesh: MeshPair, report: ChecksReport) -> None:
        self._server = server
        self._mesh = mesh
        self._report = report

    def run(self, client_checks: Callable[[int, int], None]) -> None:
        self._report.check(self.becomes_ready)
        client_checks(self._mesh.client_port, self._mesh.client_port)
        for check in (self.queue_is_seen, self.kill, self.restart):
            self._report.check(check)

    def becomes_ready(self) -> dict[str, Any]:
        took_s = wait_until("the models are ready in mesh nodes", self._all_ready, READY_TIMEOUT_S)
        row = self._row("addsub")
        expect(row["runtime"] == "triton", f"the row says what it is: {row}")
        expect(row["emulated"] is False, f"a real runtime is not shown as emulated: {row}")
        return {"after_s": round(took_s, 2), "row": row}

    def queue_is_seen(self) -> dict[str, Any]:
        """More requests than the model has instances; Triton's own queue is what an operator sees."""
        statuses: list[int] = []
        threads = [threading.Thread(target=self._ask_slow, args=(statuses,)) for _ in range(LOAD_REQUESTS)]
        for thread in threads:
            thread.start()
        queue_len = 0
        while any(thread.is_alive() for thread in threads):
            queue_len = max(queue_len, self._row("slow")["queue_len"])
        expect(statuses == [200] * LOAD_REQUESTS, f"statuses {statuses}")
        expect(queue_len > 0, "the queue was seen to move")
        return {"requests": LOAD_REQUESTS, "highest_queue_len": queue_len, "ttft_ms": self._row("slow")["ttft_ms"]}

    def kill(self) -> dict[str, Any]:
        self._server.kill()
        took_s = wait_until(
            "mesh nodes shows the models out of use",
            lambda: not self._ready_models(),
            NOTICE_TIMEOUT_S,
        )
        statuses: list[int] = []
        self._ask_slow(statuses)
        expect(statuses[0] in (429, 502, 503), f"status {statuses[0]} for a dead server")
        return {"noticed_after_s": round(took_s, 2), "status": statuses[0]}

    def restart(self) -> dict[str, Any]:
        started_s = self._server.start()
        took_s = wait_until("the restarted models are ready in mesh nodes", self._all_ready, NOTICE_TIMEOUT_S)
        statuses: list[int] = []
        self._ask_slow(statuses)
        expect(statuses == [200], f"status {statuses} after the restart")
        return {"start_s": round(started_s, 1), "used_again_after_s": round(took_s, 2)}

    def _ask_slow(self, statuses: list[int]) -> None:
        tensor = {"name": "DELAY_MS", "shape": [1], "datatype": "INT32", "data": [LOAD_DELAY_MS]}
        connection = http.client.HTTPConnection("127.0.0.1", self._mesh.client_port, timeout=READY_TIMEOUT_S)
        try:
            connection.request("POST", "/v2/models/slow/infer", json.dumps({"inputs": [tensor]}))
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        finally:
            connection.close()

    def _row(self, model: str) -> dict[str, Any]:
        return self._mesh.model_row(model) or {"lifecycle": "", "unavailable": "not there"}

    def _ready_models(self) -> set[str]:
        rows = self._mesh.model_rows()
        return {name for name, row in rows.items() if row["lifecycle"] == "ready" and not row["unavailable"]}

    def _all_ready(self) -> bool:
        return self._ready_models() == set(MODELS)


@contextmanager
def running(folder: Path, python: Path) -> Iterator[tuple[TritonServer, float]]:
    server = TritonServer(python, folder / "triton", TritonPorts(*free_ports(3)))
    try:
        yield server, round(server.start(), 1)
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description="A real Triton behind the mesh.")
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the environment with Triton")
    parser.add_argument("--json", action="store_true", help="print the whole report at the end")
    parser.add_argument("--direct", action="store_true", help="without the mesh: the clients against Triton itself")
    options = parser.parse_args()
    report = ChecksReport()
    whole: dict[str, Any] = {"runtime": "triton", "direct": options.direct}
    with (
        tempfile.TemporaryDirectory(prefix="infermesh-interop-") as scratch,
        running(Path(scratch), options.python) as (server, started_s),
    ):
        whole["triton_start_s"] = started_s
        ports = server.ports

        def run_clients(http_port: int, grpc_port: int) -> None:
            for face, port in (("http", http_port), ("grpc", grpc_port)):
                module = f"tests.interop.triton_{face}_checks"
                report.run_client(options.python, module, f"127.0.0.1:{port}", f"127.0.0.1:{ports.metrics}")

        if options.direct:
            run_clients(ports.http, ports.grpc)
        else:
            keys = {"grpc_url": f"127.0.0.1:{ports.grpc}", "metrics_url": server.metrics_url}
            mesh = MeshPair(Path(scratch) / "mesh", runtime_entry("triton", server.http_url, SLOTS, **keys))
            mesh.start()
            try:
                Scenario(server, mesh, report).run(run_clients)
            finally:
                whole["meshd_exit_codes"] = mesh.stop()
            if not report.ok:
                print(mesh.logs(), file=sys.stderr)
    if options.json:
        print(json.dumps({**whole, "ok": report.ok, "checks": report.checks}))
    print(report.summary, file=sys.stderr)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
