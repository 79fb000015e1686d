"""HTTP/2 over the reactor: `server` takes requests, `client` and `pool` ask."""

from infermesh.net.http2.client import CLIENT_CONFIG, Http2ClientConnection
from infermesh.net.http2.client_stream import Http2UpstreamStream, StreamSink
from infermesh.net.http2.endpoint import EndpointTimes
from infermesh.net.http2.pool import Http2Pool
from infermesh.net.http2.server import SERVER_CONFIG, Http2ServerConnection, StreamService
from infermesh.net.http2.server_stream import Http2ServerStream, StreamReader
from infermesh.net.http2.stream import Source

__all__ = [
    "CLIENT_CONFIG",
    "SERVER_CONFIG",
    "EndpointTimes",
    "Http2ClientConnection",
    "Http2Pool",
    "Http2ServerConnection",
    "Http2ServerStream",
    "Http2UpstreamStream",
    "Source",
    "StreamReader",
    "StreamService",
    "StreamSink",
]
