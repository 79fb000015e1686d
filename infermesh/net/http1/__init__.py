"""HTTP/1.1 over the reactor: `server` takes requests, `client` relays responses."""

from infermesh.net.http1.client import ExchangeTally, ResponseSink, UpstreamConnection
from infermesh.net.http1.server import (
    Answer,
    Refusal,
    Request,
    ServerConnection,
    ServerLimits,
    SlowCall,
    StreamedResponse,
    Work,
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
    "StreamedResponse",
    "UpstreamConnection",
    "Work",
]
