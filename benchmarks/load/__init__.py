"""What is done to servers. Each runs as a process of its own, and is told what to do by lines of JSON."""
