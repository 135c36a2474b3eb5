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
    PreviewRequest,
    ResumeRequest,
    RolloutDocument,
    RolloutPreviewDocument,
    RolloutPreviewQuery,
)
from mdashcore.hub.rollouts.describe import describe, describe_preview
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.rollouts.waiting import waiting_of
from mdashcore.rollout import Member, Outcome, Rollout, Waiting, parse_image, parse_request
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import answer, body_object, members, principal, service, whole_number
from mdashcore.server.endpoints import API, Routes
from mdashcore.server.query import flag
from mdashcore.trio.turns import Pace

_Action = Callable[[Rollouts, str, str], Awaitable[Rollout]]

_ACTIONS: Mapping[str, _Action] = {
    "approve": Rollouts.approve,
    "pause": Rollouts.pause,
    "retry": Rollouts.retry,
    "abort": Rollouts.abort,
}


RolloutVerb = Literal["approve", "pause", "retry", "abort"]

routes: Routes = Routes(f"{API}/rollouts", id=str, action=RolloutVerb)


@routes.get(answers={200: list[RolloutDocument | DamagedRollout]})
async def list_rollouts() -> Response:
    """List the account's rollouts, the newest first."""
    damaged: list[str] = []
    found = await service().hub.rollouts.of(principal().account, damaged)
    return await send_values([*map(describe, found), *({"id": id, "damaged": ["rollout"]} for id in sorted(damaged))])


@routes.post(
    "/preview",
    body=PreviewRequest,
    max_body=None,
    query=RolloutPreviewQuery,
    answers={200: RolloutPreviewDocument},
    errors=(404, 409, 413),
)
async def preview_rollout() -> Response:
    """Count which devices a rollout would reach, and which of them its image fits. Changes nothing."""
    value, account, hub = await body_object(), principal().account, service().hub
    bare = flag("bare", request.args.get("bare", "0"))
    if "filter" in value:
        value["filter"] = await hub.saved_filters.resolve(account, value["filter"])
    kept, described = value.pop("firmware", None), value.pop("image", None)
    if kept is not None and described is not None:
        raise InvalidInput("a preview has an image or firmware, not both")
    wanted = parse_request(value)
    image = None if described is None else parse_image(described)
    if kept is not None:
        if not isinstance(kept, str):
            raise InvalidInput("firmware is the id of an image of the library")
        image = (await hub.firmware.usable(account, kept)).image
    with service().lists.one(account):
        found = await hub.rollouts.preview(account, wanted, image, Pace(account))
    return answer(describe_preview(found, wanted.plan, bare=bare))


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
    begun: dict[str, Member] = {}
    damaged: list[str] = []
    async for member in rollouts.begun_members(account, present.id, damaged):
        begun[member.device] = member
        await pace()
    found: list[MemberDocument] = []
    phase = 0
    devices = await rollouts.devices(account, present.id)
    for place in range(start, len(devices)):
        while place >= present.ends[phase]:
            phase += 1
        member = begun.get(devices[place]) or Member(device=devices[place])
        if outcome in (None, present.outcome(member)):
            if len(found) == limit:
                return {"members": found, "next": place}
            waiting = await waiting_of(rollouts, account, present, phase, member)
            found.append(_describe(present, phase, member, waiting))
            if member.device in damaged:
                found[-1]["damaged"] = ["member"]
        await pace()
    return {"members": found, "next": None}


@routes.post("/<id>/resume", body=ResumeRequest, max_body=None, answers={200: RolloutDocument}, errors=(409,))
async def resume_rollout(id: str) -> Response:
    """Continue a paused rollout. Answers with the rollout."""
    value = await body_object()
    members(value, ResumeRequest)
    forgive = value.get("forgive")
    if forgive is not None and (type(forgive) is not int or forgive < 0):
        raise InvalidInput("forgive is the number of failures that are forgiven")
    return answer(describe(await service().hub.rollouts.resume(principal().account, id, forgive=forgive)))


@routes.post("/<id>/<action>", answers={200: RolloutDocument}, errors=(409,))
async def change_rollout(id: str, action: str) -> Response:
    """Approve, pause, retry or abort a rollout. Answers with the rollout."""
    if action not in _ACTIONS:
        raise NotFound(f"nothing is served at {request.path}")
    return answer(describe(await _ACTIONS[action](service().hub.rollouts, principal().account, id)))


@routes.delete("/<id>", answers={200: Literal[True]}, errors=(409,))
async def remove_rollout(id: str) -> Response:
    """Remove a rollout that has ended."""
    await service().hub.rollouts.remove(principal().account, id)
    return answer(True)


def _describe(present: Rollout, phase: int, member: Member, waiting: Waiting | None) -> MemberDocument:
    return {
        "device": member.device,
        "phase": phase,
        "outcome": present.outcome(member),
        "attempt": member.attempt,
        "reason": member.reason,
        "changed": member.changed or None,
        "waiting": None if waiting is None else {"what": waiting.what, "until": waiting.until},
    }
