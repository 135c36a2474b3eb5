"""The reference server: a gateway for sockets, and a Quart-Trio app for REST, on one port.

Three ways to use it:

* whole: `mdashcore.server.run.serve`, which is what ``mdash serve`` calls;
* only the REST app: `mdashcore.server.app.create_app`, an ASGI app for any server on Trio;
* only the sockets: `mdashcore.server.gateway.Gateway` without an app, on streams of your own.
"""
