"""gRPC over our own HTTP/2: `server` serves generated bases, `client` is the channel behind generated stubs."""
