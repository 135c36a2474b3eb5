"""The command ``mdash``, also as ``python -m mdashcore``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line. Without the extra that the command needs, say so in one line. Returns the exit code."""
    try:
        from mdashcore.cli import main as run
    except ModuleNotFoundError as exc:
        if exc.name != "click":
            raise
        print(f"Error: {exc}", file=sys.stderr)  # noqa: T201
        return 1  # as `mdashcore.cli.exits.Exit.FAILED`, which cannot be imported
    return run()


if __name__ == "__main__":
    sys.exit(main())
