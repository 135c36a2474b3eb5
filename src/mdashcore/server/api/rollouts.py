"""``/rollouts``: their progress, and the commands of users. `mdashcore.server.uploads.rollout_upload` creates them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from quart import Response, request

from mdashcore._errors import InvalidInput, NotFound
from mdashcore.documents import (
    MAX_MEMBERS_PAGE,
    DamagedRollout,
    MemberDocument,
    MembersPage,
    MembersQuery,
    RolloutDocument,
)
from mdashcore.hub.rollouts.describe import describe
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.rollout import Member, Outcome, Rollout
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import answer, principal, service, whole_number
from mdashcore.server.endpoints import API, Routes
from mdashcore.trio.turns import Pace

_Action = Callable[[Rollouts, str, str], Awaitable[Rollout]]

_ACTIONS: Mapping[str, _Action] = {
    "approve": Rollouts.approve,
    "pause": Rollouts.pause,
    "resume": Rollouts.resume,
    "retry": Rollouts.retry,
    "abort": Rollouts.abort,
}


RolloutVerb = Literal["approve", "pause", "resume", "retry", "abort"]

routes: Routes = Routes(f"{API}/rollouts", id=str, action=RolloutVerb)


@routes.get(answers={200: list[RolloutDocument | DamagedRollout]})
async def list_rollouts() -> Response:
    """List the account's rollouts, the newest first."""
    damaged: list[str] = []
    found = await service().hub.rollouts.of(principal().account, damaged)
    return await send_values([*map(describe, found), *({"id": id, "damaged": ["rollout"]} for id in sorted(damaged))])


@routes.get("/<id>", answers={200: RolloutDocument})
async def get_rollout(id: str) -> Response:
    """Answer with one rollout."""
    return answer(describe(await service().hub.rollouts.get(principal().account, id)))


@routes.get("/<id>/members", query=MembersQuery, answers={200: MembersPage})
async def list_members(id: str) -> Response:
    """List a rollout's devices in order, in pages."""
    start, limit = whole_number("start", 0, 2**31) or 0, whole_number("limit", 1, MAX_MEMBERS_PAGE) or 100
    outcome = request.args.get("outcome")
    if outcome is not None and outcome not in set(Outcome):
        raise InvalidInput(f"outcome is one of {', '.join(Outcome)}")
    account, rollouts = principal().account, service().hub.rollouts
    present = await rollouts.get(account, id)
    with service().lists.one(account):
        return answer(await _members(present, account, start, limit, outcome))


async def _members(present: Rollout, account: str, start: int, limit: int, outcome: str | None) -> MembersPage:
    """Return a page of a rollout's members in the rollout's order. They are stored in another one."""
    rollouts, pace = service().hub.rollouts, Pace(account)
    members: dict[str, Member] = {}
    damaged: list[str] = []
    async for member in rollouts.begun_members(account, present.id, damaged):
        members[member.device] = member
        await pace()
    found: list[MemberDocument] = []
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


@routes.post("/<id>/<action>", answers={200: RolloutDocument}, errors=(409,))
async def change_rollout(id: str, action: str) -> Response:
    """Approve, pause, resume, retry or abort a rollout. Answers with the rollout."""
    if action not in _ACTIONS:
        raise NotFound(f"nothing is served at {request.path}")
    return answer(describe(await _ACTIONS[action](service().hub.rollouts, principal().account, id)))


@routes.delete("/<id>", answers={200: Literal[True]}, errors=(409,))
async def remove_rollout(id: str) -> Response:
    """Remove a rollout that has ended."""
    await service().hub.rollouts.remove(principal().account, id)
    return answer(True)


def _describe(present: Rollout, phase: int, device: str, member: Member | None) -> MemberDocument:
    member = member or Member(device=device)
    return {
        "device": device,
        "phase": phase,
        "outcome": present.outcome(member),
        "attempt": member.attempt,
        "reason": member.reason,
        "changed": member.changed or None,
    }
