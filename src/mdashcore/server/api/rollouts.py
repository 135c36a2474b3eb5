"""``/rollouts``: their progress, and the commands of users. `mdashcore.server.uploads.rollout_upload` creates them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from quart import Blueprint, Response, request

from mdashcore._errors import InvalidInput, NotFound
from mdashcore.hub.rollouts.service import Rollouts, describe
from mdashcore.rollout import Member, Outcome, Rollout
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import answer, principal, service
from mdashcore.trio.turns import Pace

routes: Blueprint = Blueprint("rollouts", __name__, url_prefix="/rollouts")

MAX_PAGE = 1000  # members in one answer: 200 KB

_Action = Callable[[Rollouts, str, str], Awaitable[Rollout]]

_ACTIONS: Mapping[str, _Action] = {
    "approve": Rollouts.approve,
    "pause": Rollouts.pause,
    "resume": Rollouts.resume,
    "retry": Rollouts.retry,
    "abort": Rollouts.abort,
}


@routes.get("")
async def list_rollouts() -> Response:
    """List the account's rollouts, the newest first."""
    damaged: list[str] = []
    found = await service().hub.rollouts.of(principal().account, damaged)
    return await send_values([*map(describe, found), *({"id": id, "damaged": ["rollout"]} for id in sorted(damaged))])


@routes.get("/<id>")
async def get_rollout(id: str) -> Response:
    """Answer with one rollout."""
    return answer(describe(await service().hub.rollouts.get(principal().account, id)))


@routes.get("/<id>/members")
async def list_members(id: str) -> Response:
    """List a rollout's devices in order, in pages: ``?start=0&limit=100&outcome=FAILED``."""
    start, limit = _number("start", 0, 0, 2**31), _number("limit", 100, 1, MAX_PAGE)
    outcome = request.args.get("outcome")
    if outcome is not None and outcome not in set(Outcome):
        raise InvalidInput(f"outcome is one of {', '.join(Outcome)}")
    account, rollouts = principal().account, service().hub.rollouts
    present = await rollouts.get(account, id)
    with service().lists.one(account):
        return answer(await _members(present, account, start, limit, outcome))


async def _members(present: Rollout, account: str, start: int, limit: int, outcome: str | None) -> dict[str, Any]:
    """Return a page of a rollout's members in the rollout's order. They are stored in another one."""
    rollouts, pace = service().hub.rollouts, Pace(account)
    members: dict[str, Member] = {}
    damaged: list[str] = []
    async for member in rollouts.begun_members(account, present.id, damaged):
        members[member.device] = member
        await pace()
    found: list[dict[str, Any]] = []
    phase = 0
    devices = await rollouts.devices(account, present.id)
    for place in range(start, len(devices)):
        while place >= present.ends[phase]:
            phase += 1
        described = _describe(present, phase, devices[place], members.get(devices[place]))
        if devices[place] in damaged:
            described["damaged"] = ["member"]
        if outcome in (None, described["outcome"]):
            if len(found) == limit:
                return {"members": found, "next": place}
            found.append(described)
        await pace()
    return {"members": found, "next": None}


@routes.post("/<id>/<action>")
async def change_rollout(id: str, action: str) -> Response:
    """Approve, pause, resume, retry or abort a rollout. Answers with the rollout."""
    if action not in _ACTIONS:
        raise NotFound(f"nothing is served at {request.path}")
    return answer(describe(await _ACTIONS[action](service().hub.rollouts, principal().account, id)))


@routes.delete("/<id>")
async def remove_rollout(id: str) -> Response:
    """Remove a rollout that has ended."""
    await service().hub.rollouts.remove(principal().account, id)
    return answer(True)


def _describe(present: Rollout, phase: int, device: str, member: Member | None) -> dict[str, Any]:
    member = member or Member(device=device)
    return {
        "device": device,
        "phase": phase,
        "outcome": present.outcome(member),
        "attempt": member.attempt,
        "reason": member.reason,
        "changed": member.changed or None,
    }


def _number(name: str, default: int, low: int, high: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise InvalidInput(f"{name} is an integer from {low} to {high}")
    return int(text)
