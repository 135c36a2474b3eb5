"""Config.*: a typed tree, changed in RAM, kept by saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput, RpcError
from mdashcore.virtual_device import VirtualDevice
from mdashcore.virtual_device.config import default_config, difference, overlay


@pytest.fixture
async def device(tmp_path: Path) -> VirtualDevice:
    return VirtualDevice("d1", tmp_path)


async def ignore(*args: object) -> None:
    """A link that sends into the void."""


async def test_get_gives_the_tree_a_section_or_a_value(device: VirtualDevice) -> None:
    """Without a key the whole tree; with a dotted path what stands there."""
    tree = await device.handle("Config.Get", None)
    assert tree["device"]["id"] == "d1"
    assert await device.handle("Config.Get", {"key": "wifi.sta"}) == tree["wifi"]["sta"]
    assert await device.handle("Config.Get", {"key": "wifi.sta.enable"}) is True
    assert await device.handle("Config.Get", {"key": "debug.level"}) == 2


@pytest.mark.parametrize("key", ["nope", "wifi.nope", "wifi.sta.ssid.x", ".", "wifi.", "__class__"])
async def test_a_key_that_does_not_exist(device: VirtualDevice, key: str) -> None:
    """Error 404, as on a device."""
    with pytest.raises(RpcError) as caught:
        await device.handle("Config.Get", {"key": key})
    assert (caught.value.code, caught.value.message) == (404, "invalid config key")


async def test_set_changes_only_what_it_names(device: VirtualDevice) -> None:
    """Values are set in RAM, in several sections together; the answer says that nothing was saved."""
    before = await device.handle("Config.Get", {})
    patch = {"wifi": {"sta": {"ssid": "home", "enable": False}}, "debug": {"level": 3}}
    assert await device.handle("Config.Set", {"config": patch}) == {"saved": False}
    after = await device.handle("Config.Get", {})
    assert after == overlay(before, patch)
    assert after["wifi"]["sta"] == {**before["wifi"]["sta"], "ssid": "home", "enable": False}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config is required"),
        (5, "invalid config value: config must be an object"),
        ({"nope": 1}, "invalid config value: no such key: nope"),
        ({"wifi": {"sta": {"nope": 1}}}, "invalid config value: no such key: wifi.sta.nope"),
        ({"wifi": {"sta": "x"}}, "invalid config value: wifi.sta must be an object"),
        ({"wifi": {"sta": {"ssid": {"a": 1}}}}, "invalid config value: wifi.sta.ssid must be a string"),
        ({"wifi": {"sta": {"ssid": None}}}, "invalid config value: wifi.sta.ssid must be a string"),
        ({"wifi": {"sta": {"enable": 1}}}, "invalid config value: wifi.sta.enable must be true or false"),
        ({"debug": {"level": True}}, "invalid config value: debug.level must be an integer"),
        ({"debug": {"level": 2.5}}, "invalid config value: debug.level must be an integer"),
        ({"debug": {"level": 2**31}}, "invalid config value: debug.level is out of range"),
        ({"device": {"sn": "x" * 20_000}}, "invalid config value: longer than 16384 bytes"),
    ],
)
async def test_a_bad_patch_changes_nothing(device: VirtualDevice, config: object, message: str) -> None:
    """Unknown keys and other types are refused with 400, and so is all that came with them."""
    before = await device.handle("Config.Get", {})
    good = {"sys": {"tz_spec": "UTC0"}}
    patch = {**good, **config} if isinstance(config, dict) else config
    with pytest.raises(RpcError) as caught:
        await device.handle("Config.Set", {"config": patch, "save": True})
    assert (caught.value.code, caught.value.message) == (400, message)
    assert await device.handle("Config.Get", {}) == before


async def test_only_what_was_saved_outlives_a_power_cut(tmp_path: Path) -> None:
    """A new device over the same folder has the saved values, not those that were only set."""
    device = VirtualDevice("d1", tmp_path)
    await device.handle("Config.Set", {"config": {"wifi": {"sta": {"ssid": "kept"}}}, "save": True})
    await device.handle("Config.Set", {"config": {"wifi": {"sta": {"pass": "lost"}}}})
    device = VirtualDevice("d1", tmp_path)
    sta = await device.handle("Config.Get", {"key": "wifi.sta"})
    assert (sta["ssid"], sta["pass"]) == ("kept", "")

    await device.handle("Config.Set", {"config": {"wifi": {"sta": {"pass": "kept too"}}}})
    assert await device.handle("Config.Save", {}) == {"saved": True}
    device = VirtualDevice("d1", tmp_path)
    assert await device.handle("Config.Get", {"key": "wifi.sta.pass"}) == "kept too"
    assert json.loads((tmp_path / "config.json").read_bytes()) == {
        "wifi": {"sta": {"ssid": "kept", "pass": "kept too"}}
    }


@pytest.mark.parametrize(
    ("calls", "reboots"),
    [
        ([("Config.Set", {"config": {}, "save": True, "reboot": True})], True),
        ([("Config.Save", {"reboot": True})], True),
        ([("Config.Set", {"config": {}, "reboot": True})], False),  # it would lose what was set
        ([("Config.Set", {"config": {}, "save": True}), ("Config.Save", {})], False),
    ],
)
async def test_a_reboot_follows_a_save(
    device: VirtualDevice, autojump_clock: trio.testing.MockClock, calls: list[tuple[str, Any]], reboots: bool
) -> None:
    """`reboot` restarts the device half a second after the answer, if the configuration was saved."""
    rebooted_at: list[float] = []

    async def reboot() -> None:
        rebooted_at.append(trio.current_time())

    started = trio.current_time()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run, ignore, reboot)
            for method, params in calls:
                await device.handle(method, params)
    assert rebooted_at == ([pytest.approx(started + 0.5)] if reboots else [])


async def test_a_reboot_forgets_what_was_only_set(
    device: VirtualDevice, autojump_clock: trio.testing.MockClock
) -> None:
    """The tree in RAM is read from flash again."""
    await device.handle("Config.Set", {"config": {"sys": {"tz_spec": "lost"}}})
    await device.handle("Sys.Reboot", {})
    await until_reboot(device)
    assert await device.handle("Config.Get", {"key": "sys.tz_spec"}) == ""


async def until_reboot(device: VirtualDevice) -> None:
    rebooted = trio.Event()

    async def reboot() -> None:
        rebooted.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, ignore, reboot)
        await rebooted.wait()
        nursery.cancel_scope.cancel()


async def test_the_defaults_can_be_given(tmp_path: Path) -> None:
    """`config` changes the defaults, which are then not written to the file; it has to fit them."""
    device = VirtualDevice("d1", tmp_path, config={"dash": {"server": "ws://h/", "token": "t"}})
    assert await device.handle("Config.Get", {"key": "dash.token"}) == "t"
    await device.handle("Config.Save", {})
    assert json.loads((tmp_path / "config.json").read_bytes()) == {}
    with pytest.raises(InvalidInput, match=r"no such key: dash\.x"):
        VirtualDevice("d1", tmp_path, config={"dash": {"x": 1}})


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"wifi":{"sta":{"ssid":5}}}', b'{"nope":1}', b"\xff"])
async def test_a_damaged_file_is_named_and_kept(tmp_path: Path, text: bytes) -> None:
    """The device does not start over the damaged data; the error names the file."""
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InvalidInput, match=r"config\.json"):
        VirtualDevice("d1", tmp_path)
    assert (tmp_path / "config.json").read_bytes() == text


def trees_like(tree: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Patches that fit."""
    of_type = {bool: st.booleans(), int: st.integers(-(2**31), 2**31 - 1), str: st.text(max_size=5)}
    values = {k: trees_like(v) if isinstance(v, dict) else of_type[type(v)] for k, v in tree.items()}
    return st.fixed_dictionaries({}, optional=values)


DEFAULTS = default_config("d1")


@given(trees_like(DEFAULTS))
def test_what_is_saved_restores_the_tree(patch: dict[str, Any]) -> None:
    """overlay(base, difference(base, tree)) == tree, and the base is never changed."""
    tree = overlay(DEFAULTS, patch)
    assert overlay(DEFAULTS, difference(DEFAULTS, tree)) == tree
    assert default_config("d1") == DEFAULTS
