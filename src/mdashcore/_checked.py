"""Checks of limits and settings: a wrong value raises `InvalidSetting` where it is set, before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, isfinite
from typing import Any, Final

import attrs

from mdashcore._errors import InvalidInput, InvalidSetting

__all__ = ["CALLABLE", "Check", "check_members", "check_time", "checked", "instance", "mapping", "number", "whole"]

SHOWN_CHARACTERS: Final = 40  # characters of a wrong value that an error shows


@attrs.frozen
class Check:
    """A condition that a value has to meet. It can also be the validator of a field in an attrs class."""

    wanted: str
    """The condition in words, for the text of the error."""
    fits: Callable[[Any], bool]
    secret: bool = False
    """Whether an error must not show the value."""

    def check(self, name: str, value: object) -> None:
        """Raise `InvalidSetting` if the value does not fit. The text calls the value `name`."""
        if not self.fits(value):
            if self.secret:
                raise InvalidSetting(f"'{name}' has to be {self.wanted}")
            words = repr(value)
            shown = words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]}…"
            raise InvalidSetting(f"'{name}' has to be {self.wanted}, and is {shown}")

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        self.check(attribute.name, value)

    def or_none(self) -> Check:
        """Return a check that also accepts `None`."""
        return Check(f"{self.wanted}, or None", lambda value: value is None or self.fits(value), self.secret)


def whole(low: int = 1, high: int | None = None) -> Check:
    """Return a check for an int from `low` to `high`. A bool or a float such as 5.0 does not fit."""
    to = "on" if high is None else f"to {high}"
    return Check(
        f"a whole number from {low} {to}",
        lambda value: type(value) is int and low <= value and (high is None or value <= high),
    )


def number(low: float = 0.0, high: float = inf, *, above: bool = True, infinite: bool = False) -> Check:
    """Return a check for an int or a float from `low` to `high`. A bool or NaN does not fit.

    Args:
        above: whether `low` itself is refused.
        infinite: whether `inf` is accepted.
    """
    words = f"a number {'above' if above else 'from'} {low:g}"
    if high < inf:
        words += f" to {high:g}"
    elif not above:
        words += " on"

    def fits(value: Any) -> bool:
        if type(value) not in (int, float) or not (isfinite(value) or (infinite and value == inf)):
            return False
        return bool(low < value <= high or (value == low and not above))

    return Check(words, fits)


def instance(*classes: type) -> Check:
    """Return a check for an instance of one of these classes."""
    return Check(" or ".join(cls.__name__ for cls in classes), lambda value: isinstance(value, classes))


def mapping(of: Check) -> Check:
    """Return a check for a mapping whose keys are `str` and whose values fit `of`."""

    def fits(value: object) -> bool:
        return isinstance(value, Mapping) and all(isinstance(key, str) and of.fits(value[key]) for key in value)

    return Check(f"a mapping from text to {of.wanted}", fits)


CALLABLE: Final = Check("a function", callable)


def check_time(name: str, value: object) -> None:
    """Raise `InvalidInput` unless a value is a finite number of seconds. A value with a NaN could not be stored."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise InvalidInput(f"'{name}' is a time in seconds, not {value!r:.40}")


def check_members(request: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse unknown members of a request, so that a misspelt one is not lost silently. Raises `InvalidInput`."""
    names = tuple(known)
    unknown = [name for name in request if name not in names]
    if unknown:
        raise InvalidInput(f"unknown member {unknown[0]!r}; known are {', '.join(names)}")


def checked(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Give each field the check that belongs to its annotation, unless the field has a validator. For `attrs.frozen`::

        @attrs.frozen(field_transformer=checked)

    An `int` has to be 1 or more, a `float` above 0, and both have to be finite.
    """
    return [field if field.validator is not None else field.evolve(validator=_of(field.type)) for field in fields]


def _of(annotation: object) -> Check | None:
    name, _, rest = str(annotation).partition(" | ")
    check = _BY_ANNOTATION.get(name)
    return check.or_none() if check is not None and rest == "None" else check


_BY_ANNOTATION: Final[dict[str, Check]] = {
    "int": whole(),
    "float": number(),
    "bool": Check("True or False", lambda value: type(value) is bool),
    "str": Check("text", lambda value: isinstance(value, str)),
    "tuple[str, ...]": Check(
        "a tuple of texts", lambda value: isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    ),
}
