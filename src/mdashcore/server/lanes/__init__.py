"""How a request on an HTTP connection is answered: on the stream, or by the ASGI app."""
