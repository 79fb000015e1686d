"""An emulated inference engine behind vLLM's HTTP API: the default runtime where no GPU is near.

Its timing is the cost model of `infermesh.core.model.engine`, lived through in real time. It does not compute
anything: answers are counted tokens, not language. Everything it shows says that it is emulated.
"""

from infermesh.emulator.config import EmulatorConfig, EmulatorConfigError
from infermesh.emulator.faults import FaultError, Faults
from infermesh.emulator.prompts import answer_text, count_tokens
from infermesh.emulator.server import EmulatorServer, EmulatorStats, serve_emulator

__all__ = [
    "EmulatorConfig",
    "EmulatorConfigError",
    "EmulatorServer",
    "EmulatorStats",
    "FaultError",
    "Faults",
    "answer_text",
    "count_tokens",
    "serve_emulator",
]
