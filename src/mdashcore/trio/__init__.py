"""The service on Trio: live connections (`Node`), their sockets, and the device's end (`Agent`).

This package imports none of its modules. Import `open_node` from `mdashcore.trio.node` and `open_agent` from
`mdashcore.trio.agent`, so that a device does not load a server.
"""
