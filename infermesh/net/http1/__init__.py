"""HTTP/1.1 over the reactor: `server` takes requests, `client` relays responses."""

from infermesh.net.asker import Request, SlowCall, Work
from infermesh.net.http1.client import ExchangeTally, ResponseSink, UpstreamConnection
from infermesh.net.http1.server import (
    Answer,
    Refusal,
    ServerConnection,
    ServerLimits,
    Successor,
    Switch,
)

__all__ = [
    "Answer",
    "ExchangeTally",
    "Refusal",
    "Request",
    "ResponseSink",
    "ServerConnection",
    "ServerLimits",
    "SlowCall",
    "Successor",
    "Switch",
    "UpstreamConnection",
    "Work",
]
