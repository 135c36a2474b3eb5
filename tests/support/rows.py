"""Rows of a table that share what a test needs, such as a server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any


def every_row(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test with each row, one after the other, as one test: a failure says with which row.

    It takes the arguments of ``pytest.mark.parametrize``, which is for rows that need a server of their own each.
    """
    columns = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    table = [dict(zip(columns, row if len(columns) > 1 else (row,), strict=True)) for row in rows]
    assert table, "a test without rows tests nothing"

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        async def run_async(*self: Any, **given: Any) -> None:
            for row in table:
                try:
                    await test(*self, **given, **row)
                except BaseException as exc:
                    exc.add_note(f"in the row {row!r:.2000}")
                    raise

        def run(*self: Any, **given: Any) -> None:
            for row in table:
                try:
                    test(*self, **given, **row)
                except BaseException as exc:
                    exc.add_note(f"in the row {row!r:.2000}")
                    raise

        wrapped = run_async if inspect.iscoroutinefunction(test) else run
        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in columns]
        assert len(left) == len(signature.parameters) - len(columns), "a column that the test does not take"
        wrapped.__dict__.update(test.__dict__)
        wrapped.__name__, wrapped.__qualname__, wrapped.__doc__ = test.__name__, test.__qualname__, test.__doc__
        wrapped.__module__ = test.__module__
        wrapped.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return wrapped

    return decorate
