"""What a node holds at one moment: sockets, connections, requests, slots.

For tests and for people who look for a leak: when nothing is under way, everything here is zero but for idle
connections and subscribers. Counts only; nothing here is kept up to date.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    requests: int  # Being answered, on both ports.
    waiting: int  # For a slot of the fleet.
    admitted: int  # Slots of the fleet in use.
    attempts: int  # At targets, as the router's choice counts them.
    forwarded: int  # With runtimes of this node.
    subscribers: int  # Of this node's state.
    following: int  # Connections to peers whose state this node follows.
    sockets: int  # In the reactor.
    unsent_bytes: int  # Kept because a peer does not take them.
    accepted: Mapping[str, int]  # Connections, by port.
    upstream: Mapping[str, tuple[int, int]]  # Connections in use and idle, by node; runtimes by their target's key.

    @property
    def upstream_used(self) -> int:
        return sum(used for used, _ in self.upstream.values())

    @property
    def upstream_idle(self) -> int:
        return sum(idle for _, idle in self.upstream.values())

    @property
    def _known_sockets(self) -> int:
        return sum(self.accepted.values()) + self.following + self.upstream_used + self.upstream_idle

    def in_use(self) -> dict[str, int]:
        """Whatever is not zero of what must be zero when nobody asks for anything."""
        counts = {
            "requests": self.requests,
            "waiting": self.waiting,
            "admitted": self.admitted,
            "attempts": self.attempts,
            "forwarded": self.forwarded,
            "upstream connections in use": self.upstream_used,
            # Each is a connection that was accepted or one that was dialled; else it is nobody's.
            "sockets of nobody": self.sockets - self._known_sockets,
        }
        return {name: count for name, count in counts.items() if count}
