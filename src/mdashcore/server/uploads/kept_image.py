"""Images of the firmware library: one that arrives in a request is kept, and one that is kept is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from mdashcore import ota
from mdashcore.firmware_entry import FirmwareEntry, check_notes
from mdashcore.hub.updates.service import CheckImage
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import check_label
from mdashcore.server.asgi import Scope
from mdashcore.server.auth import Principal, caller_name
from mdashcore.server.service import Service
from mdashcore.server.uploads.image_body import ImageBody
from mdashcore.trio.shielding import shielded
from mdashcore.trio.turns import Pace

__all__ = ["CheckFit", "SentImage", "find_kept", "keep_image"]

CheckFit = Callable[[ota.UpdateImage], Awaitable[None]]
"""Raises if the update or the rollout cannot begin with an image."""


@attrs.frozen
class SentImage:
    """The image of an update or a rollout that begins."""

    facts: ota.UpdateImage
    blob: str | None = None
    """The id of its blob in the library; `None` if the update or the rollout owns it."""
    check: CheckImage | None = None
    """Awaited after the update or the rollout was stored."""

    @classmethod
    def of(cls, service: Service, account: str, entry: FirmwareEntry) -> SentImage:
        """Return an image of the library."""
        return cls(entry.image, entry.blob, partial(service.hub.firmware.check_kept, account, entry))


async def find_kept(service: Service, account: str, id: str) -> SentImage:
    """Return an image of the library by its id. Raises `NotFound`, or `Conflict` while it is being removed."""
    return SentImage.of(service, account, await service.hub.firmware.usable(account, id))


async def _accept(image: ota.UpdateImage) -> None:
    """Accept any image."""


async def keep_image(
    service: Service,
    scope: Scope,
    principal: Principal,
    body: ImageBody,
    *,
    name: str = "",
    notes: str = "",
    check_fit: CheckFit = _accept,
) -> tuple[FirmwareEntry, bool]:
    """Stream the image of a request into the library. Returns its entry, and whether that is new.

    Args:
        check_fit: awaited before the image is kept.

    Raises:
        MdashError: the image, a text, `check_fit` or the account's limits do not allow it. Nothing is left of it.
    """
    check_label(name), check_notes(notes)  # before the image is read
    library, account = service.hub.firmware, principal.account
    blob = library.new_blob()
    key = blob_key(account, blob)
    accounts = service.hub.accounts
    owner = await accounts.owner(account)
    try:
        size = await body.store(library.blobs, key)
        image = await body.read(library.blobs, key, size)
        await check_fit(facts := ota.UpdateImage.of(image))
        await library.finish_removal(account, facts.sha256, Pace(account))  # not below: it reads every update
        # the credentials may have been revoked while the image came
        await service.authenticator.of_request(scope)
        uploaded_by = await caller_name(accounts, principal)
    except BaseException:
        with trio.CancelScope(shield=True):
            await library.blobs.delete(key)
        raise
    return await shielded(
        partial(
            library.add,
            account,
            blob,
            image,
            uploaded_by=uploaded_by,
            key=principal.key,
            name=name,
            notes=notes,
            check_account=partial(accounts.check_owner, account, owner),
            pause=Pace(account),
        )
    )
