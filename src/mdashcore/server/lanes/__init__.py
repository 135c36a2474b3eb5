"""The two ways to answer a request on an HTTP connection: on the stream, or by the ASGI app."""
