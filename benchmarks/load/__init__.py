"""Load generators. Each runs as a process of its own, and gets its orders as lines of JSON."""
