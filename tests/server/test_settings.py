"""Limits and settings, of every layer: what makes no sense is refused where it is set."""

from __future__ import annotations

import os
import time
from math import inf, nan
from pathlib import Path

import attrs
import pytest
from rows import every_row

from mdashcore import (
    ConnectionLimits,
    InvalidInput,
    InvalidSetting,
    MdashError,
    Unauthenticated,
    firmware,
    ota,
    rollout,
    shadow,
)
from mdashcore.hub import AccountLimits, Hub
from mdashcore.server.config import ServerConfig, ServerLimits, load_config
from mdashcore.server.service import ServiceSettings
from mdashcore.storage import open_backend
from mdashcore.trio.agent import Backoff
from mdashcore.trio.node import NodeSettings


def settings_classes():
    """The classes of limits and settings, of every layer."""
    return [
        *(ConnectionLimits, shadow.ShadowLimits, firmware.FirmwareLimits, ota.Options, rollout.Plan),
        *(AccountLimits, NodeSettings, Backoff, ServiceSettings, ServerLimits, ServerConfig),
    ]


NONSENSE = {
    "int": [-1, nan, inf, 1.0, True, "5", b"5", [5], None],
    "float": [-0.001, nan, inf, -inf, True, "5", [5], None],
    "bool": [0, 1, "yes", None],
    "str": [5, b"x"],
}


ENDLESS = {"notification_retention_days"}
"""What may be infinite."""


def nonsense():
    """Every number and switch of every class, with what it cannot be."""
    found = []
    for cls in settings_classes():
        for field in attrs.fields(cls):
            name, _, rest = str(field.type).partition(" | ")
            values = [value for value in NONSENSE.get(name, ()) if value is not None or rest != "None"]
            if name == "float" and field.name in ENDLESS:
                values.remove(inf)
            found += [(cls, field.name, value) for value in values]
    assert len(found) > 300
    return found


@every_row(("cls", "name", "value"), nonsense())
def test_limits_that_make_no_sense(cls, name, value):
    """Refused where they are set; the text names the field. It is an error of ours, and a ValueError."""
    with pytest.raises(InvalidSetting, match=f"'{name}' has to be") as raised:
        cls(**{name: value})
    assert isinstance(raised.value, MdashError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("cls", settings_classes())
def test_the_defaults_make_sense(cls):
    """Of every class."""
    cls()


@pytest.mark.parametrize(
    ("cls", "given"),
    [
        (ServerConfig, {"users": ({"name": "a"},)}),
        (ServerConfig, {"users": "admin:pw"}),
        (ServerConfig, {"trusted_proxies": "10.0.0.0/8"}),
        (ServerConfig, {"limits": {"devices": 5}}),
        (ServerConfig, {"max_answer": 2**24 + 1}),
        (NodeSettings, {"max_answer": 2**24 + 1}),
        (NodeSettings, {"delta_limits": {"esp32": -1}}),
        (NodeSettings, {"delta_limits": {"esp32": 10}}),
        (NodeSettings, {"delta_limits": {5: 4096}}),
        (NodeSettings, {"delta_limits": [("esp32", 4096)]}),
        (rollout.Plan, {"phases": (10.0, 5.0, 100.0)}),
        (rollout.Plan, {"phases": (10.0, 50.0)}),
        (rollout.Plan, {"phases": ()}),
        (rollout.Plan, {"phases": [100.0]}),
        (rollout.Plan, {"success_percent": 101}),
        (rollout.Plan, {"window": "22:00"}),
        (rollout.Plan, {"options": {}}),
        (rollout.Window, {"start": 1440, "end": 5}),
        (rollout.Window, {"start": 0, "end": 0}),
        (rollout.Window, {"start": 0, "end": 60, "days": ()}),
        (rollout.Window, {"start": 0, "end": 60, "days": (7,)}),
        (rollout.Window, {"start": 0, "end": 60, "days": (1, 1)}),
        (ota.StateLimits, {"idle": 0, "total": 5}),
        (ota.Options, {"chunk_size": 2945}),
        (ota.Options, {"auto_commit": True, "commit_after": 300}),
    ],
    ids=repr,
)
def test_settings_that_do_not_fit(cls, given):
    """Bounds, collections and values that do not fit each other."""
    with pytest.raises(InvalidSetting):
        cls(**given)


@pytest.mark.parametrize(
    "given",
    [
        *(
            {"now": time.time()},
            {"entropy": b"random"},
            {"monotonic": None},
            {"limits": None},
            {"limits": {}},
            {"shadow_limits": AccountLimits()},
        ),
        *({"free_disk": -1}, {"free_disk": 1.5}, {"keep_log_seconds": 0}, {"keep_log_seconds": nan}, {"signal": 1}),
        {"backend": "memory://"},
    ],
    ids=lambda given: next(iter(given)),
)
async def test_a_hub_of_nonsense(given):
    """Refused when it is made, not when a device connects."""
    async with open_backend("memory://") as backend:
        arguments = {"backend": backend, "now": time.time, "monotonic": time.monotonic, "entropy": os.urandom} | given
        with pytest.raises(InvalidSetting, match=next(iter(given))):
            Hub(arguments.pop("backend"), **arguments)


def test_paths_may_be_text():
    """They are paths all the same."""
    config = ServerConfig(certfile="cert.pem", keyfile=Path("key.pem"))
    assert (config.certfile, config.keyfile) == (Path("cert.pem"), Path("key.pem"))


def test_a_configuration_file_says_what_is_wrong(tmp_path):
    """With the words of the check."""
    file = tmp_path / "mdash.toml"
    file.write_text("max_answer = 99999999")
    with pytest.raises(InvalidInput, match="'max_answer' has to be a whole number from 1 to 16777216, and is 99999999"):
        load_config(file)


@pytest.mark.parametrize("data", [b"not json", b"", "text", {"a": 1}, bytearray(b"1")], ids=repr)
async def test_a_notification_whose_data_are_no_json(data):
    """It is not stored: it would make every answer that holds it unreadable."""
    async with open_backend("memory://") as backend:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
        with pytest.raises(InvalidInput):
            await hub.feed.emit("home", "app.event", "lamp", data)
        assert await hub.feed.end("home") == 0


@pytest.mark.parametrize("secret", [None, b"mdd_x", 5, ""], ids=repr)
async def test_credentials_that_are_none(secret):
    """They are Unauthenticated, whatever is asked for."""
    async with open_backend("memory://") as backend:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
        for authenticate in (hub.registry.authenticate, hub.accounts.authenticate_key, hub.sessions.authenticate):
            with pytest.raises(Unauthenticated):
                await authenticate(secret)
