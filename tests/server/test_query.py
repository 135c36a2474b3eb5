"""Parameters of the query: what nothing would heed is refused, everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from mdashcore.server.app import create_quart_app

SHADOW = "/devices/d1/shadow"

UPDATE = [
    *("queue", "bare", "keep", "firmware", "force", "commit", "commit_after", "commit_timeout", "chunk_size"),
    *("attempts", "in_flight"),
]

PARAMETERS = [
    ("GET", "/devices", ["filter", "limit", "after", "sort", "count", "fields", "format"]),
    ("POST", "/devices", []),
    ("GET", "/devices/d1", []),
    ("PUT", "/devices/d1", []),
    ("POST", "/devices/d1", []),
    ("DELETE", "/devices/d1", []),
    ("POST", "/devices/d1/token", []),
    ("GET", SHADOW, []),
    ("HEAD", SHADOW, []),
    ("POST", SHADOW, []),
    ("GET", "/devices/d1/series", ["path", "from", "to", "points", "format"]),
    ("GET", "/devices/d1/rpc/Echo", ["timeout"]),
    ("POST", "/devices/d1/rpc/Echo", ["timeout"]),
    ("POST", "/devices/d1/rpc", ["timeout"]),
    ("GET", "/devices/d1/ota", []),
    ("POST", "/devices/d1/ota/end", []),
    ("DELETE", "/devices/d1/ota", []),
    ("POST", "/devices/d1/ota", UPDATE),
    ("POST", "/tags", []),
    ("GET", "/fleet", []),
    ("GET", "/filters", []),
    ("PUT", "/filters/halls", []),
    ("DELETE", "/filters/halls", []),
    ("GET", "/filter-terms", ["text", "typed"]),
    ("GET", "/rollouts", []),
    ("POST", "/rollouts", ["bare", "keep"]),
    ("POST", "/rollouts/preview", ["bare"]),
    ("GET", "/rollouts/rol_aaaaaaaaaaaa", []),
    ("POST", "/rollouts/rol_aaaaaaaaaaaa/resume", []),
    ("GET", "/rollouts/rol_aaaaaaaaaaaa/members", ["start", "limit", "outcome"]),
    ("POST", "/rollouts/rol_aaaaaaaaaaaa/pause", []),
    ("DELETE", "/rollouts/rol_aaaaaaaaaaaa", []),
    ("GET", "/jobs", []),
    ("POST", "/jobs", []),
    ("GET", "/jobs/job_aaaaaaaaaaaa", []),
    ("GET", "/jobs/job_aaaaaaaaaaaa/devices", ["start", "limit", "outcome"]),
    ("POST", "/jobs/job_aaaaaaaaaaaa/cancel", []),
    ("DELETE", "/jobs/job_aaaaaaaaaaaa", []),
    ("GET", "/firmware", ["devices"]),
    ("GET", "/firmware/fw_a", []),
    ("POST", "/firmware/fw_a", []),
    ("PUT", "/firmware/fw_a", []),
    ("DELETE", "/firmware/fw_a", []),
    ("GET", "/firmware/fw_a/devices", ["limit"]),
    ("GET", "/firmware/fw_a/image", []),
    ("GET", "/keys", []),
    ("POST", "/keys", []),
    ("DELETE", "/keys/key_aaaaaaaaaaaa", []),
    ("POST", "/logs", []),
    ("GET", "/logs", ["text", "id", "name", "from", "to", "before", "limit"]),
    ("GET", "/me", []),
    ("PUT", "/me/password", []),
    ("GET", "/users", []),
    ("POST", "/users", []),
    ("PUT", "/users/bob", []),
    ("DELETE", "/users/bob", []),
    ("POST", "/login", []),
    ("GET", "/session", []),
    ("POST", "/logout", []),
    ("GET", "/backup", []),
    ("GET", "/limits", []),
    ("GET", "/metrics", ["place", "filter"]),
    ("GET", "/users/limits", []),
    ("GET", "/users/bob/limits", []),
    ("POST", "/users/bob/devices", []),
]

IN_FRONT = [("POST", "/devices/d1/ota"), ("POST", "/rollouts")]
"""What is served in front of the app."""

HEALTH = ("/healthz", "/livez", "/readyz")


@pytest.fixture
async def d1(alice: Any) -> Any:
    """Alice's client; her device d1 has a shadow."""
    await alice.register("d1")
    await alice.http.post(SHADOW, json={"state": {"desired": {"n": 1}}})
    return alice.http


