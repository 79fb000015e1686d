"""A real Triton server on this machine's CPU: start it, wait for it, read its metrics, kill it.

Not an installer: `scripts/interop-triton` makes the environment. The server starts a process for each model
instance; its group is signalled as a whole, so that none of them outlives a run. One model, `spare`, is there and
not loaded.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

MODELS = ("addsub", "tokens", "slow")
SPARE_MODEL = "spare"
START_TIMEOUT_S = 60.0
POLL_EVERY_S = 0.1
STOP_TIMEOUT_S = 20.0
_MODEL_SOURCES = Path(__file__).with_name("triton_models")


@dataclass(frozen=True, slots=True)
class TritonPorts:
    http: int
    grpc: int
    metrics: int


class TritonServer:
    """`python` is the interpreter of the environment, `folder` a scratch folder for repository, backend and log."""

    def __init__(self, python: Path, folder: Path, ports: TritonPorts) -> None:
        self.ports = ports
        self._python = python
        self._folder = folder
        self._log = folder / "triton.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.metrics}/metrics"

    def start(self) -> float:
        """Start, in place of one that still runs, and wait until it is ready; returns the seconds that took."""
        self.kill()
        site = self._site_packages()
        home = site / "pytriton" / "tritonserver"
        backends = self._make_backends(home)
        repository = self._make_repository()
        command = [str(home / "bin" / "tritonserver"), f"--model-repository={repository}"]
        command += [f"--backend-directory={backends}", f"--cache-directory={home / 'caches'}"]
        command += ["--model-control-mode=explicit", "--strict-readiness=true", "--allow-cpu-metrics=true"]
        command += [f"--load-model={name}" for name in MODELS]
        for face, port in (("http", self.ports.http), ("grpc", self.ports.grpc), ("metrics", self.ports.metrics)):
            command += [f"--{face}-address=127.0.0.1", f"--{face}-port={port}"]
        command += ["--metrics-interval-ms=500"]
        environment = {
            **os.environ,
            # Without it the stub of a model cannot be loaded, and the server waits for it for ever.
            "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
            "PATH": f"{self._python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(site),
        }
        began = time.monotonic()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() - began > START_TIMEOUT_S:
                self.kill()
                tail = self._log.read_text("utf-8", "replace")[-2000:]
                raise RuntimeError(f"Triton was not ready after {time.monotonic() - began:.0f} s; its log:\n{tail}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_EVERY_S)
        return time.monotonic() - began

    def metric(self, name: str, **labels: str) -> float:
        """The sum of one metric over its series with those labels."""
        total = 0.0
        for series, value in re.findall(rf"^{name}(?:\{{([^}}]*)\}})? (\S+)$", self._get("metrics"), re.MULTILINE):
            if all(f'{label}="{wanted}"' in series for label, wanted in labels.items()):
                total += float(value)
        return total

    def kill(self) -> None:
        """SIGKILL to every process of it, as a machine that loses power would."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)

    def _site_packages(self) -> Path:
        found = sorted(self._python.parent.parent.glob("lib/python3.*/site-packages"))
        if not found:
            raise RuntimeError(f"{self._python} is in no environment of its own; run scripts/interop-triton")
        return found[0]

    def _make_backends(self, home: Path) -> Path:
        """The python backend beside the stub that was built for this environment's Python."""
        version = self._site_packages().parent.name.removeprefix("python")
        backends = self._folder / "backends"
        stub = backends / "python" / "triton_python_backend_stub"
        if not stub.exists():
            shutil.copytree(home / "backends" / "python", stub.parent, dirs_exist_ok=True)
            shutil.copy(home / "python_backend_stubs" / version / stub.name, stub)
            stub.chmod(0o755)
        return backends

    def _make_repository(self) -> Path:
        repository = self._folder / "repository"
        for name in (*MODELS, SPARE_MODEL):
            source = "addsub" if name == SPARE_MODEL else name
            (repository / name / "1").mkdir(parents=True, exist_ok=True)
            shutil.copy(_MODEL_SOURCES / f"{source}.py", repository / name / "1" / "model.py")
            shutil.copy(_MODEL_SOURCES / f"{source}.pbtxt", repository / name / "config.pbtxt")
        return repository

    def _ready(self) -> bool:
        try:
            self._get("http", "/v2/health/ready")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _get(self, face: str, path: str = "/metrics") -> str:
        port = self.ports.metrics if face == "metrics" else self.ports.http
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise ConnectionError(f"GET http://127.0.0.1:{port}{path}: status {response.status}")
        return text
