"""What clients of other mDash services ask, and what they are told."""

from __future__ import annotations

from typing import Any

import pytest

from mdashcore.server.api.compatibility import MOVED_PATHS, instead_of


@pytest.mark.parametrize("known", MOVED_PATHS)
@pytest.mark.parametrize("more", ["", "/", "/rpc/Sys.GetInfo"])
async def test_a_path_of_another_service(alice: Any, anyone: Any, known: str, more: str) -> None:
    """404 with what to use instead; under the API's prefix for those only that may ask."""
    for method in ("GET", "POST"):
        answer = await alice.http.request(method, f"{known}{more}", params={"access_token": alice.key})
        words = f"nothing is served at /api/v2{known}{more}: {MOVED_PATHS[known]}"
        assert (answer.status_code, answer.json()["error"]) == (404, {"code": 404, "message": words})
        assert (await anyone.request(method, f"{known}{more}")).status_code == 401
    answer = await anyone.get(f"{alice.server.url}{known}{more}")
    assert answer.json()["error"]["message"] == f"nothing is served at {known}{more}: {MOVED_PATHS[known]}"


@pytest.mark.parametrize("path", ["/", "/api/v2/users", "/api/v2/datas", "/api/v2/m", "/api/v2/m/devices", "/x/data"])
def test_a_path_that_only_looks_like_it(path: str) -> None:
    """Nothing is made up for it."""
    assert instead_of(path) is None


async def test_tags_beside_the_state(alice: Any) -> None:
    """They are the device's tags where the device is changed, and no error in an update of the shadow alone."""
    await alice.register("d1")
    update = {"state": {"desired": {"on": True}}, "tags": {"room": "cellar"}}
    assert (await alice.http.post("/devices/d1/shadow", json=update)).status_code == 200
    answer = await alice.http.post("/devices/d1", json={"shadow": update})
    assert answer.status_code == 200
    assert answer.json()["shadow"]["version"] == 2
    assert answer.json()["shadow"]["tags"] == answer.json()["tags"] == {"room": "cellar"}
    removed = await alice.http.post("/devices/d1", json={"shadow": {"tags": None}})
    assert (removed.status_code, removed.json()["tags"], removed.json()["shadow"]["version"]) == (200, {}, 2)
