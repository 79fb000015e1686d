"""A real vLLM server on this machine's CPU: start it, wait for it, ask it, kill it.

Not an installer: `scripts/interop-vllm` makes the environment and the model folder. The server is three processes;
its group is signalled as a whole, so that none of them outlives a test.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import time
from pathlib import Path

MODEL = "tiny"
SEQUENCES_MAX = 8
# A pool of 64 blocks of 32 tokens: small enough that a dozen requests fill it and its use is seen to move.
KV_BLOCKS = 64
BLOCK_TOKENS = 32  # 16 is refused on CPU.
CONTEXT_TOKENS_MAX = 1024
START_TIMEOUT_S = 300.0
POLL_EVERY_S = 0.25
STOP_TIMEOUT_S = 20.0

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "2",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class VllmServer:
    def __init__(self, python: Path, model_folder: Path, port: int, log: Path) -> None:
        self.port = port
        self._python = python
        self._model_folder = model_folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Start, in place of one that still runs, and wait until it is healthy; returns the seconds that took."""
        self.kill()
        options = {
            "--model": self._model_folder,
            "--served-model-name": MODEL,
            "--load-format": "dummy",
            "--host": "127.0.0.1",
            "--port": self.port,
            "--dtype": "bfloat16",
            "--max-model-len": CONTEXT_TOKENS_MAX,
            "--max-num-seqs": SEQUENCES_MAX,
            "--block-size": BLOCK_TOKENS,
            "--num-gpu-blocks-override": KV_BLOCKS,
        }
        # Not the `vllm` command: it looks for a distribution of that name, and this one is vllm-cpu.
        command = [str(self._python), "-m", "vllm.entrypoints.openai.api_server"]
        command += [part for option, value in options.items() for part in (option, str(value))]
        command += ["--enforce-eager", "--enable-prefix-caching"]
        began = time.monotonic()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **ENVIRONMENT},
            )
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() - began > START_TIMEOUT_S:
                self.kill()
                tail = self._log.read_text("utf-8", "replace")[-2000:]
                raise RuntimeError(f"vLLM was not healthy after {time.monotonic() - began:.0f} s; its log:\n{tail}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_EVERY_S)
        return time.monotonic() - began

    def metric(self, name: str) -> float:
        """The sum of one metric over its series."""
        text = self._get("/metrics")
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))

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

    def _healthy(self) -> bool:
        try:
            self._get("/health")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise ConnectionError(f"GET {self.url}{path}: status {response.status}")
        return text
