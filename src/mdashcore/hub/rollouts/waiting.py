"""What each device of a rollout waits for, read from the store when a user asks."""

from __future__ import annotations

from mdashcore import ota, rollout
from mdashcore._errors import Damaged
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.identity import DeviceKey
from mdashcore.rollout import Member, Outcome, Rollout, RolloutState, Waiting

__all__ = ["waiting_of"]


async def waiting_of(rollouts: Rollouts, account: str, present: Rollout, phase: int, member: Member) -> Waiting | None:
    """Return what a device of a rollout waits for; `None` if it waits for nothing any more.

    Args:
        phase: the index of its phase.
        member: the device; the default one before its turn.
    """
    outcome = present.outcome(member)
    if present.ended or outcome not in (Outcome.PENDING, Outcome.UPDATING):
        return None
    key, clock = DeviceKey(account, member.device), rollouts.clock
    if outcome is Outcome.UPDATING:
        update = await _newest_update(rollouts, key)
        if update is None or update.id != rollout.update_id(present.id, member.device, member.attempt):
            return rollout.waiting_update(None, online=await _is_online(rollouts, key), commit_by=None)
        commit_by = ota.commit_deadline(update)
        return rollout.waiting_update(update.state, online=await _is_online(rollouts, key), commit_by=commit_by)
    online, other = True, None
    if present.state is RolloutState.RUNNING and phase <= present.phase:
        online = await _is_online(rollouts, key)
        other = await _newest_update(rollouts, key) if online else None
    return rollout.waiting_turn(
        present,
        phase,
        online=online,
        updating=other is not None and not other.ended,
        now=rollouts.age(account, present).now(present.created),
        wall=clock.now(),
    )


async def _is_online(rollouts: Rollouts, key: DeviceKey) -> bool:
    try:
        return (await rollouts.presence.get(key)).online
    except Damaged:
        return False


async def _newest_update(rollouts: Rollouts, key: DeviceKey) -> ota.Update | None:
    try:
        return await rollouts.updates.get(key)
    except Damaged:
        return None
