"""What an engine costs: the constants of the step model, for a few real kinds of GPU.

Not a description of hardware: a profile says how long one engine step takes and what fits into it, nothing
else. A step takes `step_base_ms + per_sequence_ms * sequences + per_prefill_token_ms * prefill tokens`.

Where a profile is scaled from another, its comment says from what and by which ratio. The scaled ones are
estimates for emulation and simulation; only `h100` and `small` repeat constants that somebody fitted.
"""

from __future__ import annotations

import math

import msgspec


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Constants of one engine. `slots <= batch_tokens_max`: each decoder takes one token of a step."""

    name: str
    step_base_ms: float
    per_sequence_ms: float
    per_prefill_token_ms: float
    slots: int  # Sequences that run at once (vLLM: max_num_seqs).
    kv_capacity_tokens: int
    batch_tokens_max: int  # Tokens of one step: one per decoder, the rest for prefills (max_num_batched_tokens).
    block_tokens: int = 16

    def __post_init__(self) -> None:
        costs = (self.step_base_ms, self.per_sequence_ms, self.per_prefill_token_ms)
        if not all(math.isfinite(cost) and cost >= 0.0 for cost in costs) or self.step_base_ms == 0.0:
            raise ValueError(f"profile {self.name}: costs must be finite and >= 0, the base above 0: {costs}")
        if not 1 <= self.slots <= self.batch_tokens_max:
            raise ValueError(
                f"profile {self.name}: slots={self.slots} must be from 1 to batch_tokens_max={self.batch_tokens_max}"
            )
        if not 1 <= self.block_tokens <= self.kv_capacity_tokens:
            raise ValueError(
                f"profile {self.name}: block_tokens={self.block_tokens} must be from 1 to "
                f"kv_capacity_tokens={self.kv_capacity_tokens}"
            )

    def at_speed(self, speed: float) -> EngineProfile:
        """The same engine, `speed` times as fast: every duration divided, every capacity kept."""
        if not (math.isfinite(speed) and speed > 0.0):
            raise ValueError(f"profile {self.name}: speed={speed} must be finite and above 0")
        return msgspec.structs.replace(
            self,
            step_base_ms=self.step_base_ms / speed,
            per_sequence_ms=self.per_sequence_ms / speed,
            per_prefill_token_ms=self.per_prefill_token_ms / speed,
        )

    def with_slots(self, slots: int) -> EngineProfile:
        return msgspec.structs.replace(self, slots=slots)

    def with_block_tokens(self, block_tokens: int) -> EngineProfile:
        """The same capacity in blocks of another size, so that a trace's own block ids can be used."""
        return msgspec.structs.replace(self, block_tokens=block_tokens)

    @property
    def kv_blocks(self) -> int:
        return self.kv_capacity_tokens // self.block_tokens

    def step_ms(self, sequences: int, prefill_tokens: int) -> float:
        return self.step_base_ms + self.per_sequence_ms * sequences + self.per_prefill_token_ms * prefill_tokens

    def least_prefill_ms(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """Time to first token on an otherwise idle engine: the least that any schedule can reach."""
        uncached = max(1, prompt_tokens - cached_tokens)
        steps = -(-uncached // self.batch_tokens_max)
        return steps * self.step_ms(1, 0) + self.per_prefill_token_ms * uncached


PROFILES: dict[str, EngineProfile] = {
    profile.name: profile
    for profile in (
        # Two H100 80 GB, a dense 32B model in bf16, tensor parallel over 2: the constants that the prequal
        # project fitted. The KV figure agrees with arithmetic: 2 x 80 GB x 0.9 - 65.5 GB of weights, over
        # 262,144 bytes a token (64 layers x 8 KV heads x 128 x 2 x 2 bytes), is about 300,000 tokens.
        EngineProfile(
            name="h100",
            step_base_ms=15.0,
            per_sequence_ms=0.2,
            per_prefill_token_ms=0.063,
            slots=256,
            kv_capacity_tokens=307_328,
            batch_tokens_max=8_192,
        ),
        # Two A100 80 GB, same model. Decode x1.6: the ratio of the published inter-token ranges of an 8B
        # model (llm-d's tables: H100 10-15 ms, A100 15-25 ms), near the bandwidth ratio 3.35/2.04 TB/s.
        # Prefill x3.0: dense bf16 peaks are 989 and 312 TFLOPS. Same memory, so same KV. vLLM's default batch
        # for a server on an A100 is 2,048 tokens.
        EngineProfile(
            name="a100",
            step_base_ms=24.0,
            per_sequence_ms=0.32,
            per_prefill_token_ms=0.19,
            slots=256,
            kv_capacity_tokens=307_328,
            batch_tokens_max=2_048,
        ),
        # Two L40S 48 GB, same model. Decode x2.4 by the same tables (25-35 ms). Prefill x3.5: peak bf16 is
        # 362 TFLOPS (x2.7), less what PCIe costs tensor parallelism: a judgement. KV: 2 x 48 GB x 0.9 less
        # the weights, over 262,144 bytes, in whole blocks.
        EngineProfile(
            name="l40s",
            step_base_ms=36.0,
            per_sequence_ms=0.48,
            per_prefill_token_ms=0.22,
            slots=256,
            kv_capacity_tokens=79_872,
            batch_tokens_max=2_048,
        ),
        # One RTX 4090 24 GB with an 8B model in bf16, from first principles: a step reads 16 GB of weights at
        # 1.0 TB/s; a prefill token is 16 GFLOP at half of 165 TFLOPS; 24 GB x 0.9 - 16 GB over 131,072 bytes.
        EngineProfile(
            name="rtx4090",
            step_base_ms=16.0,
            per_sequence_ms=0.25,
            per_prefill_token_ms=0.19,
            slots=256,
            kv_capacity_tokens=42_720,
            batch_tokens_max=2_048,
        ),
        # The prequal project's default engine: few slots and little KV, so that queues form early.
        EngineProfile(
            name="small",
            step_base_ms=12.0,
            per_sequence_ms=0.4,
            per_prefill_token_ms=0.06,
            slots=32,
            kv_capacity_tokens=40_000,
            batch_tokens_max=2_048,
        ),
        # No GPU at all: fast and narrow, for tests that need every limit within reach.
        EngineProfile(
            name="tiny",
            step_base_ms=1.0,
            per_sequence_ms=0.02,
            per_prefill_token_ms=0.002,
            slots=8,
            kv_capacity_tokens=4_096,
            batch_tokens_max=256,
        ),
    )
}
