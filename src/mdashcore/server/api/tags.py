"""``/tags``: tags of many devices."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import Final

from quart import Response

from mdashcore import selection, tags
from mdashcore._errors import Damaged, InvalidInput, NotFound
from mdashcore.documents import TagsChange, TagsChanged
from mdashcore.identity import DeviceKey
from mdashcore.server import operations
from mdashcore.server.api._request import answer, body_object, members, principal, service
from mdashcore.server.endpoints import API, Routes
from mdashcore.server.service import Service
from mdashcore.trio.shielding import shielded
from mdashcore.trio.together import together
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/tags")

MAX_TAG_WRITERS: Final = 16  # devices that are changed at the same time: a store commits so many writes as one group

MAX_REFUSED: Final = 100  # ids in the answer: more than a person reads


@routes.post(body=TagsChange, max_body=operations.MAX_BODY, answers={200: TagsChanged}, errors=(404,))
async def change_tags() -> Response:
    """Change the tags of many devices. The same request again continues one that was interrupted."""
    value = await body_object()
    members(value, TagsChange)
    if "tags" not in value:
        raise InvalidInput("what is to change is missing: tags")
    preview = value.get("preview", False)
    if not isinstance(preview, bool):
        raise InvalidInput("preview is true or false")
    tags.check_patch(value["tags"])
    account, hub = principal().account, service().hub
    if "filter" in value:
        value["filter"] = await hub.saved_filters.resolve(account, value["filter"])
    wanted = selection.parse_members(value, "a change of tags")
    with service().lists.one(account):
        return answer(await _change(service(), account, wanted, value["tags"], preview=preview))


async def _change(
    service: Service, account: str, wanted: selection.Selection, patch: object, *, preview: bool
) -> TagsChanged:
    selected, refused, to_change = 0, list[str](), list[str]()
    listed = service.hub.device_list.select(account, wanted, Pace(account), with_shadows=wanted.reads_shadows)
    async with aclosing(listed) as devices:
        async for each in devices:
            if "device" in each.damaged:
                continue
            selected += 1
            try:
                if tags.merge(each.device.tags, patch) != each.device.tags:
                    to_change.append(each.device.id)
            except InvalidInput:
                refused.append(each.device.id)
    changed = len(to_change) if preview else await _write(service, account, to_change, patch)
    return {"devices": selected, "changed": changed, "refused": refused[:MAX_REFUSED]}


async def _write(service: Service, account: str, ids: list[str], patch: object) -> int:
    """Change the tags of devices, several at the same time. Returns the number of those that have changed."""
    changed = 0

    async def write(key: DeviceKey) -> None:
        nonlocal changed
        try:
            is_changed = await shielded(partial(service.hub.change_tags, key, patch))
            changed += is_changed  # read after the await, during which the other writers count
        except (NotFound, Damaged, InvalidInput):
            return  # removed, damaged or given other tags meanwhile

    await together(MAX_TAG_WRITERS, (partial(write, DeviceKey(account, id)) for id in ids))
    return changed
