"""Streams and WebSockets on Trio."""
