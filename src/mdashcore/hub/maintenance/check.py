"""Check of a store: it reads all data of a service, and compares records that belong together."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from mdashcore import _json
from mdashcore._errors import MdashError, StorageError
from mdashcore.firmware_entry import EntryState
from mdashcore.hub.feed import log_names
from mdashcore.hub.maintenance.backup import EXPORT_PAGE, UNFINISHED_IMPORT, StoreCounts, is_unfinished, read_piece
from mdashcore.hub.records.schema import COLLECTIONS
from mdashcore.hub.records.store import Records, split
from mdashcore.hub.updates.store import blob_key
from mdashcore.ota import UpdateImage
from mdashcore.storage import Backend

__all__ = ["check_store"]


class _Notification(msgspec.Struct):
    """The required members of a log's entry. The data may be JSON that is not a valid value, such as ``1e999``."""

    name: str
    id: str
    data: msgspec.Raw = msgspec.Raw(b"")


_decode_notification = msgspec.json.Decoder(_Notification).decode


async def check_store(backend: Backend) -> tuple[StoreCounts, list[str]]:
    """Read all data, and compare records that belong together. Returns the numbers of records, and the problems."""
    counts, problems = StoreCounts(), list(await backend.check()) if backend.check is not None else []
    if await is_unfinished(backend):
        problems.append(UNFINISHED_IMPORT)
    found: dict[str, dict[str, Any]] = {}
    for collection, described in COLLECTIONS.items():
        records: Records[Any] = Records(backend.documents, described)
        values = found[collection] = {}
        try:
            async for document in backend.documents.scan(collection):
                counts.documents += described.exported
                if document.damage is not None:
                    problems.append(document.damage)
                    continue
                try:
                    record = await records.get(document.key)
                except MdashError as exc:
                    problems.append(str(exc))
                else:
                    values[document.key] = None if record is None else record.value
        except StorageError as exc:  # the backend itself cannot continue to read
            problems.append(str(exc))
    problems += _loose_ends(found)
    for log in (name for account in found["accounts"] for name in log_names(account)):
        start = 0
        try:
            while entries := await backend.logs.read(log, start, EXPORT_PAGE):
                for entry in entries:
                    if start and entry.offset != start:
                        problems.append(f"{log}: offset {entry.offset} follows {start - 1}")
                    start = entry.offset + 1
                    counts.entries += 1
                    if entry.damage is not None:
                        if problems[-1:] != [f"{log}: {entry.damage}"]:  # one damage may affect several entries
                            problems.append(f"{log}: {entry.damage}")
                    elif what := _wrong_with(entry.body):
                        problems.append(f"{log}: offset {entry.offset} is no notification: {what}")
        except StorageError as exc:
            problems.append(f"{log}: {exc}")
    async for _ in backend.blobs.scan():
        counts.blobs += 1
    images: dict[str, tuple[int, str] | None] = {}
    for key, update in found["updates"].items():
        if update is not None and not update.ended:
            blob = blob_key(split(key)[0], update.blob_id)
            problems += await _image_problems(backend, images, f"updates/{key}", blob, update.image)
    for key, rollout in found["rollouts"].items():
        if rollout is None or rollout.ended:
            continue
        blob = blob_key(split(key)[0], rollout.blob_id)
        problems += await _image_problems(backend, images, f"rollouts/{key}", blob, rollout.image)
        rosters = [each for name, each in found["rollout_rosters"].items() if name.startswith(f"{key}/")]
        if sum(len(each.devices) for each in rosters if each is not None) != rollout.members:
            problems.append(f"rollouts/{key} has not ended, and does not know its devices")
    for key, entry in found["firmware"].items():
        if entry is not None and entry.state is EntryState.KEPT:
            blob = blob_key(split(key)[0], entry.blob)
            problems += await _image_problems(backend, images, f"firmware/{key}", blob, entry.image, "is kept")
    return counts, problems


async def _image_problems(
    backend: Backend,
    images: dict[str, tuple[int, str] | None],
    name: str,
    blob: str,
    image: UpdateImage,
    why: str = "has not ended",
) -> list[str]:
    """Return the problems of an image that the library keeps, or that an unfinished update or rollout needs.

    Args:
        why: the reason why the image is needed, for people.
        images: size and SHA-256 of the images read before: a rollout's is read once for all its updates.
    """
    try:
        if blob not in images:
            images[blob] = await _fingerprint(backend, blob)
    except StorageError as exc:
        return [f"{name} {why}, and its image cannot be read: {exc}"]
    found = images[blob]
    if found is None:
        return [f"{name} {why}, and its image is gone"]
    if found[0] != image.size:
        return [f"{name} {why}, and its image is damaged: {found[0]} bytes of {image.size}"]
    if found[1] != image.sha256:
        return [f"{name} {why}, and its image is damaged: not the bytes that were uploaded (SHA-256)"]
    return []


async def _fingerprint(backend: Backend, blob: str) -> tuple[int, str] | None:
    """Return size in bytes and SHA-256 of a blob, or `None` if it does not exist."""
    if await backend.blobs.size(blob) is None:
        return None
    digest, offset = hashlib.sha256(), 0
    while piece := await read_piece(backend, blob, offset):
        digest.update(piece)
        offset += len(piece)
    return offset, digest.hexdigest()


def _wrong_with(body: bytes) -> str | None:
    try:
        body.decode()  # msgspec skips the data without a check of their UTF-8
        _decode_notification(body)
    except _json.DECODE_ERRORS as exc:
        return _json.reason(exc)
    return None


def _lost_admins(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a problem if no admin in the roster has an account. Interrupted changes leave entries without one."""
    rosters = [roster for roster in found["admins"].values() if roster is not None and roster.admins]
    accounts = [account for account in found["accounts"].values() if account is not None and not account.removing]
    if not rosters or any(roster.has(account) for roster in rosters for account in accounts):
        return []
    return ["admins: no account is an admin; make one with mdash serve --register-admin NAME:PASSWORD"]


def _loose_ends(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return the problems of records that refer to no record, or to which no record refers."""
    problems = _lost_admins(found)
    for things, owners, secret in (("devices", "token_owners", "token_hash"), ("keys", "key_owners", "hash")):
        problems += [
            f"{things}/{key} cannot be found by its secret"
            for key, value in found[things].items()
            if value is not None and getattr(value, secret) not in found[owners]
        ]
        problems += [
            f"{things}/{key} belongs to no account" for key in found[things] if split(key)[0] not in found["accounts"]
        ]
    return problems