async def test_an_unknown_parameter(d1: Any) -> None:
    """400 on every path, and the known ones are named; nothing is done."""
    for method, path, known in PARAMETERS:
        answer = await d1.request(method, f"{path}?nome=wifi")
        assert (method, path, answer.status_code) == (method, path, 400)
        if method != "HEAD":
            words = f"unknown parameter 'nome'; known are {', '.join([*known, 'access_token'])}"
            assert (method, path, answer.json()["error"]["message"]) == (method, path, words)
    for query in ("nmae", "timeot=5", "filter[]=online", "%66oo=1", "=1"):
        assert (await d1.get(f"{SHADOW}?{query}")).status_code == 400
    assert (await d1.get("/devices/d1")).json()["shadow"]["version"] == 1


async def test_every_endpoint_is_in_the_table_above(alice: Any) -> None:
    """A new one does not go without."""
    routes = create_quart_app(alice.server.service).url_map.bind("x")
    seen = set()
    for method, path, _ in PARAMETERS:
        if (method, path) not in IN_FRONT:
            rule, _ = routes.match(f"/api/v2{path}", method=method, return_rule=True)
            seen |= {(rule.rule, method) for method in rule.methods}
    there = {(rule.rule, method) for rule in routes.map.iter_rules() for method in rule.methods - {"OPTIONS"}}
    assert {rule for rule, _ in there - seen} == {"/", *HEALTH, "/openapi.json", "/api/v2/rpc", "/api/v2/notify"}


async def test_known_parameters_go_through(d1: Any, alice: Any) -> None:
    """Each where it belongs, `access_token` everywhere, `filter` as often as one likes; any other only once."""
    for path, status in (
        (f"{SHADOW}?access_token={alice.key}", 200),
        ("/devices/d1/rpc/Echo?timeout=1", 503),
        (f"/devices/d1/rpc/Echo?timeout=1&access_token={alice.key}", 503),
        ("/devices?filter=online&filter=offline", 200),
        ("/devices/d1/rpc/Echo?timeout=1&timeout=2", 400),
        (f"{SHADOW}?timeout=1", 400),
        (f"{SHADOW}?", 200),
        (f"{SHADOW}?&&", 200),
        ("/devices/d1?access_token=%ff", 400),
        ("/nowhere?x=1", 404),
    ):
        assert (path, (await d1.get(path)).status_code) == (path, status)


async def test_the_credentials_are_checked_first(anyone: Any, d1: Any) -> None:
    """A stranger learns nothing of paths and their parameters."""
    for path in (f"{SHADOW}?x=1", "/devices/d1/ota?x=1"):
        assert (await anyone.post(path, headers={"X-HTTP-Method-Override": "PUT"})).status_code == 401


async def test_parameters_of_sockets(server: Any, open_raw: Any, alice: Any) -> None:
    """A device's socket knows none, that of notifications `start`; a stranger gets 401 first."""
    token = await alice.register("d1")
    for path, secret, status in (
        ("/api/v2/rpc?x=1", token, 400),
        ("/api/v2/rpc?x=1", "mdd_wrong", 401),
        ("/api/v2/notify?x=1", alice.key, 400),
        ("/api/v2/notify?start=0&start=1", alice.key, 400),
        ("/api/v2/notify?start=0", alice.key, 101),
        ("/api/v2/rpc", token, 101),
    ):
        async with open_raw(server) as raw:
            assert (path, (await raw.handshake(secret, path=path)).status) == (path, status)
