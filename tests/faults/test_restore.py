"""A backup of a running server is restored as the page says, from each kind of store into an empty one of each."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from kept_service import fill, seen

from mdashcore.cli import main
from mdashcore.testing.device import connect_device

PAGE = Path(__file__).parents[2] / "docs" / "how_to_guides" / "keep_it_running.md"

WAY = ["memory", "sqlite", "sqlite", "file", "file", "redis", "redis", "sqlite", "redis", "file", "sqlite"]
"""Each kind follows each, itself too; nothing can be restored into `memory://`, which ends with its process."""


@pytest.fixture
def new_store(tmp_path, start_redis):
    """Gives the URL of an empty store of a kind."""
    number = 0

    def url(kind: str) -> str:
        nonlocal number
        number += 1
        places = {"memory": lambda: "memory://", "redis": lambda: f"{start_redis().url}/0?prefix=mdash{number}"}
        return places.get(kind, lambda: f"{kind}://{tmp_path / f'store{number}'}")()

    return url


ADMIN = ("root", "secret")  # of `serving`


async def test_from_each_store_to_each(serving, new_store, tmp_path, monkeypatch, capsys):
    """Users, keys, tokens, shadows, updates with their images and notifications are what they were, after ten moves."""
    code = re.search(r"^<!-- test: backup -->\n```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    monkeypatch.chdir(tmp_path)
    expected = secrets = None
    stores = [new_store(kind) for kind in WAY]
    for here, (place, following) in enumerate(pairwise([*stores, None])):
        async with serving(place) as server:
            if secrets is None:
                secrets = await fill(server.url, ADMIN, image_size=300_000)  # two pieces of a blob
                expected = await seen(server.url, ADMIN, secrets)
                assert all(expected.values())
            assert await seen(server.url, ADMIN, secrets) == expected, WAY[:here]
            monkeypatch.setenv("MDASH_SERVER", server.url)
            lines = code.replace("admin:SECRET", "root:secret").splitlines()
            if following is not None:
                backup, *restore, serve = (line.replace("sqlite:///var/lib/mdash", following) for line in lines)
                for line in (backup, *restore):
                    assert await trio.to_thread.run_sync(main, shlex.split(line)[1:]) == 0, (line, capsys.readouterr())
                assert serve == f"mdash serve --store {following}"  # what `serving` does next
            else:
                async with connect_device(f"{server.ws}/rpc", secrets.token) as device:
                    delta = await device.expect("Shadow.Delta")
                    assert delta["params"]["state"] == {"on": True, "n": 2**70}
