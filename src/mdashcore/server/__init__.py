"""The reference server: a gateway for sockets and a Quart-Trio app for REST, on one port.

There are three ways to use the package:

* whole: `mdashcore.server.run.serve`, which ``mdash serve`` calls;
* only the REST app: `mdashcore.server.app.create_app`, an ASGI app for any server on Trio;
* only the sockets: `mdashcore.server.gateway.Gateway` without an app, on the caller's own streams.
"""
