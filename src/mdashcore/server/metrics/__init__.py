"""Metrics of the server for Prometheus. Nothing here is imported, or costs anything, unless metrics are configured.

The parts of the service know nothing of metrics. They are fed by an observer of the hub, by wrappers around the store
and the calls of devices, by a handler of the log, and by a look at the node whenever they are read.
"""
