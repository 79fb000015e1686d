"""WebSockets over the reactor: `socket` is one that is open; `http1` and `http2` carry it."""

from infermesh.net.websocket.http1 import open_websocket
from infermesh.net.websocket.http2 import REFUSED, WebSocketStream, open_websocket_stream
from infermesh.net.websocket.socket import Pausable, WebSocket, WebSocketConfig, WebSocketReader

__all__ = [
    "REFUSED",
    "Pausable",
    "WebSocket",
    "WebSocketConfig",
    "WebSocketReader",
    "WebSocketStream",
    "open_websocket",
    "open_websocket_stream",
]
