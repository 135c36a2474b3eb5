"""For the tests of those who build on mdashcore: nothing in here is needed to run a service.

* `ConnectionPair`: two ends of a conversation, wired back to back, without a transport.
* `mdashcore.testing.device`: a scripted device on a real WebSocket (with the extra ``agent``).
"""

from mdashcore.testing._pair import ConnectionPair

__all__ = ["ConnectionPair"]
