"""A service with something of everything that is kept, and what its users see of it: for backups and older stores."""

from __future__ import annotations

import io
import json
from typing import Any

import attrs
import httpx

from mdashcore.firmware import write_image

__all__ = ["Secrets", "fill", "seen"]

PASSWORD = "correct horse"


@attrs.frozen
class Secrets:
    """What its users know."""

    key: str
    """An API key of alice."""
    token: str
    """The token of her device "lamp"."""


def image(size: int) -> bytes:
    """A firmware."""
    file = io.BytesIO()
    manifest = {"name": "lamp", "platform": "esp32", "version": "2.0", "build_id": "new"}
    write_image(file, manifest, {"app": bytes(n % 251 for n in range(size))})
    return file.getvalue()


async def fill(url: str, admin: tuple[str, str], *, image_size: int) -> Secrets:
    """Make a user with a key, two devices, a shadow, updates that wait, a rollout and a library, on an empty server."""
    files = {"file": ("fw.zip", image(image_size))}
    rollout = {"rollout": (None, json.dumps({"name": "later", "filter": ["arch=esp32"], "approval": True}))}
    async with httpx.AsyncClient(base_url=f"{url}/api/v2", auth=admin, timeout=20) as root:
        (await root.post("/users", json={"name": "alice", "password": PASSWORD})).raise_for_status()
    async with httpx.AsyncClient(base_url=f"{url}/api/v2", auth=("alice", PASSWORD), timeout=20) as alice:

        async def made(path: str, **options: Any) -> Any:
            return (await alice.post(path, **options)).raise_for_status().json()

        key = (await made("/keys", json={"name": "ci"}))["key"]
        token = (await made("/devices", json={"id": "lamp", "name": "Lamp 🛋"}))["token"]
        await made("/devices", json={"id": "meter"})
        await made("/devices/lamp/shadow", json={"state": {"desired": {"on": True, "n": 2**70}}})
        await made("/devices/lamp/shadow", json={"state": {"reported": {"on": False, "ota": {"arch": "esp32"}}}})
        await made("/devices/lamp/ota?queue=1&force=1", files=files)
        await made("/rollouts", files=rollout | files)
        kept = {"file": ("kept.zip", image(image_size + 1))}
        id = (await made("/firmware?notes=kept", files=kept))["id"]
        await made(f"/devices/meter/ota?queue=1&firmware={id}")
    return Secrets(key, token)


async def seen(url: str, admin: tuple[str, str], secrets: Secrets) -> dict[str, Any]:
    """Return what the admin and alice are answered."""
    async with httpx.AsyncClient(base_url=f"{url}/api/v2", auth=admin, timeout=20) as root:
        users = (await root.get("/users")).raise_for_status().json()
    headers = {"Authorization": f"Bearer {secrets.key}"}
    async with httpx.AsyncClient(base_url=f"{url}/api/v2", headers=headers, timeout=20) as alice:
        answers = {path: (await alice.get(path)).raise_for_status().json() for path in PATHS}
        for member in ("revision", "deadline"):  # of an open update, which a server takes up anew when it starts
            del answers["/devices/lamp/ota"][member]
        logs = (await alice.post("/logs", json={"start": 0})).raise_for_status().json()
    return {"users": [(each["name"], each["admin"]) for each in users], **answers, "logs": logs}


PATHS = ("/devices", "/devices/lamp/shadow", "/devices/lamp/ota", "/rollouts", "/firmware")
