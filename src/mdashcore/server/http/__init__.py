"""HTTP/1.1 on a connection of the gateway: accepting, TLS, the slow lane, clients that vanish, and proxies."""
