"""The image of an update, as it is stored with it."""

from __future__ import annotations

from typing import Protocol

import attrs

from mdashcore._checked import whole


class ImageFacts(Protocol):
    """The attributes that `UpdateImage.of` reads. `mdashcore.firmware.Image` has them."""

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """The digest of the file, in hexadecimal."""

    @property
    def build_id(self) -> str | None:
        """The build that the manifest names."""

    @property
    def version(self) -> str | None:
        """The version that the manifest names."""

    @property
    def platform(self) -> str | None:
        """The platform that the manifest names."""

    @property
    def app(self) -> str | None:
        """The application that the manifest names."""

    @property
    def bare(self) -> bool:
        """Whether it has no manifest."""


@attrs.frozen
class UpdateImage:
    """The description of the image that is stored with an update. The bytes are in a blob."""

    name: str
    size: int = attrs.field(validator=whole())
    """Bytes."""
    sha256: str
    build_id: str | None = None
    version: str | None = None
    platform: str | None = None
    app: str | None = None
    """The application's name in the manifest."""
    bare: bool = False
    """Whether it is not a firmware zip: it has no manifest, and no digests that the device could check."""

    @classmethod
    def of(cls, image: ImageFacts) -> UpdateImage:
        """Return the description of an image that was read."""
        return cls(**{field.name: getattr(image, field.name) for field in attrs.fields(cls)})
