"""`deploy/Dockerfile`: the check of the container's health, against a server that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from children import default_signals

DOCKERFILE = Path(__file__).parents[2] / "deploy/Dockerfile"
MDASH = Path(sys.executable).with_name("mdash")


def test_the_check_of_the_health(tmp_path):
    """It follows the environment to the port and the root path, asks no proxy, and fails once the server has ended."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", "")
    (check,) = re.findall(r"^HEALTHCHECK .*? CMD (\[.*\])$", text, re.MULTILINE)
    command = [sys.executable, *json.loads(check)[1:]]
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment |= {"MDASH_STORE": "memory://", "MDASH_ROOT_PATH": "/mdash", "MDASH_BIND": "127.0.0.1:0"}
    environment |= {"http_proxy": "http://127.0.0.1:9"}  # nothing listens there

    def health(port):
        return subprocess.run(
            command,
            env=environment | {"MDASH_BIND": f"0.0.0.0:{port}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    with default_signals():
        server = subprocess.Popen([MDASH, "serve"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with server:
        try:
            (port,) = re.findall(r"^Listening on http://127\.0\.0\.1:(\d+)", server.stdout.readline())
            done = health(port)
            assert done.returncode == 0, done.stderr
        finally:
            server.kill()
    assert health(port).returncode == 1
