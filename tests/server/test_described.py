"""What the server answers is what its description says: schemathesis asks a real one, on SQLite, over real sockets.

A device is connected, and the credentials are such that nothing that is asked can take them away.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio

from mdashcore import Unauthenticated
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import RunningServer, open_server
from mdashcore.virtual_device import VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device

pytest.importorskip("schemathesis", reason="not installed")

CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 502, 503, 504, 507]

[checks.negative_data_rejection]
expected-statuses = ["4xx", 502, 503, 504, 507]

[[operations]]
include-path-regex = '^/api/v2/devices/\\{id\\}/(rpc|shadow|ota)'
parameters = { "path.id" = "lamp" }

[[operations]]
include-operation-id = ["delete_devices_id", "post_devices_id_token"]
parameters = { "path.id" = "fan" }
"""
"""502 to 504 tell of the device, and 507 of the disk: no fault of the server. The lamp is connected, and is to stay."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
)

# Sockets are no requests. A change of the own password asks for the old one, and wrong ones lock the login.
NOT_ASKED = ("--exclude-path-regex", "^/api/v2/(notify|rpc)$", "--exclude-operation-id", "put_me_password")


@attrs.frozen
class Asked:
    """A server, and the credentials for it."""

    server: RunningServer
    key: str
    folder: Path

    async def ask(self, *arguments: str) -> None:
        """Have schemathesis ask it. What it finds is the failure's text."""
        configuration = self.folder / "schemathesis.toml"
        configuration.write_text(CONFIGURATION)
        command = [
            str(Path(sys.executable).with_name("st")),
            f"--config-file={configuration}",
            "run",
            f"{self.server.url}/openapi.json",
            f"--checks={','.join(CHECKS)}",
            *NOT_ASKED,
            "--generation-with-security-parameters=false",
            "--continue-on-failure",
            *arguments,
        ]
        done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, cwd=self.folder)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


@pytest.fixture
async def asked(tmp_path: Path, cheap_hasher, password: str) -> AsyncIterator[Asked]:
    """The server with an admin, and a virtual device that is connected."""
    async with open_server(ServerConfig(bind="127.0.0.1:0", store=f"sqlite://{tmp_path / 'store'}")) as server:
        server.service.passwords._hasher = cheap_hasher
        accounts = server.service.hub.accounts
        await accounts.register("root", cheap_hasher.hash(password), admin=True)
        token = (await server.service.hub.create_device("root", "lamp")).token
        device = VirtualDevice("lamp", tmp_path / "lamp")

        async def live() -> None:
            with suppress(Unauthenticated):  # a request may remove it, or give it another token
                await run_virtual_device(device, server.device_url, token, name="lamp")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            yield Asked(server, (await accounts.create_key("root")).secret, tmp_path)
            nursery.cancel_scope.cancel()


async def test_answers_are_as_described(asked: Asked) -> None:
    """A few requests to each endpoint, good and bad ones: no 500, and every answer as `/openapi.json` says."""
    key = f"Authorization: Bearer {asked.key}"
    await asked.ask("--header", key, "--phases=fuzzing", "--max-examples=2", "--generation-deterministic")


KEY, ADMIN = "key", "admin"

PARTS = {
    "every edge": (KEY, "--phases=coverage", "--exclude-tag=keys"),
    "at random": (KEY, "--phases=fuzzing,stateful", "--exclude-tag=keys", "--max-time=90"),
    "users": (ADMIN, "--phases=coverage,fuzzing", "--include-tag=users", "--max-time=60"),
    "keys": (ADMIN, "--phases=coverage,fuzzing,stateful", "--include-tag=keys", "--max-time=60"),
}
"""Parts of the description, each with the credentials for it, and with the seconds for which it is asked."""


@pytest.mark.proof
@pytest.mark.parametrize("part", PARTS)
async def test_many_answers_are_as_described(asked: Asked, password: str, part: str) -> None:
    """Every edge of every schema, random requests, and sequences of them; as a key, and as an admin."""
    who, *arguments = PARTS[part]
    credentials = ("--header", f"Authorization: Bearer {asked.key}") if who == KEY else ("--auth", f"root:{password}")
    await asked.ask(*credentials, *arguments)
