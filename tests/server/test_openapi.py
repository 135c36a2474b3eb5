"""The description of the API: valid, of every endpoint, and the same as what serves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from mdashcore import documents, rollout
from mdashcore._errors import STATUS
from mdashcore.rollout._request import _MEMBERS
from mdashcore.server.api.sockets import NOTIFY_PARAMETERS
from mdashcore.server.app import create_app, routes
from mdashcore.server.endpoints import Access, members_of
from mdashcore.server.openapi import ALL_ENDPOINTS, describe, errors_of
from mdashcore.server.static import StaticFiles
from mdashcore.server.uploads import update_query


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The description, as it is sent."""
    return json.loads(json.dumps(describe("/mdash")))


def test_the_description_is_valid_openapi(document: dict[str, Any]) -> None:
    """By the schema of OpenAPI 3.1, with every reference resolved."""
    OpenAPIV31SpecValidator(document).validate()
    assert document["servers"] == [{"url": "/mdash"}]


def test_it_has_every_endpoint_once(document: dict[str, Any]) -> None:
    """With a name of its own."""
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert len(operations) == len(ALL_ENDPOINTS)
    assert len({each["operationId"] for each in operations}) == len(operations)


async def test_what_is_served_is_what_the_table_has(server: Any) -> None:
    """The routes of the app and of what stands in front of it are those of the table, and the dashboard's files."""
    served = routes(create_app(server.service))
    assert set(served) == {(each.method, each.path) for each in ALL_ENDPOINTS} | set(StaticFiles.routes)


async def test_anyone_may_read_it(server: Any, anyone: Any) -> None:
    """Without a login."""
    answer = await anyone.get(f"{server.url}/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == json.loads(json.dumps(describe()))


def test_every_error_s_status_is_one_of_the_code_s() -> None:
    """Of the one table of errors, or one that the server gives before a handler runs, or for a part of an image."""
    known = {*STATUS.values(), 408, 416, 426}
    assert all(set(errors_of(each)) <= known for each in ALL_ENDPOINTS)


def test_every_member_has_words(document: dict[str, Any]) -> None:
    """What a client may send is described: every member of a body, and every parameter."""
    for endpoint in ALL_ENDPOINTS:
        for name in members_of(endpoint.query):
            operation = document["paths"][endpoint.path.replace("<", "{").replace(">", "}")][endpoint.method.lower()]
            parameter = next(each for each in operation["parameters"] if each["name"] == name)
            assert parameter["description"], (endpoint.name, name)
        schema = document["components"]["schemas"].get(getattr(endpoint.body, "__name__", ""), {"properties": {}})
        for name, member in schema["properties"].items():
            assert endpoint.open_body or member.get("description"), (endpoint.name, name)


def test_the_types_of_bodies_have_the_members_that_are_read() -> None:
    """Where something else than the type's members decides what is known."""
    assert set(members_of(documents.NewRollout)) == set(_MEMBERS)
    assert set(members_of(documents.PlanDocument)) == set(rollout.describe_plan(rollout.Plan()))
    assert set(members_of(documents.UpdateQuery)) == set(update_query.PARAMETERS)
    assert members_of(documents.NotifyQuery) == NOTIFY_PARAMETERS


@pytest.mark.parametrize("endpoint", [each for each in ALL_ENDPOINTS if each.access in (Access.ADMIN, Access.USER)])
async def test_a_key_may_not_call_what_is_for_passwords(alice: Any, endpoint: Any) -> None:
    """An API key has not the rights of its user's password."""
    path = endpoint.path.removeprefix("/api/v2").replace("<name>", "alice")
    answer = await alice.http.request(endpoint.method, path)
    assert answer.status_code == 403
