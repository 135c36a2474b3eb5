"""Redis servers, as the backends' own tests start them: `start_redis`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("redis_servers", Path(__file__).parents[1] / "backends" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_redis_servers = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _redis_servers  # what is defined there looks for its module
_spec.loader.exec_module(_redis_servers)

redis_program = _redis_servers.redis_program
start_redis = _redis_servers.start_redis
