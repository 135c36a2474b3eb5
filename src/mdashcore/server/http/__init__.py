"""HTTP/1.1 on a connection of the gateway: accepting, TLS, heads, bodies, conditions, and clients that vanish."""
