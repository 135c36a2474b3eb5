"""Whether an image is meant for a device, by what the device reports."""

from __future__ import annotations

from enum import StrEnum

from mdashcore.ota._builds import Build
from mdashcore.ota._images import UpdateImage
from mdashcore.ota._reports import same
from mdashcore.ota._values import Options


class Fit(StrEnum):
    """How an image fits a device. The names are those of the REST API."""

    FITS = "fits"  # as far as the device says what it is
    INSTALLED = "installed"  # the device runs this build
    OTHER_PLATFORM = "other_platform"
    OTHER_APP = "other_app"  # the device runs another application


def fit(image: UpdateImage, build: Build, options: Options) -> Fit:
    """Return how an image fits a device that has reported `build`."""
    if options.force:
        return Fit.FITS
    if build.is_committed is not False and same(build.id, image.build_id) is True:
        return Fit.INSTALLED
    if build.platform is not None and image.platform is not None and build.platform.lower() != image.platform.lower():
        return Fit.OTHER_PLATFORM
    if not options.other_app and build.app is not None and image.app is not None and build.app != image.app:
        return Fit.OTHER_APP
    return Fit.FITS
