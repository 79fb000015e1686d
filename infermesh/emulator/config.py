"""How one emulated engine server is set up. Values only; `validate` names what is wrong and what would do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from infermesh.core.model.profiles import PROFILES, EngineProfile
from infermesh.emulator.faults import Faults


class EmulatorConfigError(ValueError):
    """The emulator cannot be set up like this. The message names the setting, its value and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorConfig:
    """Each model has an engine, and so a GPU, of its own; all engines of a server share profile and speed."""

    models: tuple[str, ...] = ("emulated-8b",)
    profile: str = "h100"  # A key of PROFILES.
    engine: EngineProfile | None = None  # A profile of one's own, in place of `profile`.
    speed: float = 1.0  # Divides every duration of the profile.
    slots: int = 0  # Sequences at once; 0: the profile's.
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one.
    seed: int = 0  # Decides the text of answers and the draws of faults.
    faults: Faults = field(default_factory=Faults)  # Copied at the start; the server's own may then be switched.

    api_delay_s: float = 0.0  # What lies between a request's arrival and the engine: tokenizer, HTTP stack.
    metrics_lag_s: float = 0.0  # /metrics answers with a text up to so old, as scraped ones are.
    # vLLM sends the head of a streamed answer when it accepts the request, long before the first token.
    # True sends it with the first token, as other runtimes do.
    head_with_first_token: bool = False
    crash_exits_process: bool = False  # The `crash` fault calls os._exit: only for a process of its own.

    completion_tokens_default: int = 16  # vLLM's own default of max_tokens.
    chat_tokens_default: int = 64  # A chat without max_tokens ends by itself ("stop") after so many.
    context_tokens_max: int = 131_072  # Prompt and output of one request; the KV cache may allow less.
    in_flight_max: int = 2_048  # Per model; the next one is refused with 503, as vLLM's queue limit does.

    connections_max: int = 4_096  # Further ones wait in the kernel's backlog.
    head_bytes_max: int = 65_536
    body_bytes_max: int = 16_777_216
    receive_timeout_s: float = 30.0  # For the whole of one request, from its first byte.
    keep_alive_s: float = 5.0  # Idle connections are closed after so long: uvicorn's, and so vLLM's, default.
    send_timeout_s: float = 30.0  # A client that takes no byte for so long is dropped.
    unsent_bytes_max: int = 1_048_576  # So is one for whom so much is waiting.
    request_timeout_s: float = 3_600.0  # An answer that takes longer is given up.

    def validate(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models) or not all(self.models):
            raise EmulatorConfigError(f"emulator models={self.models!r}: name one or more, each once")
        if self.engine is None and self.profile not in PROFILES:
            raise EmulatorConfigError(
                f"emulator profile={self.profile!r}: unknown; there are {', '.join(sorted(PROFILES))}"
            )
        if not (math.isfinite(self.speed) and self.speed > 0.0):
            raise EmulatorConfigError(f"emulator speed={self.speed}: must be finite and above 0; 1.0 is real time")
        if not 0 <= self.port <= 65_535:
            raise EmulatorConfigError(f"emulator port={self.port}: must be from 0 (any free one) to 65535")
        batch = self._named().batch_tokens_max
        if not 0 <= self.slots <= batch:
            raise EmulatorConfigError(
                f"emulator slots={self.slots}: must be from 0 (the profile's own) to {batch}, the tokens of one step"
            )

    def engine_profile(self) -> EngineProfile:
        """The profile with `speed` and `slots` applied."""
        profile = self._named().at_speed(self.speed)
        return profile.with_slots(self.slots) if self.slots else profile

    def _named(self) -> EngineProfile:
        return self.engine if self.engine is not None else PROFILES[self.profile]
