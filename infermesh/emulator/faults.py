"""Switches that make the emulated engine misbehave in the ways real ones do.

Plain values: the engine loop and the answers read them, tests and `POST /emulator/faults` change them while the
server runs. The engine's own faults hold until they are switched off. Those of requests hold for the next
`requests_left` generating requests, or for all while it is None.
"""

from __future__ import annotations

import math

import msgspec

_ENGINE_FIELDS = frozenset({"slow_factor", "frozen", "crash"})


class FaultError(ValueError):
    """A fault switch was given a value that it cannot take. The message names both."""


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    # The engine, until switched off.
    slow_factor: float = 1.0  # Each step takes this many times as long.
    frozen: bool = False  # The step under way never ends: requests pile up, aborts are not seen.
    crash: bool = False  # At once: the process exits, or in-process every socket is reset and closed.

    # The next requests.
    requests_left: int | None = None
    stuck: bool = False  # Accepted, never answered; only the client's leaving ends it.
    sinkhole_probability: float = 0.0  # This share is answered 500 at once.
    garbage_head: bool = False  # Bytes that are no HTTP, then the end.
    answer_delay_s: float = 0.0  # Nothing is sent for that long, not even the head.
    head_split_s: float = 0.0  # Half of the head, this pause, the rest.
    content_length_delta: int = 0  # Unary: stated minus sent. Above 0 the body ends early, below it runs on.
    stall_after_tokens: int | None = None  # Streams, these four: so many tokens, then silence,
    reset_after_tokens: int | None = None  # or a reset of the connection,
    truncate_after_tokens: int | None = None  # or its end without the last chunk,
    crash_after_tokens: int | None = None  # or the crash of the whole server.

    def __post_init__(self) -> None:
        for name in ("slow_factor", "answer_delay_s", "head_split_s", "sinkhole_probability"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise FaultError(f"fault {name}={value}: must be finite and not negative")
        if self.slow_factor == 0.0:
            raise FaultError("fault slow_factor=0.0: must be above 0; 1.0 is the profile's own pace")
        if self.sinkhole_probability > 1.0:
            raise FaultError(f"fault sinkhole_probability={self.sinkhole_probability}: must be from 0 to 1")
        for name in ("requests_left", "stall_after_tokens", "reset_after_tokens"):
            _refuse_negative(name, getattr(self, name))
        for name in ("truncate_after_tokens", "crash_after_tokens"):
            _refuse_negative(name, getattr(self, name))

    def change(self, changes: bytes) -> None:
        """Set the switches named in this JSON object and keep the others. All or nothing."""
        try:
            given = msgspec.json.decode(changes, type=dict[str, float | int | bool | None])
            wanted = msgspec.convert({**msgspec.to_builtins(self), **given}, Faults)
        except msgspec.ValidationError as error:
            raise FaultError(f"faults: {error}; the switches are: {', '.join(self.__struct_fields__)}") from None
        except msgspec.DecodeError as error:
            raise FaultError(f"faults: the body must be a JSON object: {error}") from None
        self.become(wanted)

    def become(self, other: Faults) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(other, name))

    def draw(self, chance: float) -> RequestFaults:
        """The faults of one more request. `chance` is uniform in [0, 1) and decides on the sinkhole."""
        if self.requests_left == 0:
            return NO_FAULTS
        drawn = RequestFaults(
            stuck=self.stuck,
            sinkhole=chance < self.sinkhole_probability,
            garbage_head=self.garbage_head,
            answer_delay_s=self.answer_delay_s,
            head_split_s=self.head_split_s,
            content_length_delta=self.content_length_delta,
            stall_after_tokens=self.stall_after_tokens,
            reset_after_tokens=self.reset_after_tokens,
            truncate_after_tokens=self.truncate_after_tokens,
            crash_after_tokens=self.crash_after_tokens,
        )
        if self.requests_left is not None and self._any_request_fault():
            self.requests_left -= 1
        return drawn

    def _any_request_fault(self) -> bool:
        clean = Faults(requests_left=self.requests_left)
        return any(
            getattr(self, name) != getattr(clean, name) for name in self.__struct_fields__ if name not in _ENGINE_FIELDS
        )


class RequestFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong with one request; fixed when it arrives."""

    stuck: bool = False
    sinkhole: bool = False
    garbage_head: bool = False
    answer_delay_s: float = 0.0
    head_split_s: float = 0.0
    content_length_delta: int = 0
    stall_after_tokens: int | None = None
    reset_after_tokens: int | None = None
    truncate_after_tokens: int | None = None
    crash_after_tokens: int | None = None

    def cut_after_tokens(self) -> int | None:
        """The first of the four stream faults to strike."""
        cuts = (
            self.stall_after_tokens,
            self.reset_after_tokens,
            self.truncate_after_tokens,
            self.crash_after_tokens,
        )
        return min((cut for cut in cuts if cut is not None), default=None)


NO_FAULTS = RequestFaults()


def _refuse_negative(name: str, value: int | None) -> None:
    if value is not None and value < 0:
        raise FaultError(f"fault {name}={value}: must be null or not negative")
